"""Our pretraining measured beside PyTorch's, alternating in one run: `python -m experiments.benchmark`.

`contest.py` runs contenders by turns, each in a process of its own; `entrants.py` says which; `stages.py` is what ours
do, `flops.py` counts what that takes, and `table.py` turns rounds into numbers.
"""
