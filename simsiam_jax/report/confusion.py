"""The confusion matrices of fine-tuning, drawn as squares whose area is the share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simsiam_jax.records.experiment import ArmRecord, Experiment
from simsiam_jax.report.exhibit_files import read_counts, some_arms
from simsiam_jax.report.style import ARM_COLOURS, INK, RULE, WRONG, Picture, shorten, styled

_WIDTH = 7.2  # inches: it stands alone in the page
_OUTCOMES = {"found": True, "false alarm": False, "missed": False, "rightly absent": True}


def confusion_picture(
    workdir: Path, experiment: Experiment, arms: Sequence[ArmRecord], notes: list[str]
) -> Picture | None:
    """What fine-tuning confused, a matrix for each arm; None where no arm has counts.

    Args:
      workdir: The run's folder.
      experiment: What the run is: the names of its classes or attributes.
      arms: The arms to draw.
      notes: The notes, to which one for each unreadable file is added.
    """
    found = [(arm, read_counts(workdir, arm, notes)) for arm in some_arms(arms)]
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
        for axes, (arm, kind, counts) in zip(panels, by_arm, strict=False):
            names = experiment.class_names or tuple(map(str, range(len(counts))))
            if kind == "classes":
                _matrix(axes, counts, names, names, right=np.eye(len(counts), dtype=bool))
            else:
                right = np.tile([*_OUTCOMES.values()], (len(counts), 1))
                _matrix(axes, counts, names, [*_OUTCOMES], right=right)
            axes.set_title(shorten(arm.title, int(14 * side)), fontsize=8.5)
    return Picture(
        "confusion",
        figure,
        "Confusion matrices of fine-tuning",
        "Test images after fine-tuning, in % of each line, over all seeds: "
        + ("lines are true classes, columns what was predicted." if classes else "a line for each attribute."),
    )


def _matrix(
    axes: Axes,
    counts: Int[np.ndarray, "lines columns"],
    lines: Sequence[str],
    headings: Sequence[str],
    *,
    right: Bool[np.ndarray, "lines columns"],
) -> None:
    """Shares of each line as squares with their numbers: blue where the answer is right, orange where it is wrong."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 6.5 if max(shares.shape) <= 6 else 5.5
    for row, column in np.ndindex(*shares.shape):
        share = shares[row, column]
        colour = ARM_COLOURS[2] if right[row, column] else WRONG
        half = 0.48 * np.sqrt(share)
        axes.fill_between([column - half, column + half], row - half, row + half, color=colour, alpha=0.4, linewidth=0)
        if share >= 0.005:
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=size, color=INK)
    axes.set(xlim=(-0.5, shares.shape[1] - 0.5), ylim=(shares.shape[0] - 0.5, -0.5), aspect="auto")
    axes.set_xticks(
        range(shares.shape[1]), [shorten(name, 14) for name in headings], rotation=55, ha="right", fontsize=6.5
    )
    axes.set_yticks(range(shares.shape[0]), [shorten(name, 15) for name in lines], fontsize=6.5)
    axes.set_xticks(np.arange(shares.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(shares.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=RULE)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
