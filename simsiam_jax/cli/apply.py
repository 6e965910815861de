"""Applies a trained network to a folder of images: its flags, the batches with a progress bar, the file to write."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simsiam_jax import stopping
from simsiam_jax.cli.flags import value
from simsiam_jax.data.datasets import FOLDER
from simsiam_jax.data.folder_images import in_order
from simsiam_jax.data.folders import Listing, list_images
from simsiam_jax.errors import InputError, require
from simsiam_jax.files import written_whole
from simsiam_jax.inference import Model
from simsiam_jax.study.programs import EVALUATION_BATCH
from simsiam_jax.terminal import Console

# Flags of the commands that apply a network.
FLAGS = ("checkpoint", "out", "max_bad_images")


class Outputs(NamedTuple):
    """What a network says of some images.

    Attributes:
      names: Names of the images' files, relative to the folder.
      values: A row of numbers for each of them.
    """

    names: Sequence[str]
    values: np.ndarray


def images_word(folder: str) -> Listing:
    """The images of the folder that a command's word names.

    Raises:
      InputError: If there is no such folder, or no image in it.
    """
    return list_images(Path(folder.removeprefix(FOLDER)))


def out_flag(endings: Sequence[str]) -> Path:
    """The file that --out names, which must not exist.

    Args:
      endings: The endings that it may have.

    Raises:
      InputError: If the flag is missing, has another ending, or names something that is there.
    """
    given = value("out")
    words = " or ".join(endings)
    require(bool(given), f"--out=FILE{endings[0]} is needed: where to write ({words})")
    out = Path(given).expanduser().absolute()
    require(out.suffix.lower() in endings, f"--out={given}: the name must end in {words}")
    require(not os.path.lexists(out), f"--out={out} exists: give a new name, nothing is overwritten")
    return out


def images_words(rows: int, listing: Listing) -> str:
    """So many images, and how many files of the folder could not be read."""
    total = len(listing.files)
    skipped = f"; {total - rows:,} of {total:,} could not be read" if rows < total else ""
    return f"{rows:,} {'image' if rows == 1 else 'images'}{skipped}"


@contextlib.contextmanager
def written_out(out: Path) -> Iterator[Path]:
    """A path to write to in place of --out, as `files.written_whole` has it.

    Raises:
      InputError: If it cannot be written.
    """
    try:
        with written_whole(out) as temporary:
            yield temporary
    except OSError as fault:
        raise InputError(f"--out={out} cannot be written ({fault.strerror or fault}): choose another") from None


def over_images(model: Model, listing: Listing, outputs: Callable[[Any], np.ndarray]) -> Iterator[Outputs]:
    """What a network gives for every image of a folder, in the order of the names, batch by batch.

    Args:
      model: The network.
      listing: The images.
      outputs: Function of the model from uint8 images to rows of numbers.

    Raises:
      InputError: If too many images are unreadable.
      stopping.Stopped: Between two batches, if a signal asks for it.
    """
    share = value("max_bad_images")
    batches = in_order(
        listing,
        size=model.stored_size,
        batch_size=EVALUATION_BATCH,
        max_bad_images=model.trained.config.max_bad_images if share is None else share,
    )
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(listing.root.name.replace("[", r"\["), total=len(listing.files))
        for batch in batches:
            stopping.check()
            yield Outputs(batch.names, outputs(batch.images))
            bar.advance(task, len(batch.names) + batch.skipped)
