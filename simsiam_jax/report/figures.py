"""The report's figures: plain matplotlib figures in the light theme, and the same as SVG that follows the page's.

An arm keeps its colour and marker through all figures. Every colour is a name in `THEME`; `themed_svg` turns each
into a CSS variable, so that one drawing serves light and dark pages.
"""

import io
import re
import statistics
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from simsiam_jax.records.experiment import HEADLINES
from simsiam_jax.report.seeds import Key
from simsiam_jax.report.tables import COLUMNS, Table

# name: (light, dark). The arms' colours keep apart under the common colour blindnesses (after Okabe and Ito) and
# reach a contrast of 3 on their page; the reference arm is grey. All values of a theme differ: themed_svg needs it.
THEME = {
    "paper": ("#fcfbf8", "#14171b"),
    "ink": ("#1c2126", "#e9e6df"),
    "muted": ("#5a626c", "#a3a9b1"),
    "rule": ("#dcd9d1", "#32383f"),
    "arm-0": ("#6a7480", "#9aa4b0"),
    "arm-1": ("#c4570a", "#f08a3c"),
    "arm-2": ("#0a66ad", "#5cb0f0"),
    "arm-3": ("#00805a", "#3cc79a"),
    "arm-4": ("#a8487f", "#e58cc0"),
    "arm-5": ("#8a6d00", "#d9b93a"),
    "arm-6": ("#4b4fb5", "#9b9ff2"),
}
ARM_COLOURS = tuple(light for name, (light, _) in THEME.items() if name.startswith("arm-"))
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
PAPER, INK, MUTED, RULE = (THEME[name][0] for name in ("paper", "ink", "muted", "rule"))
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same drawing on every machine
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a dollar in an arm's name is a dollar
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "none",
    "figure.edgecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "simsiam_jax",  # equal runs give equal files
}
_WIDTH = 5.2  # inches: two figures beside each other on a desk, one on a telephone, text legible on both


