"""The folder or data set that a command's first word names."""

from pathlib import Path

from absl import flags

from simsiam_jax.data.datasets import DATASETS, FOLDER, dataset_title
from simsiam_jax.errors import require


def dataset_named(word: str) -> str:
    """The value of --dataset that a word stands for: a folder of images, or a known data set.

    Args:
      word: Path of a folder, `folder:PATH`, or the name of a data set, perhaps with a variant.

    Raises:
      InputError: If there is neither such a folder nor such a data set.
    """
    if word.startswith(FOLDER) or (word.partition(":")[0] in DATASETS and not Path(word).is_dir()):
        return word
    require(
        Path(word).expanduser().exists(),
        f"{word} is no folder and no data set; give a folder of images, or one of {', '.join(DATASETS)}",
    )
    return f"{FOLDER}{word}"


def take_folder(word: str | None, *, runs: str | None = None) -> None:
    """Lets a command's first word stand for --dataset, and names the default workdir after it.

    Args:
      word: The word; None leaves the flags alone.
      runs: Name of the command in the default workdir, `runs/NAME-FOLDER`; None where it has none.

    Raises:
      InputError: If the word names nothing, or --dataset is given too.
    """
    values = flags.FLAGS
    if word is not None:
        require(
            not values["dataset"].present,
            f"--dataset={values.dataset} and {word} are two ways to say one thing: give one",
        )
        values.dataset = dataset_named(word)
    if runs is not None and values.workdir is None:
        values.workdir = f"runs/{runs}-{dataset_title(values.dataset)}"
