"""Compiles our programs for an H100 on a machine without one, and counts what is in them.

`target.py` describes the card, and `programs.py` says what is compiled. `program_text.py` reads XLA's text of the
compiled program, `kernels.py` finds what each of its kernels costs, and `counts.py` adds up a step. `launches.py` reads
what the host does. `record.py` puts these together, and `table.py` shows them.
"""
