"""The table in the paper's form: its lines and columns, our numbers, and the paper's in a second line."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from simsiam_jax.records.experiment import ArmRecord, Column, Experiment, Layout
from simsiam_jax.records.results import Result
from simsiam_jax.report.seeds import Key, Score, better_than_all, scores_by_arm


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Attributes:
      score: Our number; None where it was not measured.
      published: The paper's number in percent; None where the paper has none.
      best: Whether ours is clearly the best of the arm's group.
      absent: Whether the arm was not run.
    """

    score: Score | None
    published: float | int | None = None
    best: bool = False
    absent: bool = False


@dataclass(frozen=True)
class PaperForm:
    """The whole table.

    Attributes:
      corner: The heading above the lines' labels.
      headings: The headings of the columns.
      lines: The label and the cells of each line.
    """

    corner: str
    headings: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Cell, ...]], ...]

    @property
    def has_published(self) -> bool:
        """Whether the paper has a number for any cell."""
        return any(cell.published is not None for _, cells in self.lines for cell in cells)


def paper_form(results: Sequence[Result], experiment: Experiment, failed: Collection[str] = ()) -> PaperForm | None:
    """The table in the paper's form; None where the experiment has no such form.

    Args:
      results: All results of the run.
      experiment: What the run is. Without a `layout`, arms with published numbers are shown by fine-tuning's headline
        on validation and test.
      failed: Names of arms with a failed seed.
    """
    layout = experiment.layout
    if layout is None and any(arm.published for arm in experiment.arms):
        layout = Layout(tuple(Column(split, "finetune", split) for split in ("validation", "test")))
    if layout is None:
        return None
    filled = {column: _column(results, experiment, column, failed) for column in layout.columns}
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


def best_arms(
    scores: Mapping[str, Mapping[Key, Score]], experiment: Experiment, key: Key, failed: Collection[str] = ()
) -> set[str]:
    """The arms to emphasise in a column: each is clearly above every other one of its group.

    An arm that was not measured yet might be better, so that a group with a gap has none. An arm that cannot be run is
    not waited for. Nor has a group one where an arm failed in a seed: the seeds that are left tell too little of it.

    Args:
      scores: The scores by arm and column.
      experiment: What the run is: its arms and groups.
      key: The column as (eval, split).
      failed: Names of arms with a failed seed.
    """
    found = set()
    for arms in experiment.groups.values():
        rivals = {arm.name: scores[arm.name].get(key) for arm in arms if not arm.absent}
        measured = {name: score for name, score in rivals.items() if score is not None}
        if len(measured) == len(rivals) and not measured.keys() & set(failed):
            found |= {name for name in measured if better_than_all(name, measured)}
    return found


def _find(cells: Mapping[str, Cell], arms: Sequence[ArmRecord], words: str) -> Cell:
    return next((cells[arm.name] for arm in arms if arm.words == words), Cell(None))


def _column(
    results: Sequence[Result], experiment: Experiment, column: Column, failed: Collection[str]
) -> dict[str, Cell]:
    """The cells of a column by arm."""
    metric = column.metric or experiment.metric
    scores, key = scores_by_arm(results, experiment, metric), (column.eval, column.split)
    best = best_arms(scores, experiment, key, failed)
    return {
        arm.name: Cell(scores[arm.name].get(key), _published(arm, column, metric), arm.name in best, bool(arm.absent))
        for arm in experiment.arms
    }


def _published(arm: ArmRecord, column: Column, metric: str) -> float | int | None:
    if column.eval != "finetune":
        return None
    return arm.published.get(f"{column.split}/{metric}", arm.published.get(column.split))
