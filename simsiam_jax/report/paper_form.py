"""The table in the paper's form: its lines and columns, our numbers, and the paper's in a second line."""

from collections.abc import Sequence
from dataclasses import dataclass

from simsiam_jax.records.experiment import ArmRecord, Column, Experiment, Layout
from simsiam_jax.records.results import Result
from simsiam_jax.report.seeds import Key, Score, better_than_all, scores_by_arm


@dataclass(frozen=True)
class Cell:
    """A cell: our number, the paper's in percent, whether ours is clearly its group's best, whether it was not run."""

    score: Score | None
    paper: float | int | None = None
    best: bool = False
    absent: bool = False


@dataclass(frozen=True)
class PaperForm:
    """The table.

    Attributes:
      corner: What the lines are.
      headings: Of the columns.
      lines: Label and cells of each line.
    """

    corner: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Cell, ...]], ...]

    @property
    def has_paper(self) -> bool:
        """Whether the paper has a number for any cell."""
        return any(cell.paper is not None for _, cells in self.lines for cell in cells)


def paper_form(results: Sequence[Result], experiment: Experiment) -> PaperForm | None:
    """The table in the paper's form; None where the experiment has no such form.

    Args:
      results: The result lines.
      experiment: Its `layout`, or fine-tuning on both splits where only the paper's numbers are known.
    """
    layout = experiment.layout
    if layout is None and any(arm.published for arm in experiment.arms):
        layout = Layout(tuple(Column(split, "finetune", split) for split in ("validation", "test")))
    if layout is None:
        return None
    filled = {column: _column(results, experiment, column) for column in layout.columns}
    if layout.pivot:
        (column,) = layout.columns
        words = tuple(dict.fromkeys(arm.words for arm in experiment.arms))
        lines = tuple(
            (str(group), tuple(_find(filled[column], arms, each) for each in words))
            for group, arms in experiment.groups.items()
        )
        return PaperForm("backbone", words, lines)
    lines = tuple((arm.title, tuple(filled[column][arm.name] for column in layout.columns)) for arm in experiment.arms)
    return PaperForm("pretraining", tuple(column.heading for column in layout.columns), lines)


def _find(cells: dict[str, Cell], arms: Sequence[ArmRecord], words: str) -> Cell:
    return next((cells[arm.name] for arm in arms if arm.words == words), Cell(None))


def _column(results: Sequence[Result], experiment: Experiment, column: Column) -> dict[str, Cell]:
    """The cells of a column by arm."""
    metric = column.metric or experiment.metric
    scores, key = scores_by_arm(results, experiment, metric), (column.eval, column.split)
    best = best_arms(scores, experiment, key)
    return {
        arm.name: Cell(scores[arm.name].get(key), _paper(arm, column, metric), arm.name in best, bool(arm.absent))
        for arm in experiment.arms
    }


def best_arms(scores: dict[str, dict[Key, Score]], experiment: Experiment, key: Key) -> set[str]:
    """The arms to emphasise: in a column clearly above every other of their group.

    An arm that was not measured yet might be better, so that a group with a gap has none; one that cannot be run is
    not waited for.

    Args:
      scores: By arm and column.
      experiment: Says which arms there are.
      key: The column.
    """
    found = set()
    for arms in experiment.groups.values():
        rivals = {arm.name: scores[arm.name].get(key) for arm in arms if not arm.absent}
        measured = {name: score for name, score in rivals.items() if score is not None}
        if len(measured) == len(rivals):
            found |= {name for name in measured if better_than_all(name, measured)}
    return found


def _paper(arm: ArmRecord, column: Column, metric: str) -> float | int | None:
    if column.eval != "finetune":
        return None
    return arm.published.get(f"{column.split}/{metric}", arm.published.get(column.split))
