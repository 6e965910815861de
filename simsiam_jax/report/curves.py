"""The curves of training: loss, kNN, spread, rank and validation accuracy by epoch, from the logs of the stages."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from simsiam_jax.records.experiment import HEADLINES, Experiment
from simsiam_jax.records.results import read_log, read_stage_result
from simsiam_jax.report.collapse import RANK_EXPLAINED, SPREAD_EXPLAINED
from simsiam_jax.report.style import MUTED, Picture, arm_colour, arm_marker, shorten, styled

_SOLID: Any = "-"
_DASHED: Any = (0, (4, 2))


@dataclass(frozen=True)
class Curves:
    """One arm's logs of one stage.

    Attributes:
      label: The arm's title.
      position: The arm's `ArmRecord.position`, which gives its colour and marker.
      seeds: The lines of metrics.jsonl by seed. A line of epoch 0 holds what was measured of the untrained network.
    """

    label: str
    position: int
    seeds: Mapping[int, Sequence[Mapping[str, Any]]]

    def by_epoch(self, value: str) -> dict[int, list[float]]:
        """The seeds' finite values of a log field by epoch. Of an epoch that was logged twice the later line counts."""
        found: dict[int, dict[int, float]] = {}
        for seed, records in self.seeds.items():
            for record in records:
                number, epoch = record.get(value), record.get("epoch")
                if isinstance(number, int | float) and isinstance(epoch, int) and np.isfinite(number):
                    found.setdefault(epoch, {})[seed] = float(number)
        return {epoch: list(found[epoch].values()) for epoch in sorted(found)}


def read_curves(workdir: Path, experiment: Experiment, stage: str) -> tuple[list[Curves], list[str]]:
    """Reads the arms' logs of a stage.

    Args:
      workdir: The run's folder.
      experiment: What the run is: its arms.
      stage: The stage, one of `STAGES`.

    Returns:
      The logs of every arm in order, and a note for each log that is not whole.
    """
    arms, notes = [], []
    for arm in experiment.arms:
        seeds = {}
        for folder in sorted((workdir / arm.name).glob("seed-*")):
            number = folder.name.removeprefix("seed-")
            records, unreadable = read_log(folder / stage / "metrics.jsonl")
            if number.isdigit() and records:
                seeds[int(number)] = records
            if fault := _log_fault(folder / stage, records, unreadable):
                notes.append(f"{arm.name}/{folder.name}/{stage}/metrics.jsonl: {fault}")
        arms.append(Curves(arm.title, arm.position, dict(sorted(seeds.items()))))
    return arms, notes


def _log_fault(folder: Path, records: Sequence[Mapping[str, Any]], unreadable: int) -> str:
    """What the log of a stage lacks; empty where nothing is missed, as in a stage that has not ended."""
    if unreadable:
        return f"{'1 unreadable line' if unreadable == 1 else f'{unreadable} unreadable lines'} left out"
    result = read_stage_result(folder)
    if result is None:
        return ""
    if not records:
        return "there is none, or an empty one; the curves leave this seed out"
    updates = result.metrics.get("train", {}).get("updates")
    return "" if updates in (None, records[-1].get("update")) else "it ends before the training did"


def curve_pictures(
    pretraining: Sequence[Curves], finetuning: Sequence[Curves], experiment: Experiment
) -> list[Picture]:
    """The pictures of training that the logs allow.

    Args:
      pretraining: The arms' logs of pretraining.
      finetuning: The arms' logs of fine-tuning.
      experiment: What the run is: its headline, and whether Figure 3 is asked for.
    """
    metric, noun = experiment.metric, experiment.headline.noun
    band = "Mean over seeds; the band reaches from the lowest to the highest seed."
    untrained = (
        " Epoch 0 is the untrained network." if any(0 in arm.by_epoch(f"knn_{metric}") for arm in pretraining) else ""
    )
    candidates = [
        ("loss", loss_curves(pretraining), "Pretraining loss by epoch", f"{band} −1 is perfect agreement."),
        ("figure3", figure3_curves(pretraining) if experiment.figure3 else None,
         "Similarity loss on test images by epoch of pretraining", f"The paper's Figure 3. {band}"),
        ("knn", knn_curves(pretraining, metric), f"kNN {noun} by epoch of pretraining", f"{band}{untrained}"),
        ("spread", spread_curves(pretraining), "Spread of z by epoch", f"{SPREAD_EXPLAINED} {band}"),
        ("rank", rank_curves(pretraining), "Effective rank of the features by epoch",
         f"{RANK_EXPLAINED} {band} Validation images. "
         "Below half of epoch 0, the untrained network, dimensions are lost."),
        ("finetune", finetune_curves(finetuning, metric), f"Validation {noun} by epoch of fine-tuning", band),
    ]  # fmt: skip
    return [Picture(name, figure, *words) for name, figure, *words in candidates if figure is not None]


def loss_curves(arms: Sequence[Curves]) -> Figure | None:
    """The pretraining loss, equation (3), by epoch: solid of training, dashed of held-out images.

    Differs from the paper: its Figure 3 is labelled test and shows the training loss. Both are here, with the range
    over seeds.

    Args:
      arms: The arms' logs of pretraining. Arms without the value are left out.
    """
    return _curve_figure(arms, "loss", "Pretraining loss", "negative cosine similarity", dashed="heldout_loss")


