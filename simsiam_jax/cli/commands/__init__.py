"""The commands of `simsiam`, a module each.

A command's docstring is its help and begins with an example. `define()` defines its flags and `main(*words)` runs it.
`WORDS` names the words that it takes beside flags; one in brackets may be left out. `values()` gives the value of each
setting under the chosen recipe and preset, for `--help`.
"""
