"""The numbers of each attribute, of the evaluation that counts most: attributes differ more than their mean says."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simsiam_jax.records.experiment import ArmRecord, Experiment
from simsiam_jax.records.results import Result

# The numbers of `metrics.all_scores` that tables show, with their headings.
NUMBERS = {"jaccard": "Jaccard", "accuracy": "accuracy", "auc": "AUC", "average_precision": "AP"}
CAPTION = (
    "In %, means over seeds. Share: of the test images of which the attribute is known, those that have it; to say yes "
    "to all of them gives this as Jaccard."
)
# A terminal shows so many attributes at most.
MOST, ENDS = 12, 5


@dataclass(frozen=True)
class Attribute:
    """One attribute on the test images.

    Attributes:
      name: Its name.
      share: Of the test images of which it is known, the share that has it, in percent; None where nobody counted.
      numbers: Means over the seeds in percent, by the arm's name and by the name in `NUMBERS`.
      threshold: Mean probability, 0..1, from which on it is predicted, by the arm's name.
    """

    name: str
    share: float | None
    numbers: Mapping[str, Mapping[str, float]]
    threshold: Mapping[str, float]


@dataclass(frozen=True)
class Attributes:
    """The attributes of a run.

    Attributes:
      evaluation: The evaluation whose numbers these are.
      each: The attributes in order.
      arms: The arms that have numbers.
      arm: The arm that a terminal shows: the first that the plan asks for, or the last.
      reference: The arm that `arm` is compared with; None where there is none.
    """

    evaluation: str
    each: tuple[Attribute, ...]
    arms: tuple[ArmRecord, ...]
    arm: ArmRecord
    reference: ArmRecord | None

    @property
    def some(self) -> tuple[Attribute, ...]:
        """The attributes that a terminal has room for: all, or the best few and the worst few by Jaccard."""
        if len(self.each) <= MOST:
            return self.each
        ranked = sorted(self.each, key=lambda each: -self.value(each, "jaccard"))
        return (*ranked[:ENDS], *ranked[-ENDS:])

    def value(self, attribute: Attribute, name: str) -> float:
        """A number of the attribute in `arm`, -1 where it is not defined."""
        return attribute.numbers.get(self.arm.name, {}).get(name, -1.0)

    def change(self, attribute: Attribute) -> float | None:
        """By how many points the attribute's Jaccard index differs from that of the arm that it is compared with."""
        if self.reference is None:
            return None
        ours, theirs = (attribute.numbers.get(arm.name, {}).get("jaccard") for arm in (self.arm, self.reference))
        return None if ours is None or theirs is None else ours - theirs


def attribute_numbers(results: Sequence[Result], experiment: Experiment) -> Attributes | None:
    """The numbers of each attribute on test images, of the plan's evaluation or else of the first that has some.

    Args:
      results: All results of the run. Of two for the same arm, seed, eval and split the later one counts.
      experiment: What the run is: the names and counts of its attributes.

    Returns:
      None for classes, and for older runs, which have no such numbers.
    """
    found = {(each.eval, each.arm, each.seed): each.attributes for each in results
             if each.split == "test" and each.attributes}  # fmt: skip
    measured = {key[0] for key in found}
    wanted = [*([experiment.plan.evaluation] if experiment.plan else []), "finetune", "linear", "knn"]
    evaluation = next((name for name in wanted if name in measured), None)
    if evaluation is None:
        return None
    by_arm = {
        arm.name: [values for (name, where, _), values in found.items() if (name, where) == (evaluation, arm.name)]
        for arm in experiment.arms
    }
    arms = tuple(arm for arm in experiment.arms if by_arm[arm.name])
    if not arms:
        return None
    primary = experiment.plan.primary if experiment.plan else ()
    shown = next((arm for arm in arms if arm.name in primary), arms[-1])
    first = experiment.groups[shown.group][0]
    return Attributes(
        evaluation=evaluation,
        each=tuple(
            Attribute(
                name,
                _share(experiment, place),
                {arm.name: _means(by_arm[arm.name], place, NUMBERS, 100.0) for arm in arms},
                {arm.name: value for arm in arms
                 for value in _means(by_arm[arm.name], place, ("threshold",), 1.0).values()},
            )
            for place, name in enumerate(experiment.class_names)
        ),
        arms=arms,
        arm=shown,
        reference=first if first in arms and first is not shown else None,
    )  # fmt: skip


def _share(experiment: Experiment, place: int) -> float | None:
    counts = experiment.label_counts.get("test")
    if counts is None or place >= len(counts.known) or not counts.known[place]:
        return None
    return 100 * counts.present[place] / counts.known[place]


def _means(
    seeds: Sequence[Mapping[str, Sequence[float | int]]],
    place: int,
    names: Sequence[str] | Mapping[str, str],
    scale: float,
) -> dict[str, float]:
    """Means over the seeds in which a number is defined."""
    means = {}
    for name in names:
        values = [values[name][place] for values in seeds if place < len(values.get(name, ()))]
        finite = [scale * value for value in values if math.isfinite(value)]
        if finite:
            means[name] = statistics.fmean(finite)
    return means
