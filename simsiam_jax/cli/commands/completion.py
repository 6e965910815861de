"""Prints a script that lets a shell complete commands, flags, values and folders by the tab key.

Example: simsiam completion bash > ~/.local/share/bash-completion/completions/simsiam
         simsiam completion zsh > ~/.zfunc/_simsiam         (a folder of $fpath)

A new shell has it. The script is made from the flags' declarations: print it anew after an update.
"""

import argparse
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import shtab
from absl import flags

from simsiam_jax.cli.commands import study, tables
from simsiam_jax.cli.flags import choices_of
from simsiam_jax.cli.main import COMMANDS
from simsiam_jax.errors import require

WORDS = ("SHELL",)
SHELLS = ("bash", "zsh")

# What the values of flags name on disk; other flags take numbers and names.
_FOLDERS = ("checkpoint", "data_dir", "imagenet_weights", "manual_dir", "workdir")
_FILES = ("init", "labels", "out")

# shtab completes `--flag value`. Of `--flag=value` readline makes three words, and this makes two of them again.
_EQUALS_SIGN = """
_simsiam_with_equals_sign() {
  local -a words=()
  local place each=$COMP_CWORD
  for place in "${!COMP_WORDS[@]}"; do
    if [[ "${COMP_WORDS[place]}" != "=" ]]; then
      words+=("${COMP_WORDS[place]}")
    elif ((place == COMP_CWORD)); then
      words+=("")
    elif ((place < COMP_CWORD)); then
      ((each--))
    fi
  done
  COMP_WORDS=("${words[@]}") COMP_CWORD=$each
  _shtab_simsiam "$1" "${words[each]}" "${words[each - 1]}"
}
complete -o bashdefault -F _simsiam_with_equals_sign simsiam
"""


def define() -> None:
    """Defines no flags."""


def main(shell: str) -> None:
    """Prints the script of a shell."""
    require(shell in SHELLS, f"there is no completion for {shell!r}; known: {', '.join(SHELLS)}")
    print(shtab.complete(parser(), shell) + (_EQUALS_SIGN if shell == "bash" else ""))


def parser() -> argparse.ArgumentParser:
    """The command line of `simsiam` as argparse describes it; nothing is parsed with it."""
    whole = argparse.ArgumentParser("simsiam")
    whole.add_argument("--version", action="store_true")
    commands = whole.add_subparsers()
    for name, words in COMMANDS.items():
        module: Any = importlib.import_module(f"simsiam_jax.cli.commands.{name}")
        one = commands.add_parser(name, help=words.replace("%", "%%"))
        if module is tables:
            one.add_argument("name", nargs="?", choices=list(tables.experiments()))
        elif name == "completion":
            one.add_argument("shell", nargs="?", choices=SHELLS)
        else:
            for word in module.WORDS if hasattr(module, "WORDS") else ():
                _completed(one.add_argument(word.strip("[]").lower(), nargs="?"), shtab.DIRECTORY)
        # Most experiments have the flags of a study.
        for flag in _flags_of(study if module is tables else module):
            _add(one, flag, _choices(flag.name, module))
    return whole


def _flags_of(command: Any) -> Iterator[Any]:
    """The flags that a command defines, which are forgotten again."""
    known = set(flags.FLAGS)
    command.define()
    for name in [name for name in flags.FLAGS if name not in known]:
        yield flags.FLAGS[name]
        delattr(flags.FLAGS, name)


def _choices(name: str, command: Any) -> Sequence[str]:
    comparison = getattr(command, "COMPARISON", None)
    if name == "arms" and comparison is not None:
        return list(comparison.arms)
    return choices_of(name)


def _add(one: argparse.ArgumentParser, flag: Any, choices: Sequence[str]) -> None:
    words = str(flag.help).replace("%", "%%")
    if flag.boolean:
        one.add_argument(f"--{flag.name}", action="store_true", help=words)
        one.add_argument(f"--no{flag.name}", action="store_true", help=words)
        return
    added = one.add_argument(f"--{flag.name}", help=words, choices=choices or None)
    if flag.name in (*_FOLDERS, *_FILES):
        _completed(added, shtab.DIRECTORY if flag.name in _FOLDERS else shtab.FILE)


def _completed(added: Any, how: Mapping[str, Any]) -> None:
    added.complete = how
