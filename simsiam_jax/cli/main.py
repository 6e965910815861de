"""The command `simsiam`: its first word names one of the modules of `cli.commands`."""

import difflib
import importlib
import sys
from typing import Any

# Each command and its line in the list; the order is that in which a person needs them.
COMMANDS = {
    "study": "does pretraining help on a folder of images? Three arms, as many seeds as the answer takes, a report",
    "pretrain": "pretrains a backbone and leaves a checkpoint",
    "evaluate": "measures checkpoints beside the untrained network: kNN, linear probe, fine-tuning",
    "embed": "writes the features of a folder's images by a trained network",
    "predict": "writes the classes of a folder's images by a fine-tuned network, with probabilities",
    "export": "writes a checkpoint as weights for timm and as a program for jax alone",
    "report": "builds the report of a run again",
    "prepare": "decodes a data set into the cache; lists and cleans the cache",
    "tables": "runs the paper's tables and the other experiments",
    "completion": "prints a script for tab completion in bash or zsh",
}
_HELP = {"--help", "-help", "-h", "--helpshort", "help"}
_VERSION = {"--version", "-V"}


def overview() -> str:
    """What `simsiam --help` prints."""
    from simsiam_jax import __version__

    lines = [f"  simsiam {name:11} {words}" for name, words in COMMANDS.items()]
    return "\n".join(
        [
            f"simsiam_jax {__version__}: does self-supervised pretraining help on my images, by how much, and with",
            "which backbone?",
            "",
            "Example: simsiam study photos              (a folder of images for each class in the folder photos)",
            "",
            *lines,
            "",
            "simsiam COMMAND --help begins with an example and lists the flags.",
        ]
    )


def main() -> None:
    """Runs the command that the command line names. Does not return."""
    words = sys.argv[1:]
    if not words or words[0] in _HELP:
        print(overview())
        sys.exit(0 if words else 2)
    name, *rest = words
    if name in _VERSION:
        from simsiam_jax import __version__

        print(f"simsiam_jax {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "known are " + ", ".join(COMMANDS)
        print(f"error: simsiam has no command {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    # Only now: the list above is there at once, where a command first imports jax.
    from simsiam_jax.cli.guard import fail, run_command
    from simsiam_jax.errors import InputError

    sys.argv = [f"simsiam {name}", *rest]
    command: Any = importlib.import_module(f"simsiam_jax.cli.commands.{name}")
    if name != "tables":
        run_command(command)
    try:
        # The flags are those of the experiment that the next word names.
        command.run_words(rest)
    except InputError as mistake:
        fail(str(mistake))


if __name__ == "__main__":
    main()