def figure3_curves(arms: Sequence[Curves]) -> Figure | None:
    """The similarity loss on test images by epoch of pretraining, a curve for each arm (Figure 3).

    Args:
      arms: The arms' logs of pretraining. Arms without `test_loss` are left out.
    """
    return _curve_figure(arms, "test_loss", "Similarity loss on test images", "negative cosine similarity")


def knn_curves(arms: Sequence[Curves], metric: str = "top1") -> Figure | None:
    """The accuracy of kNN on frozen features by epoch of pretraining, in percent, from the untrained network on.

    Args:
      arms: The arms' logs of pretraining. Arms without the value are left out.
      metric: The number that is shown, one of `HEADLINES`. The logs have it as `knn_METRIC`.
    """
    headline = HEADLINES[metric]
    return _curve_figure(arms, f"knn_{metric}", f"kNN {headline.noun} while pretraining", headline.unit, scale=100.0)


def spread_curves(arms: Sequence[Curves]) -> Figure | None:
    """The spread of the l2-normalised z times sqrt(d) by epoch: solid of training, dashed of held-out images.

    It is 1 where z fills the sphere and 0 where it has collapsed (SimSiam, section 4.1).

    Args:
      arms: The arms' logs of pretraining. Arms without the value are left out.
    """
    figure = _curve_figure(
        arms, "z_spread", "Spread of the representations", "std of z × √d", dashed="heldout_z_spread"
    )
    if figure is None:
        return None
    axes = figure.axes[0]
    axes.set_ylim(-0.08, max(1.12, axes.get_ylim()[1]))
    with styled():
        for height, words in ((1, "1: spread over the whole sphere"), (0, "0: collapsed to one point")):
            axes.axhline(height, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)), zorder=1)
            axes.annotate(
                words, (1, height), (0, 3), xycoords=axes.get_yaxis_transform(), textcoords="offset points",
                ha="right", color=MUTED, fontsize=8.5,
            )  # fmt: skip
    return figure


def rank_curves(arms: Sequence[Curves]) -> Figure | None:
    """The effective rank of the backbone's features on held-out images by epoch, from the untrained network on.

    Args:
      arms: The arms' logs of pretraining. Arms without the value are left out.
    """
    figure = _curve_figure(arms, "heldout_rank", "Rank of the features while pretraining", "effective rank")
    if figure is not None:
        figure.axes[0].set_ylim(bottom=0)
    return figure


def finetune_curves(arms: Sequence[Curves], metric: str = "top1") -> Figure | None:
    """The validation accuracy by epoch of fine-tuning, in percent.

    Args:
      arms: The arms' logs of fine-tuning. Arms without the value are left out.
      metric: The number that is shown, one of `HEADLINES`. The logs have it as `validation_METRIC`.
    """
    headline = HEADLINES[metric]
    return _curve_figure(
        arms, f"validation_{metric}", f"Validation {headline.noun} while fine-tuning", headline.unit, scale=100.0
    )


def _curve_figure(
    arms: Sequence[Curves], value: str, title: str, unit: str, scale: float = 1.0, dashed: str | None = None
) -> Figure | None:
    """The mean over seeds as a line, smallest to largest seed as a band; None where no arm has the value."""
    shown = [arm for arm in arms if arm.by_epoch(value)]
    if not shown:
        return None
    with styled():
        figure = Figure(figsize=(5.2, 3.3 + 0.19 * max(0, _legend_lines(shown) - 3)), layout="constrained")
        axes = figure.add_subplot()
        for arm in shown:
            colour = arm_colour(arm.position)
            for field, style in ((value, _SOLID), (dashed, _DASHED)):
                points = arm.by_epoch(field) if field else {}
                if not points:
                    continue
                epochs = list(points)
                means = [scale * statistics.fmean(values) for values in points.values()]
                axes.plot(epochs, means, color=colour, linestyle=style, solid_capstyle="round")
                if style is _SOLID:
                    low = [scale * min(values) for values in points.values()]
                    high = [scale * max(values) for values in points.values()]
                    axes.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)
                    axes.plot(
                        epochs[-1], means[-1], arm_marker(arm.position), color=colour, markersize=5.5, clip_on=False
                    )
        axes.grid(axis="y")
        axes.tick_params(length=0, pad=5)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.margins(x=0.02)
        axes.set_xlabel("epoch")
        axes.set_title(f"{title}, {unit}")
        if dashed and any(arm.by_epoch(dashed) for arm in shown):
            kinds = (("training", _SOLID), ("held-out images", _DASHED))
            handles = [Line2D([], [], color=MUTED, linestyle=style, label=label) for label, style in kinds]
            axes.legend(handles=handles, labelcolor=MUTED, loc="upper right" if value == "loss" else "center right")
        _arm_legend(figure, shown)
    return figure


def _arm_legend(figure: Figure, arms: Sequence[Curves]) -> None:
    handles = [
        Line2D([], [], color=arm_colour(arm.position), marker=arm_marker(arm.position), markersize=5) for arm in arms
    ]
    beside = len(arms) // _legend_lines(arms)
    labels = _legend_labels(arms)
    figure.legend(handles, labels, loc="outside lower left", ncols=beside, handlelength=1.6, columnspacing=1.4)


def _legend_labels(arms: Sequence[Curves]) -> list[str]:
    return [shorten(arm.label, 44) for arm in arms]


def _legend_lines(arms: Sequence[Curves]) -> int:
    """One where all labels fit beside each other, else one for each."""
    return 1 if sum(len(label) + 6 for label in _legend_labels(arms)) < 66 else len(arms)
