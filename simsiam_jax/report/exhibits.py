"""What a run shows beside its numbers: sample images, augmented pairs, nearest neighbours and maps of features.

Everything is drawn from the small files that `simsiam_jax.study.exhibits` leaves in a workdir.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simsiam_jax.records.experiment import ArmRecord, Experiment
from simsiam_jax.records.results import Result
from simsiam_jax.report.confusion import confusion_picture
from simsiam_jax.report.exhibit_files import Arrays, read_arrays, read_arrays_by_arm, same_labels, some_arms
from simsiam_jax.report.style import (
    ARM_COLOURS,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    RIGHT,
    WRONG,
    Picture,
    shorten,
    styled,
)

_QUERIES_SHOWN, _NEIGHBOURS_SHOWN = 5, 5
_WIDTH = 7.2  # inches: these pictures stand alone in the page


def exhibit_pictures(
    workdir: Path, experiment: Experiment, results: Sequence[Result]
) -> tuple[list[Picture], list[str]]:
    """The pictures that a run's files allow, and a note for each file that cannot be read.

    Args:
      workdir: The run's folder.
      experiment: What the run is: its arms and classes.
      results: All results of the run. Only arms that have some are drawn.
    """
    measured = {result.arm for result in results}
    shown = [arm for arm in experiment.arms if arm.name in measured]
    notes: list[str] = []
    found = [
        _samples(workdir, experiment, notes),
        _pairs(workdir, notes),
        _neighbours(workdir, shown, notes),
        _map(workdir, experiment, shown, notes),
        confusion_picture(workdir, experiment, shown, notes),
    ]
    return [picture for picture in found if picture is not None], notes


def _samples(workdir: Path, experiment: Experiment, notes: list[str]) -> Picture | None:
    arrays = read_arrays(workdir, "samples.npz", notes)
    if arrays is None:
        return None
    images, labels = arrays["images"], arrays["labels"]
    columns = 12
    rows = -(-len(images) // columns)
    with styled():
        figure = Figure(figsize=(_WIDTH, 0.86 * rows))
        grid = figure.add_gridspec(rows, columns, left=0, right=1, bottom=0.01, top=0.9, wspace=0.08, hspace=0.42)
        for index, image in enumerate(images):
            axes = figure.add_subplot(grid[index // columns, index % columns])
            _show(axes, image)
            first = labels.ndim == 1 and (index == 0 or labels[index] != labels[index - 1])
            if first and labels[index] >= 0:
                axes.set_title(_class_name(experiment, int(labels[index]), 11), fontsize=7, color=MUTED, pad=2)
    return Picture(
        "samples",
        figure,
        "Sample images of the training set",
        "Some of the labelled images" + (", a few of each class." if labels.ndim == 1 else "."),
    )


def _pairs(workdir: Path, notes: list[str]) -> Picture | None:
    arrays = read_arrays(workdir, "pairs.npz", notes)
    if arrays is None:
        return None
    try:
        originals, view1, view2 = arrays["originals"], arrays["view1"], arrays["view2"]
        same = originals.ndim == view1.ndim == view2.ndim == 4 and len(originals) == len(view1) == len(view2) > 0
        if not same or originals.dtype != np.uint8 or {each.shape[-1] for each in (originals, view1, view2)} != {3}:
            raise ValueError("these are no pairs of images")
    except (KeyError, ValueError):
        notes.append("pairs.npz cannot be read; it is left out")
        return None
    return Picture(
        "pairs",
        augmented_pairs(originals, view1.astype(np.float32), view2.astype(np.float32)),
        "Images beside their two augmented views",
        "What pretraining compares: the network is to give both views of an image the same representation.",
    )


def augmented_pairs(
    originals: UInt8[np.ndarray, "images height width 3"],
    view1: Float[np.ndarray, "images size size 3"],
    view2: Float[np.ndarray, "images size size 3"],
    columns: int = 2,
    limit: int = 8,
) -> Figure:
    """A sheet of images and the two views that SimSiam compares (section 3): original, view 1, view 2.

    Args:
      originals: The images, 0..255.
      view1: The images' first views before normalisation, 0..1.
      view2: The images' second views before normalisation, 0..1.
      columns: The number of triples beside each other, at least 1.
      limit: The number of images that are shown at most, at least 1.
    """
    count = min(len(originals), limit)
    rows = -(-count // columns)
    size = 1.02  # inches of an image
    with styled():
        figure = Figure(figsize=(size * (3 * columns + 0.35 * (columns - 1)), size * rows + 0.3))
        widths = ([1.0] * 3 + [0.3]) * columns
        grid = figure.add_gridspec(
            rows, 4 * columns - 1, width_ratios=widths[:-1], left=0.005, right=0.995, bottom=0.01,
            top=1 - 0.27 / (size * rows + 0.3), wspace=0.06, hspace=0.06,
        )  # fmt: skip
        for index in range(count):
            row, column = index % rows, index // rows
            for place, (name, images) in enumerate((("original", originals), ("view 1", view1), ("view 2", view2))):
                axes = figure.add_subplot(grid[row, 4 * column + place])
                image = images[index] if images.dtype == np.uint8 else np.clip(images[index], 0, 1)
                axes.imshow(image, interpolation="none")
                axes.set_axis_off()
                if row == 0:
                    axes.set_title(name, fontsize=9, color=MUTED, loc="left", pad=4)
    return figure


def _neighbours(workdir: Path, arms: Sequence[ArmRecord], notes: list[str]) -> Picture | None:
    by_arm = read_arrays_by_arm(workdir, some_arms(arms), "knn/neighbours.npz", notes)
    if not by_arm:
        return None
    blocks = _neighbour_blocks(by_arm)
    lines = max(len(queries) for _, _, queries in blocks)
    across = 2
    down = -(-len(blocks) // across)
    with styled():
        figure = Figure(figsize=(_WIDTH, down * (0.61 * lines + 0.3)))
        outer = figure.add_gridspec(
            down, across, left=0.005, right=0.995, bottom=0.01, top=0.99, wspace=0.06, hspace=0.04
        )
        for place, (title, arrays, queries) in enumerate(blocks):
            inner = outer[place // across, place % across].subgridspec(
                lines + 1, 1 + _NEIGHBOURS_SHOWN, height_ratios=[0.45, *[1] * lines], wspace=0.08, hspace=0.1
            )
            heading = figure.add_subplot(inner[0, :])
            heading.set_axis_off()
            heading.text(0, 0.1, shorten(title, 52), fontsize=8.5, color=INK)
            for row, query in enumerate(queries):
                _show(figure.add_subplot(inner[row + 1, 0]), arrays["queries"][query], INK, 1.6)
                for column in range(min(_NEIGHBOURS_SHOWN, arrays["neighbours"].shape[1])):
                    same = same_labels(arrays["neighbour_labels"][query, column], arrays["query_labels"][query])
                    axes = figure.add_subplot(inner[row + 1, column + 1])
                    colour = MUTED if same is None else RIGHT if same else WRONG
                    _show(axes, arrays["neighbours"][query, column], colour, 1.4)
                    if same is False:
                        axes.text(0.06, 0.06, "×", transform=axes.transAxes, color=WRONG, fontsize=9, weight="bold")
    return Picture(
        "neighbours",
        figure,
        "Test images and their nearest neighbours under each arm",
        "First of each line a test image, then the labelled images whose features are nearest (cosine, first seed); "
        "a cross marks those with other labels, where both are known.",
    )


def _neighbour_blocks(by_arm: Sequence[tuple[ArmRecord, Arrays]]) -> list[tuple[str, Arrays, list[int]]]:
    """What stands beside each other: a title, an arm's arrays, and which of its test images are shown.

    The images are evenly over the classes, so that the first classes are not all that is seen. A single arm has two
    blocks, so that images have the same size whatever the number of arms.
    """

    def chosen(arrays: Arrays, count: int) -> list[int]:
        known = len(arrays["queries"])
        return np.linspace(0, known - 1, min(count, known)).round().astype(int).tolist()

    if len(by_arm) > 1:
        count = min(_QUERIES_SHOWN, *(len(arrays["queries"]) for _, arrays in by_arm))
        return [(arm.title, arrays, chosen(arrays, count)) for arm, arrays in by_arm]
    ((arm, arrays),) = by_arm
    queries = chosen(arrays, 2 * _QUERIES_SHOWN)
    half = -(-len(queries) // 2)
    return [(arm.title, arrays, queries[:half]), ("", arrays, queries[half:])]


def _map(workdir: Path, experiment: Experiment, arms: Sequence[ArmRecord], notes: list[str]) -> Picture | None:
    by_arm = read_arrays_by_arm(workdir, some_arms(arms), "knn/map.npz", notes)
    if not by_arm:
        return None
    across = min(3, len(by_arm))
    down = -(-len(by_arm) // across)
    side = _WIDTH / across
    # Attributes are too many for one map: it shows whether the first one is there.
    labels = {arm.name: arrays["labels"].reshape(len(arrays["labels"]), -1)[:, 0] for arm, arrays in by_arm}
    values = sorted({int(value) for column in labels.values() for value in column if value >= 0})
    with styled():
        figure = Figure(figsize=(_WIDTH, down * side + 0.5), layout="constrained")
        panels = np.ravel(np.asarray(figure.subplots(down, across, squeeze=False)))
        for axes in panels:
            axes.set_axis_off()
        for axes, (arm, arrays) in zip(panels, by_arm, strict=False):
            axes.set_title(shorten(arm.title, int(16 * side)), fontsize=8.5)
            for index, value in enumerate(values):
                rows = labels[arm.name] == value
                axes.plot(*arrays["positions"][rows].T, label=None, **_class_style(index))
        handles = [panels[0].plot([], [], **_class_style(index))[0] for index in range(len(values))]
        names = [_value_name(experiment, value) for value in values]
        figure.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)), markerscale=1.6, fontsize=8)
    return Picture(
        "map",
        figure,
        "Two-dimensional maps of the test images' features under each arm",
        "t-SNE of the directions of frozen features (first seed): near points have like features; distances between "
        "groups say nothing." + ("" if experiment.label_kind != "attributes" else " Coloured by the first attribute."),
    )


def _class_style(index: int) -> dict[str, Any]:
    """A class's colour and marker: told apart without colours too."""
    colours = ARM_COLOURS[1:]
    # Where colours begin again, other markers do.
    marker = MARKERS[(index + 3 * (index // len(colours))) % len(MARKERS)]
    colour = colours[index % len(colours)]
    return {"linestyle": "", "marker": marker, "color": colour, "markersize": 2.6, "markeredgewidth": 0}


def _show(axes: Axes, image: UInt8[np.ndarray, "height width 3"], frame: str = PAPER, width: float = 0.0) -> None:
    axes.imshow(image, interpolation="none")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=width > 0, color=frame, linewidth=width)


def _class_name(experiment: Experiment, label: int, length: int) -> str:
    names = experiment.class_names
    return shorten(names[label] if label < len(names) else str(label), length)


def _value_name(experiment: Experiment, value: int) -> str:
    if experiment.label_kind == "attributes":
        first = experiment.class_names[0] if experiment.class_names else "the first attribute"
        return f"{first}: {'yes' if value else 'no'}"
    return _class_name(experiment, value, 18)
