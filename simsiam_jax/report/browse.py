"""Images that the page lets its reader leaf through: neighbours of test images, and test images that were told wrong.

Everything is in the page itself, as small data URIs. Leafing is done by radio buttons and CSS: it needs no JavaScript.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from simsiam_jax.records.experiment import ArmRecord, Experiment
from simsiam_jax.records.results import Result
from simsiam_jax.report.exhibit_files import Arrays, read_arrays_by_arm, same_labels, some_arms
from simsiam_jax.report.words import STAGE_WORDS, cut

# A thumbnail has at most 64 pixels a side and takes some 3 kB: all that a page may hold are about 2 MB.
_MOST_NEIGHBOURS, _MOST_MISTAKES = 500, 144
_ON_A_LEAF, _MISTAKES_ON_A_LEAF = 9, 12
_NAMED = 3  # attributes in a caption
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Thumbnail:
    """A small image.

    Attributes:
      uri: The image as a data URI.
      words: What it shows, in words.
      same: Whether its labels are those of the image beside it; None where they are not known of both.
    """

    uri: str
    words: str
    same: bool | None = None


@dataclass(frozen=True)
class Query:
    """A test image and its nearest labelled images.

    Attributes:
      image: The test image.
      lines: The nearest images under each arm, nearest first, by the arm's title.
    """

    image: Thumbnail
    lines: tuple[tuple[str, tuple[Thumbnail, ...]], ...]


@dataclass(frozen=True)
class Mistakes:
    """Test images that an arm told wrong.

    Attributes:
      arm: The arm's title.
      caption: How many there are and of what.
      leaves: Of each leaf the images, each with the words for what it is and what it was taken for.
    """

    arm: str
    caption: str
    leaves: tuple[tuple[tuple[Thumbnail, str, str], ...], ...]


def neighbour_leaves(
    workdir: Path, experiment: Experiment, results: Sequence[Result], notes: list[str]
) -> tuple[tuple[Query, ...], ...]:
    """Test images and their neighbours under each arm, in leaves of nine lines or a little more.

    Args:
      workdir: The run's folder.
      experiment: What the run is: its arms and classes.
      results: All results of the run. Only arms that have some are shown.
      notes: The notes, to which one for each unreadable file is added.
    """
    by_arm = read_arrays_by_arm(workdir, _measured(experiment, results), "knn/neighbours.npz", notes)
    if not by_arm:
        return ()
    try:
        first = by_arm[0][1]
        across = 1 + len(by_arm) * first["neighbours"].shape[1]
        count = min(_MOST_NEIGHBOURS // across, *(len(arrays["queries"]) for _, arrays in by_arm))
        queries = [
            Query(
                Thumbnail(_uri(first["queries"][row]), _named(experiment, first["query_labels"][row])),
                tuple((arm.title, _nearest(experiment, arrays, row)) for arm, arrays in by_arm),
            )
            for row in range(count)
        ]
    except (KeyError, IndexError, ValueError):
        notes.append("neighbours.npz cannot be read; it is left out")
        return ()
    return _in_leaves(queries, max(_ON_A_LEAF // len(by_arm), 2) if len(by_arm) > 1 else _ON_A_LEAF)


def _nearest(experiment: Experiment, arrays: Arrays, row: int) -> tuple[Thumbnail, ...]:
    mine = arrays["query_labels"][row]
    return tuple(
        Thumbnail(_uri(image), _named(experiment, label), same_labels(label, mine))
        for image, label in zip(arrays["neighbours"][row], arrays["neighbour_labels"][row], strict=True)
    )


def mistakes(
    workdir: Path, experiment: Experiment, results: Sequence[Result], notes: list[str]
) -> tuple[str, tuple[Mistakes, ...]]:
    """The test images that were told wrong: by fine-tuning if it ran, else by the probe, else by kNN.

    Args:
      workdir: The run's folder.
      experiment: What the run is: its arms and classes.
      results: All results of the run. Only arms that have some are shown.
      notes: The notes, to which one for each unreadable file is added.

    Returns:
      The evaluation, and the images of each arm's first seed; "" and none where no file says so.
    """
    arms = _measured(experiment, results)
    for stage in ("finetune", "linear", "knn"):
        by_arm = read_arrays_by_arm(workdir, arms, f"{stage}/mistakes.npz", notes)
        if by_arm:
            break
    else:
        return "", ()
    limit = _MOST_MISTAKES // len(by_arm)
    try:
        return stage, tuple(_mistakes_of(arm, experiment, arrays, stage, limit) for arm, arrays in by_arm)
    except (KeyError, IndexError, ValueError):
        notes.append("mistakes.npz cannot be read; it is left out")
        return "", ()


def _mistakes_of(arm: ArmRecord, experiment: Experiment, arrays: Arrays, stage: str, limit: int) -> Mistakes:
    wrong, total, shown = int(arrays["wrong"]), int(arrays["total"]), min(limit, len(arrays["images"]))
    images = []
    for image, truth, said in zip(
        arrays["images"][:shown], arrays["labels"][:shown], arrays["predicted"][:shown], strict=True
    ):
        if truth.ndim:
            off = np.flatnonzero((truth != said) & (truth >= 0))
            true, taken = (_listed(experiment, off[values[off] == 1]) for values in (truth, said))
            is_words, taken_words = f"missed: {true}" if true else "", f"wrongly: {taken}" if taken else ""
            images.append((Thumbnail(_uri(image), "a test image"), is_words, taken_words))
        else:
            name = _named(experiment, truth)
            images.append((Thumbnail(_uri(image), name), name, f"taken for {_named(experiment, said)}"))
    caption = f"{wrong} of {total} test images were told wrong"
    caption += " in at least one attribute" if arrays["labels"].ndim > 1 else ""
    caption += f" ({STAGE_WORDS[stage].name}, first seed)"
    caption += f"; here are the {shown} surest of these." if shown < wrong else "; the surest first." if wrong else "."
    return Mistakes(arm.title, caption, _in_leaves(images, _MISTAKES_ON_A_LEAF))


def _measured(experiment: Experiment, results: Sequence[Result]) -> list[ArmRecord]:
    measured = {result.arm for result in results}
    return some_arms([arm for arm in experiment.arms if arm.name in measured])


def _named(experiment: Experiment, label: Int[np.ndarray, "*attributes"] | np.integer) -> str:
    """The class's name, or those of the attributes that are present."""
    label = np.asarray(label)
    if label.ndim:
        return _listed(experiment, np.flatnonzero(label == 1)) or "none of the attributes"
    return "label not known" if label < 0 else _name(experiment, int(label))


def _listed(experiment: Experiment, places: Int[np.ndarray, " n"]) -> str:
    names = ", ".join(_name(experiment, int(place)) for place in places[:_NAMED])
    return names + (f" and {len(places) - _NAMED} more" if len(places) > _NAMED else "")


def _name(experiment: Experiment, place: int) -> str:
    names = experiment.class_names
    name = cut(names[place], 28) if place < len(names) else str(place)
    # Set apart, a name that is written from right to left turns no words around it.
    return name if name.isascii() else f"\u2068{name}\u2069"


def _in_leaves(items: Sequence[_Item], size: int) -> tuple[tuple[_Item, ...], ...]:
    return tuple(tuple(items[start : start + size]) for start in range(0, len(items), size))


def _uri(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """The image as a data URI: without loss where it is tiny, else as a JPEG."""
    file = io.BytesIO()
    tiny = max(image.shape[:2]) <= 32
    Image.fromarray(image).save(file, **({"format": "PNG"} if tiny else {"format": "JPEG", "quality": 82}))
    return f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(file.getvalue()).decode()}"
