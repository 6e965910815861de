"""Measures our pretraining beside PyTorch's, by turns in one run: `python -m experiments.benchmark`.

`entrants.py` says who takes part, `contest.py` runs them by turns in processes of their own, and `table.py` turns
rounds into numbers. `stages.py` holds our side, `torch_training.py` PyTorch's, and `flops.py` counts what a stage
computes.
"""
