"""The figures of what came out: every seed's accuracy, and the paired differences with their intervals."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from simsiam_jax.report.seeds import Key
from simsiam_jax.report.style import INK, MUTED, PAPER, Picture, arm_colour, arm_marker, shorten, styled
from simsiam_jax.report.summary import COLUMNS, Table
from simsiam_jax.report.words import capital


def outcome_pictures(table: Table) -> list[Picture]:
    """The pictures of what came out, as far as it is measured."""
    candidates = [
        ("accuracy", accuracy_points(table), f"{capital(table.headline.noun)} of every arm and seed",
         "A dot is a seed, the stroke their mean; thin lines join the same seed through the arms."),
        ("difference", difference_intervals(table), "Paired differences to the first arm with intervals",
         "Filled where the interval leaves zero out, hollow where not."
         + (" Only the strong ones decide, by the plan; the faint ones describe." if table.decisions else "")),
    ]  # fmt: skip
    return [Picture(name, figure, *words) for name, figure, *words in candidates if figure is not None]


def accuracy_points(table: Table) -> Figure | None:
    """The accuracy of every arm: a dot for each seed, and a stroke at the mean. None where nothing is measured.

    Where all arms are one group, thin lines join the dots of a seed through the arms.
    """
    keys = [key for key in table.compared if any(key in row.scores for row in table.rows)]
    if not keys:
        return None
    with _figure(blocks=len(keys), arms=len(table.rows)) as (figure, axes):
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
                colour, score = arm_colour(row.arm.position), row.scores[key]
                places = list(score.by_seed.values())
                axes.plot(places, [top + index] * len(places), arm_marker(row.arm.position), color=colour, zorder=3,
                          markersize=5.5, markeredgecolor=PAPER, markeredgewidth=0.7)  # fmt: skip
                stroke = [top + index - 0.34, top + index + 0.34]
                axes.plot([score.mean] * 2, stroke, color=colour, linewidth=2.2, solid_capstyle="round", zorder=2)
        _lay_flat(axes, keys, [row.label for row in table.rows], f"{table.headline.name}, %")
        axes.set_title(f"{table.compared[0][1].capitalize()} {table.headline.noun}, every seed")
    return figure


def difference_intervals(table: Table) -> Figure | None:
    """The paired differences to the first arm of the group, with their intervals. None where there is none.

    A marker is hollow where the interval cannot tell the difference from none. What the plan decides comes first, its
    primary comparisons before the others; all else is faint.
    """
    keys = [key for key in table.compared if any(key in row.differences for row in table.rows)]
    if not keys:
        return None
    keys.sort(key=lambda key: key != table.planned)
    primary = {name for name, decision in table.decisions.items() if decision.primary}
    others = sorted((row for row in table.others if row.differences), key=lambda row: row.name not in primary)
    with _figure(blocks=len(keys), arms=len(others) + 1, width=4.3) as (figure, axes):
        axes.axvline(0, color=arm_colour(0), linewidth=1.2, zorder=1)
        for block, key in enumerate(keys):
            top = block * (len(others) + 1.3)
            for index, row in enumerate(others):
                difference = row.differences.get(key)
                if difference is None:
                    continue
                colour = arm_colour(row.arm.position)
                strong = table.planned is None or (key == table.planned and row.name in (primary or table.decisions))
                look = {"color": colour, "alpha": 1.0 if strong else 0.5}
                if difference.low is not None and difference.high is not None:
                    axes.plot([difference.low, difference.high], [top + index] * 2, **look,
                              linewidth=2.6 if strong else 1.4, solid_capstyle="round", zorder=2)  # fmt: skip
                axes.plot(difference.mean, top + index, arm_marker(row.arm.position), **look, zorder=3,
                          markersize=7.5 if strong else 5.5, markeredgewidth=1.6,
                          markerfacecolor=colour if difference.sign else PAPER)  # fmt: skip
        unit = f"points of {table.headline.noun} against\n{shorten(table.reference, 40)}"
        _lay_flat(axes, keys, [row.label for row in others], unit, decides=table.planned,
                  strong=[row.name in primary for row in others])  # fmt: skip
        axes.set_title("Paired difference with its interval")
    return figure


@contextmanager
def _figure(*, blocks: int, arms: int, width: float = 5.2) -> Iterator[tuple[Figure, Axes]]:
    """A figure for a chart of so many blocks, each with a line for every arm."""
    with styled():
        # Two such figures stand beside each other on a desk, and one on a telephone: the text is legible on both.
        figure = Figure(figsize=(width, 0.8 + 0.33 * blocks * (arms + 1.3)), layout="constrained")
        yield figure, figure.add_subplot()


def _lay_flat(
    axes: Axes,
    keys: Sequence[Key],
    labels: Sequence[str],
    unit: str,
    *,
    decides: Key | None = None,
    strong: Sequence[bool] = (),
) -> None:
    """Names the lines of a chart of one block a key: its heading at -0.9, its arms at 0, 1, ... below each other.

    The heading of the key that decides says so, and there the names of the strong arms are dark.
    """
    ticks: list[tuple[float, str]] = []
    for block, key in enumerate(keys):
        top = block * (len(labels) + 1.3)
        role = "" if decides is None else "\nthis decides" if key == decides else "\ndescriptive"
        ticks.append((top - 0.9, COLUMNS[key] + role))
        ticks += [(top + index, _two_lines(label)) for index, label in enumerate(labels)]
    axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
    axes.set_ylim(ticks[-1][0] + 0.6, -1.4)
    axes.grid(axis="x")
    axes.tick_params(length=0, pad=5)
    for index, text in enumerate(axes.get_yticklabels()):
        block, place = divmod(index, len(labels) + 1)
        heading = place == 0
        marked = not heading and keys[block] == decides and place <= len(strong) and strong[place - 1]
        text.set(color=INK if heading or marked else MUTED, weight="bold" if heading else "normal", linespacing=1.05)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)
    axes.set_xlabel(unit)


def _two_lines(label: str) -> str:
    lines = textwrap.wrap(shorten(label, 40), 20)
    return "\n".join([*lines[:1], " ".join(lines[1:])])