@dataclass(frozen=True)
class Curves:
    """One arm's log lines by seed; `position` is its row in the table and gives colour and marker."""

    label: str
    position: int
    seeds: Mapping[int, Sequence[Mapping[str, Any]]]

    @property
    def colour(self) -> str:
        """The arm's colour in the light theme."""
        return ARM_COLOURS[self.position % len(ARM_COLOURS)]

    @property
    def marker(self) -> str:
        """The arm's marker: colour is never the only sign."""
        # Where colours begin again, markers are shifted: no two of 49 arms have both in common.
        return MARKERS[(self.position + self.position // len(ARM_COLOURS)) % len(MARKERS)]

    def by_epoch(self, value: str) -> dict[int, list[float]]:
        """The seeds' finite values of a log field by epoch; of an epoch logged twice the later line counts."""
        found: dict[int, dict[int, float]] = {}
        for seed, records in self.seeds.items():
            for record in records:
                number, epoch = record.get(value), record.get("epoch")
                if isinstance(number, int | float) and isinstance(epoch, int) and np.isfinite(number):
                    found.setdefault(epoch, {})[seed] = float(number)
        return {epoch: list(found[epoch].values()) for epoch in sorted(found)}


def loss_curves(arms: Sequence[Curves]) -> Figure | None:
    """Pretraining loss, equation (3), an epoch: training solid, held-out images dashed (Figure 3).

    Differs from the paper: its Figure 3 is labelled test and shows training loss; both are here, with the range
    over seeds.

    Args:
      arms: The arms' pretraining logs; those without are left out.
    """
    figure = _curve_figure(arms, "loss", "Pretraining loss", "negative cosine similarity", dashed="heldout_loss")
    if figure is not None and any(arm.by_epoch("heldout_loss") for arm in arms):
        with styled():
            figure.axes[0].legend(
                handles=[
                    Line2D([], [], color=MUTED, label="training"),
                    Line2D([], [], color=MUTED, linestyle=(0, (4, 2)), label="held-out images"),
                ],
                labelcolor=MUTED,
                loc="upper right",
            )
    return figure


def figure3_curves(arms: Sequence[Curves]) -> Figure | None:
    """The similarity loss on test images over the epochs of pretraining, a curve an arm (Figure 3).

    Args:
      arms: The arms' pretraining logs; those without `test_loss` are left out.
    """
    return _curve_figure(arms, "test_loss", "Similarity loss on test images", "negative cosine similarity")


def knn_curves(arms: Sequence[Curves], metric: str = "top1") -> Figure | None:
    """kNN accuracy on frozen features during pretraining, in %.

    Args:
      arms: The arms' pretraining logs.
      metric: What of, of `HEADLINES`; the logs have it as `knn_METRIC`.
    """
    headline = HEADLINES[metric]
    title = f"kNN {headline.noun} while pretraining"
    return _curve_figure(arms, f"knn_{metric}", title, headline.unit, scale=100.0)


def spread_curves(arms: Sequence[Curves]) -> Figure | None:
    """Spread of the l2-normalised z times sqrt(d) (SimSiam section 4.1): 1 fills the sphere, 0 has collapsed.

    Args:
      arms: The arms' pretraining logs.
    """
    figure = _curve_figure(arms, "z_spread", "Spread of the representations", "std of z × √d")
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


def finetune_curves(arms: Sequence[Curves], metric: str = "top1") -> Figure | None:
    """Validation accuracy during fine-tuning, in %.

    Args:
      arms: The arms' fine-tuning logs.
      metric: What of, of `HEADLINES`; the logs have it as `validation_METRIC`.
    """
    headline = HEADLINES[metric]
    title = f"Validation {headline.noun} while fine-tuning"
    return _curve_figure(arms, f"validation_{metric}", title, headline.unit, scale=100.0)


def accuracy_points(table: Table) -> Figure | None:
    """Test accuracy of every arm: a dot a seed, joined by a thin line through the arms, the mean as a stroke.

    Args:
      table: From `summarise`.
    """
    keys = [key for key in table.compared if any(key in row.scores for row in table.rows)]
    if not keys:
        return None
    with _figure(height=_flat_height(len(keys), len(table.rows))) as (figure, axes):
        for block, key in enumerate(keys):
            top = block * (len(table.rows) + 1.3)
            by_arm = [row.scores[key].by_seed if key in row.scores else {} for row in table.rows]
            # Through the arms of several groups a line would join what is not compared.
            for seed in table.seeds if len({row.arm.group for row in table.rows}) == 1 else ():
                lines = [index for index, values in enumerate(by_arm) if seed in values]
                heights, places = [top + index for index in lines], [by_arm[index][seed] for index in lines]
                axes.plot(places, heights, color=MUTED, linewidth=0.6, alpha=0.55, zorder=1)
            for index, row in enumerate(table.rows):
                if key not in row.scores:
                    axes.text(0.01, top + index, "not run" if row.arm.absent else "not measured", va="center",
                              transform=axes.get_yaxis_transform(), color=MUTED, fontsize=8.5)  # fmt: skip
                    continue
                arm, score = Curves(row.label, index, {}), row.scores[key]
                places = list(score.by_seed.values())
                edge = {"markeredgecolor": PAPER, "markeredgewidth": 0.7}
                axes.plot(
                    places, [top + index] * len(places), arm.marker, color=arm.colour, markersize=5.5, zorder=3, **edge
                )
                stroke = [top + index - 0.34, top + index + 0.34]
                axes.plot([score.mean] * 2, stroke, color=arm.colour, linewidth=2.2, solid_capstyle="round", zorder=2)
        _lay_flat(axes, keys, [row.label for row in table.rows], f"{table.headline.name}, %")
        axes.set_title(f"{table.compared[0][1].capitalize()} {table.headline.noun}, every seed")
    return figure


def difference_intervals(table: Table) -> Figure | None:
    """Paired differences to the first arm of the group, with Student's 95 % intervals; zero is the reference.

    Args:
      table: From `summarise`.
    """
    keys = [key for key in table.compared if any(key in row.differences for row in table.rows)]
    if not keys:
        return None
    others = [(place, row) for place, row in table.others if row.differences]
    with _figure(height=_flat_height(len(keys), len(others) + 1)) as (figure, axes):
        axes.axvline(0, color=ARM_COLOURS[0], linewidth=1.2, zorder=1)
        for block, key in enumerate(keys):
            top = block * (len(others) + 1.3)
            for index, (place, row) in enumerate(others):
                difference = row.differences.get(key)
                if difference is None:
                    continue
                arm = Curves(row.label, place, {})
                if difference.low is not None and difference.high is not None:
                    axes.plot([difference.low, difference.high], [top + index] * 2, color=arm.colour, linewidth=2.2,
                              solid_capstyle="round", zorder=2)  # fmt: skip
                # Hollow where the interval cannot tell the difference from none.
                axes.plot(difference.mean, top + index, arm.marker, color=arm.colour, markersize=6.5, zorder=3,
                          markerfacecolor=arm.colour if difference.sign else PAPER, markeredgewidth=1.6)  # fmt: skip
        unit = f"points of {table.headline.noun} against {shorten(table.reference, 32)}"
        _lay_flat(axes, keys, [row.label for _, row in others], unit)
        axes.set_title("Paired difference, 95 % interval")
    return figure


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
      view1: Their first views before normalisation, 0..1.
      view2: Their second views.
      columns: Triples beside each other, at least 1.
      limit: Images shown at most, at least 1.
    """
    count = min(len(originals), limit)
    rows = -(-count // columns)
    size = 1.02
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
                axes.imshow(image, interpolation="none", aspect="auto")
                axes.set_axis_off()
                if row == 0:
                    axes.set_title(name, fontsize=9, color=MUTED, loc="left", pad=4)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG on the light theme's ground."""
    return _render(figure, format="png", dpi=160, facecolor=PAPER, metadata={"Software": None})


def themed_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element whose colours are the page's CSS variables.

    It names no outside address, not even a namespace (HTML knows svg), and its ids begin with `name`, so that
    several can stand in one page.

    Args:
      figure: One of this module's.
      name: Letters, unique in the page.
    """
    text = _render(figure, format="svg", facecolor="none", metadata={"Date": None}).decode()
    text = text[text.index("<svg") :]
    # Inlined, matplotlib's style element would speak for the whole page; its comments repeat user text.
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text, count=2)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    text = re.sub(r' width="[^"]*" height="[^"]*"', "", text, count=1)  # the page sets the width, viewBox the rest
    for variable, (light, _) in THEME.items():
        text = text.replace(light, f"var(--{variable})")
    return text.strip()


def css_variables(dark: bool) -> str:
    """`THEME` as CSS declarations."""
    return " ".join(f"--{name}: {colours[dark]};" for name, colours in THEME.items())


def _curve_figure(
    arms: Sequence[Curves], value: str, title: str, unit: str, scale: float = 1.0, dashed: str | None = None
) -> Figure | None:
    """Mean over seeds as a line, smallest to largest seed as a band; None where no arm has the value."""
    shown = [arm for arm in arms if arm.by_epoch(value)]
    if not shown:
        return None
    with _figure(height=3.3 + 0.19 * max(0, _legend_lines(shown) - 3)) as (figure, axes):
        for arm in shown:
            for field, style in ((value, "-"), (dashed, (0, (4, 2)))):
                points = arm.by_epoch(field) if field else {}
                if not points:
                    continue
                epochs = list(points)
                means = [scale * statistics.fmean(values) for values in points.values()]
                axes.plot(epochs, means, color=arm.colour, linestyle=style, solid_capstyle="round")
                if style == "-":
                    low = [scale * min(values) for values in points.values()]
                    high = [scale * max(values) for values in points.values()]
                    axes.fill_between(epochs, low, high, color=arm.colour, alpha=0.16, linewidth=0)
                    axes.plot(epochs[-1], means[-1], arm.marker, color=arm.colour, markersize=5.5, clip_on=False)
        axes.grid(axis="y")
        axes.tick_params(length=0, pad=5)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axes.margins(x=0.02)
        axes.set_xlabel("epoch")
        axes.set_title(f"{title}, {unit}")
        _arm_legend(figure, shown)
    return figure


def styled() -> AbstractContextManager[None]:
    """The style in which every figure of the report is drawn."""
    return matplotlib.rc_context(STYLE)  # pyright: ignore[reportArgumentType]


@contextmanager
def _figure(height: float) -> Iterator[tuple[Figure, Axes]]:
    with styled():
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


def _arm_legend(figure: Figure, arms: Sequence[Curves]) -> None:
    labels = _legend_labels(arms)
    handles = [Line2D([], [], color=arm.colour, marker=arm.marker, markersize=5) for arm in arms]
    beside = len(arms) // _legend_lines(arms)
    figure.legend(handles, labels, loc="outside lower left", ncols=beside, handlelength=1.6, columnspacing=1.4)


def _legend_labels(arms: Sequence[Curves]) -> list[str]:
    return [shorten(arm.label, 44) for arm in arms]


def _legend_lines(arms: Sequence[Curves]) -> int:
    """One where all labels fit beside each other, else one for each."""
    return 1 if sum(len(label) + 6 for label in _legend_labels(arms)) < 66 else len(arms)


def _lay_flat(axes: Axes, keys: Sequence[Key], labels: Sequence[str], unit: str) -> None:
    """Names the lines of a chart of one block a key: its heading at -0.9, its arms at 0, 1, ... below each other."""
    ticks: list[tuple[float, str]] = []
    for block, key in enumerate(keys):
        top = block * (len(labels) + 1.3)
        ticks.append((top - 0.9, COLUMNS[key]))
        ticks += [(top + index, _two_lines(label)) for index, label in enumerate(labels)]
    axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
    axes.set_ylim(ticks[-1][0] + 0.6, -1.4)
    axes.grid(axis="x")
    axes.tick_params(length=0, pad=5)
    for index, text in enumerate(axes.get_yticklabels()):
        heading = index % (len(labels) + 1) == 0
        text.set(color=INK if heading else MUTED, weight="bold" if heading else "normal", linespacing=1.05)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.set_xlabel(unit)


def _flat_height(blocks: int, arms: int) -> float:
    return 0.8 + 0.33 * blocks * (arms + 1.3)


def _two_lines(label: str) -> str:
    lines = textwrap.wrap(shorten(label, 40), 20)
    return "\n".join([*lines[:1], " ".join(lines[1:])])


def shorten(label: str, length: int) -> str:
    """The label on one line of at most so many letters."""
    label = " ".join(label.split())
    # A leading underscore means "not in the legend" to matplotlib.
    label = f" {label}" if label.startswith("_") else label
    return label if len(label) <= length else f"{label[: length - 1].rstrip()}…"


def _render(figure: Figure, **options: Any) -> bytes:
    file = io.BytesIO()
    with styled(), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; it is no reason to trouble anyone.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, **options)
    return file.getvalue()
