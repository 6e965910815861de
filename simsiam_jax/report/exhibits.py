"""What a run shows beside its numbers: sample images, nearest neighbours, maps of features, confusion matrices.

Drawn from the small files that `simsiam_jax.study.exhibits` leaves in a workdir, and from nothing else.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simsiam_jax.records.experiment import ArmRecord, Experiment
from simsiam_jax.records.results import Result
from simsiam_jax.report.figures import (
    ARM_COLOURS,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    RULE,
    shorten,
    styled,
)
from simsiam_jax.report.picture import Picture

# More would be too small to be told apart: the arms of the first groups.
_MOST_ARMS = 8
_QUERIES_SHOWN, _NEIGHBOURS_SHOWN = 5, 5
_WIDTH = 7.2  # inches: these stand alone in the page


def pictures(workdir: Path, experiment: Experiment, results: Sequence[Result]) -> tuple[list[Picture], list[str]]:
    """The exhibits of a run, and a note for each file that cannot be read.

    Args:
      workdir: The run's folder.
      experiment: Its arms and classes.
      results: Its lines: only arms that have some are looked for.
    """
    shown = [arm for arm in experiment.arms if any(result.arm == arm.name for result in results)]
    notes: list[str] = []
    found: list[Picture] = []
    for draw in (_samples, _neighbours, _map, _confusion):
        picture = draw(workdir, experiment, shown, notes)
        found += [picture] if picture else []
    return found, notes


def _samples(workdir: Path, experiment: Experiment, arms: Sequence[ArmRecord], notes: list[str]) -> Picture | None:
    arrays = _first(_arrays(workdir, "samples.npz", notes))
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


def _neighbours(workdir: Path, experiment: Experiment, arms: Sequence[ArmRecord], notes: list[str]) -> Picture | None:
    by_arm = _by_arm(workdir, _of_few(arms), "knn/neighbours.npz", notes)
    if not by_arm:
        return None
    queries = min(_QUERIES_SHOWN, *(len(arrays["queries"]) for _, arrays in by_arm))
    block = 1 + _NEIGHBOURS_SHOWN
    across = min(2, len(by_arm))
    down = -(-len(by_arm) // across)
    with styled():
        figure = Figure(figsize=(_WIDTH, down * (0.53 * queries + 0.3)))
        outer = figure.add_gridspec(
            down, across, left=0.005, right=0.995, bottom=0.01, top=0.99, wspace=0.06, hspace=0.04
        )
        for place, (arm, arrays) in enumerate(by_arm):
            inner = outer[place // across, place % across].subgridspec(
                queries + 1, block, height_ratios=[0.45, *[1] * queries], wspace=0.08, hspace=0.1
            )
            heading = figure.add_subplot(inner[0, :])
            heading.set_axis_off()
            heading.text(0, 0.1, shorten(arm.title, 52), fontsize=8.5, color=INK)
            # Evenly over the classes, so that the first ones are not all that is seen.
            for row, query in enumerate(np.linspace(0, len(arrays["queries"]) - 1, queries).round().astype(int)):
                _show(figure.add_subplot(inner[row + 1, 0]), arrays["queries"][query], INK, 1.6)
                wanted = arrays["query_labels"][query]
                for column in range(min(_NEIGHBOURS_SHOWN, arrays["neighbours"].shape[1])):
                    same = np.array_equal(arrays["neighbour_labels"][query, column], wanted)
                    axes = figure.add_subplot(inner[row + 1, column + 1])
                    _show(axes, arrays["neighbours"][query, column], ARM_COLOURS[3] if same else ARM_COLOURS[1], 1.4)
                    if not same:
                        axes.text(
                            0.06, 0.06, "×", transform=axes.transAxes, color=ARM_COLOURS[1], fontsize=9, weight="bold"
                        )
    return Picture(
        "neighbours",
        figure,
        "Test images and their nearest neighbours under each arm",
        "First of each line a test image, then the labelled images whose features are nearest (cosine, first seed); "
        "a cross marks those with other labels.",
    )


def _map(workdir: Path, experiment: Experiment, arms: Sequence[ArmRecord], notes: list[str]) -> Picture | None:
    by_arm = _by_arm(workdir, _of_few(arms), "knn/map.npz", notes)
    if not by_arm:
        return None
    across = min(3, len(by_arm))
    down = -(-len(by_arm) // across)
    side = _WIDTH / across
    # Of attributes, whether the first one is there.
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
                axes.plot(*arrays["positions"][rows].T, label=None, **_sign(index))
        handles = [panels[0].plot([], [], **_sign(index))[0] for index in range(len(values))]
        names = [_value_name(experiment, value) for value in values]
        figure.legend(handles, names, loc="outside lower center", ncols=min(5, len(names)), markerscale=1.6, fontsize=8)
    return Picture(
        "map",
        figure,
        "Two-dimensional maps of the test images' features under each arm",
        "t-SNE of the directions of frozen features (first seed): near points have like features; distances between "
        "groups say nothing." + ("" if experiment.label_kind != "attributes" else " Coloured by the first attribute."),
    )


def _confusion(workdir: Path, experiment: Experiment, arms: Sequence[ArmRecord], notes: list[str]) -> Picture | None:
    found = [(arm, _counts(workdir, arm, notes)) for arm in _of_few(arms)]
    by_arm = [(arm, kind, counts) for arm, (kind, counts) in found if counts is not None]
    if not by_arm:
        return None
    classes = by_arm[0][1] == "classes"
    across = min(2 if len(by_arm[0][2]) > 4 else 3, len(by_arm))
    down = -(-len(by_arm) // across)
    side = _WIDTH / across
    with styled():
        figure = Figure(figsize=(_WIDTH, down * side * (0.92 if classes else 0.62)), layout="constrained")
        panels = np.ravel(np.asarray(figure.subplots(down, across, squeeze=False)))
        for axes in panels[len(by_arm) :]:
            axes.set_axis_off()
        for axes, (arm, _, counts) in zip(panels, by_arm, strict=False):
            headings = experiment.class_names if classes else ("found", "false alarm", "missed", "rightly absent")
            lines = experiment.class_names or tuple(map(str, range(len(counts))))
            _matrix(axes, counts, lines, headings or lines)
            axes.set_title(shorten(arm.title, int(14 * side)), fontsize=8.5)
    return Picture(
        "confusion",
        figure,
        "Confusion matrices of fine-tuning",
        "Test images after fine-tuning, in % of each line, over all seeds: "
        + ("lines are true classes, columns what was predicted." if classes else "a line for each attribute."),
    )


def _matrix(
    axes: Axes, counts: Int[np.ndarray, "lines columns"], lines: Sequence[str], headings: Sequence[str]
) -> None:
    """Shares of each line as squares whose area is the share, with their numbers."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 6.5 if max(shares.shape) <= 6 else 5.5
    for row, column in np.ndindex(*shares.shape):
        share = shares[row, column]
        colour = ARM_COLOURS[2] if row == column or len(headings) != len(lines) else ARM_COLOURS[1]
        half = 0.48 * np.sqrt(share)
        axes.fill_between([column - half, column + half], row - half, row + half, color=colour, alpha=0.4, linewidth=0)
        if share >= 0.005:
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=size, color=INK)
    axes.set(xlim=(-0.5, shares.shape[1] - 0.5), ylim=(shares.shape[0] - 0.5, -0.5), aspect="auto")
    axes.set_xticks(
        range(shares.shape[1]), [shorten(name, 13) for name in headings], rotation=55, ha="right", fontsize=6.5
    )
    axes.set_yticks(range(shares.shape[0]), [shorten(name, 15) for name in lines], fontsize=6.5)
    axes.set_xticks(np.arange(shares.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(shares.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=RULE)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _sign(index: int) -> dict[str, Any]:
    """A class's colour and marker: told apart without colours too."""
    colours = ARM_COLOURS[1:]
    # Where colours begin again, other markers do.
    marker = MARKERS[(index + 3 * (index // len(colours))) % len(MARKERS)]
    colour = colours[index % len(colours)]
    return {"linestyle": "", "marker": marker, "color": colour, "markersize": 2.6, "markeredgewidth": 0}


def _show(axes: Axes, image: UInt8[np.ndarray, "height width 3"], frame: str = PAPER, width: float = 0.0) -> None:
    axes.imshow(image, interpolation="none", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=width > 0, color=frame, linewidth=width)


def _of_few(arms: Sequence[ArmRecord]) -> list[ArmRecord]:
    """The arms to draw: of no more groups than there is room for, a first group as a whole."""
    chosen: list[ArmRecord] = []
    for group in dict.fromkeys(arm.group for arm in arms):
        members = [arm for arm in arms if arm.group == group]
        if not chosen or len(chosen) + len(members) <= _MOST_ARMS:
            chosen += members
    return chosen[:_MOST_ARMS]


def _by_arm(
    workdir: Path, arms: Iterable[ArmRecord], name: str, notes: list[str]
) -> list[tuple[ArmRecord, dict[str, np.ndarray]]]:
    found = [(arm, _first(_arrays(workdir, f"{arm.name}/seed-*/{name}", notes))) for arm in arms]
    return [(arm, arrays) for arm, arrays in found if arrays is not None]


def _first(found: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray] | None:
    return found[0] if found else None


def _arrays(workdir: Path, pattern: str, notes: list[str]) -> list[dict[str, np.ndarray]]:
    def read(path: Path) -> dict[str, np.ndarray]:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)

    return _read(workdir, pattern, read, notes)


def _counts(workdir: Path, arm: ArmRecord, notes: list[str]) -> tuple[str, Int[np.ndarray, "lines columns"] | None]:
    """What was counted, and the counts of an arm, summed over its seeds."""

    def read(path: Path) -> tuple[str, np.ndarray]:
        ((kind, counts),) = json.loads(path.read_text()).items()
        counts = np.asarray(counts)
        if counts.ndim != 2 or counts.dtype.kind != "i":
            raise ValueError("no matrix of counts")
        return kind, counts

    found = _read(workdir, f"{arm.name}/seed-*/finetune/confusion.json", read, notes)
    same = [counts for kind, counts in found if kind == found[0][0] and counts.shape == found[0][1].shape]
    return (found[0][0], np.sum(same, axis=0)) if found else ("", None)


def _read(workdir: Path, pattern: str, read: Callable[[Path], Any], notes: list[str]) -> list[Any]:
    found = []
    for path in sorted(workdir.glob(pattern)):
        try:
            found.append(read(path))
        except (OSError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
            notes.append(f"{path.name} of {path.parent.name} cannot be read; it is left out")
    return found


def _class_name(experiment: Experiment, label: int, length: int) -> str:
    names = experiment.class_names
    return shorten(names[label] if label < len(names) else str(label), length)


def _value_name(experiment: Experiment, value: int) -> str:
    if experiment.label_kind == "attributes":
        first = experiment.class_names[0] if experiment.class_names else "the first attribute"
        return f"{first}: {'yes' if value else 'no'}"
    return _class_name(experiment, value, 18)
