"""Recorded runs, and the README made from them: `python -m experiments.results`.

`recorded.py` reads a run, `claims.py` holds the paper's claims against the runs, and `page.py` writes the README.
"""
