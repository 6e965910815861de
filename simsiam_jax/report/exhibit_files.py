"""Reads the small files that `simsiam_jax.study.exhibits` leaves in a workdir. An unreadable file is left out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from simsiam_jax import files
from simsiam_jax.records.experiment import ArmRecord

Arrays = dict[str, np.ndarray]
# More arms would be too small to be told apart.
_MOST_ARMS = 8


def some_arms(arms: Sequence[ArmRecord]) -> list[ArmRecord]:
    """The arms to draw: those of the first groups, as many whole groups as there is room for."""
    chosen: list[ArmRecord] = []
    for group in dict.fromkeys(arm.group for arm in arms):
        members = [arm for arm in arms if arm.group == group]
        if not chosen or len(chosen) + len(members) <= _MOST_ARMS:
            chosen += members
    return chosen[:_MOST_ARMS]


def read_arrays(workdir: Path, pattern: str, notes: list[str]) -> Arrays | None:
    """The arrays of the first readable file; None where there is none.

    Args:
      workdir: The run's folder.
      pattern: The pattern of an npz file's path inside the workdir.
      notes: The notes, to which one for each unreadable file is added.
    """
    found = _read(workdir, pattern, files.read_arrays, notes)
    return found[0] if found else None


def read_arrays_by_arm(
    workdir: Path, arms: Sequence[ArmRecord], name: str, notes: list[str]
) -> list[tuple[ArmRecord, Arrays]]:
    """The arrays of each arm that has some, of its first seed.

    Args:
      workdir: The run's folder.
      arms: The arms to look for.
      name: The file's path inside a seed's folder.
      notes: The notes, to which one for each unreadable file is added.
    """
    found = [(arm, read_arrays(workdir, f"{arm.name}/seed-*/{name}", notes)) for arm in arms]
    return [(arm, arrays) for arm, arrays in found if arrays is not None]


def read_counts(workdir: Path, arm: ArmRecord, notes: list[str]) -> tuple[str, Int[np.ndarray, "lines columns"] | None]:
    """The counts of an arm's confusion.json files, summed over its seeds.

    Args:
      workdir: The run's folder.
      arm: The arm.
      notes: The notes, to which one for each unreadable file is added.

    Returns:
      What was counted (`classes` or `attributes`), and the counts; None for them where there is no file.
    """

    def read(path: Path) -> tuple[str, np.ndarray]:
        ((kind, counts),) = files.read_sealed(path).items()
        counts = np.asarray(counts)
        if counts.ndim != 2 or counts.dtype.kind != "i":
            raise ValueError("this is no matrix of counts")
        return kind, counts

    found = _read(workdir, f"{arm.name}/seed-*/finetune/confusion.json", read, notes)
    same = [counts for kind, counts in found if kind == found[0][0] and counts.shape == found[0][1].shape]
    return (found[0][0], np.sum(same, axis=0)) if found else ("", None)


def same_labels(
    ours: Int[np.ndarray, "*attributes"] | np.integer, theirs: Int[np.ndarray, "*attributes"] | np.integer
) -> bool | None:
    """Whether two images have the same class, or the same attributes as far as they are known of both.

    Args:
      ours: The class or the attributes of one image; -1 stands for an unknown one.
      theirs: The same of the other image.

    Returns:
      None where nothing is known of both images.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    known = (ours >= 0) & (theirs >= 0)
    return bool((ours == theirs)[known].all()) if known.any() else None


def _read(workdir: Path, pattern: str, read: Callable[[Path], Any], notes: list[str]) -> list[Any]:
    found = []
    for path in sorted(workdir.glob(pattern)):
        try:
            found.append(read(path))
        except (OSError, ValueError):
            notes.append(f"{path.relative_to(workdir)} cannot be read; it is left out")
    return found
