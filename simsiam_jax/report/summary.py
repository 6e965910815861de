"""The numbers of an ablation: mean and spread over seeds, paired differences within groups of arms, and verdicts.

The first arm of a group is what its others are compared with. All arms without a group are one group. The comparisons
that the run's plan asks for are decided by it (`decide`); all others are descriptive.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from simsiam_jax.records.experiment import EVALUATIONS, ArmRecord, Experiment, Headline
from simsiam_jax.records.failures import Failure, failed_arms, without_verdict
from simsiam_jax.records.results import Result
from simsiam_jax.report.attributes import Attributes, attribute_numbers
from simsiam_jax.report.collapse import (
    RANK_EXPLAINED,
    SPREAD_EXPLAINED,
    collapse_sentence,
    flags,
    rank_sentence,
    ranks,
    spreads,
)
from simsiam_jax.report.decide import Decision, decide
from simsiam_jax.report.paper_form import PaperForm, best_arms, paper_form
from simsiam_jax.report.seeds import Difference, Key, Score, paired_difference, planned_differences, scores_by_arm
from simsiam_jax.report.variance import Components, primary_components
from simsiam_jax.report.verdicts import Verdict, answer, verdict
from simsiam_jax.report.words import NOTHING, STAGE_WORDS, cut, leak_sentence, score_text

# Every column that a table may have, in order, and its heading. Columns of test images also get a difference to the
# first arm and a verdict; columns of validation images do where test images were not read.
COLUMNS: dict[Key, str] = {
    (name, split): f"{STAGE_WORDS[name].heading}, {split}"
    for name in ("finetune", "linear", "knn")
    for split in ("validation", "test")
}
_SHOWN = tuple(key for key in COLUMNS if key[1] == "test" or key[0] == "finetune")
# All numbers that result lines hold of classes and of attributes (`metrics.scores`), with their headings.
CLASS_NUMBERS = {"top1": "top-1 accuracy", "balanced_accuracy": "balanced accuracy", "auc": "AUC"}
ATTRIBUTE_NUMBERS = {
    f"{average}_{name}": f"{average} {words}"
    for average in ("macro", "micro")
    for name, words in (("jaccard", "Jaccard"), ("accuracy", "accuracy"), ("auc", "AUC"), ("average_precision", "AP"))
}
# A class is about as large as the others up to this share more than they would have if all were equal.
_ABOUT = 0.1
_AUC_WORDS = "AUC is the area under the ROC curve"
_CAPTIONS = {
    "classes": "Balanced accuracy: the mean over the classes of the share that is recognised; "
    f"{_AUC_WORDS} of the second class against the first.",
    "attributes": "Macro: the mean over the attributes; micro: all attributes pooled. Accuracy counts right answers, "
    f"Jaccard the present among those present or predicted; {_AUC_WORDS}, AP average precision.",
}


@dataclass(frozen=True)
class Row:
    """One arm of the table.

    Attributes:
      arm: What experiment.json says of the arm.
      scores: The headline in percent by (eval, split), only where it was measured.
      differences: The differences to the reference by (eval, split), in points, only where both were measured. That of
        the plan's column has the mean and the interval of the decision.
      best: The columns in which the arm is clearly above all others of its group.
      flag: In how many seeds the arm failed, or its pretraining collapsed or lost dimensions, in words; None where
        nothing of it happened.
      reference: The arm that this one is compared with; None for the first arm of a group.
    """

    arm: ArmRecord
    scores: dict[Key, Score]
    differences: dict[Key, Difference]
    best: frozenset[Key] = frozenset()
    flag: str | None = None
    reference: ArmRecord | None = None

    @property
    def name(self) -> str:
        """The arm's folder."""
        return self.arm.name

    @property
    def label(self) -> str:
        """The label that tells the arm from every other one."""
        return self.arm.title


@dataclass(frozen=True)
class Majority:
    """What it scores to name the largest class of the training images whatever the image.

    Attributes:
      name: Name of the class.
      numbers: Scores in percent by split and by name in `CLASS_NUMBERS`.
    """

    name: str
    numbers: Mapping[str, Mapping[str, float]]

    @property
    def label(self) -> str:
        """How its line in a table is called."""
        return f"always “{cut(self.name, 24)}”"


@dataclass(frozen=True)
class Table:
    """An ablation's numbers, ready to be shown.

    Attributes:
      title: The experiment's title.
      headline: The words for the number that is shown.
      columns: The columns as (eval, split).
      rows: The arms in order.
      verdicts: A verdict for each compared column, that of the plan first, and each arm that has a reference.
      seeds: The seeds that the finished run has, and any other that was measured.
      units_done: The number of finished evaluations of an arm and seed.
      units_expected: The number of evaluations that the finished run has.
      pretrainings: The number of finished pretrainings.
      details: All that is measured beside the headline as rows of text, headings first; empty where nothing is.
      details_caption: How to read the details; empty where there are none.
      paper_source: The place in the paper that published numbers are from; None where there are none.
      form: The table in the paper's form; None where the paper has none.
      collapse: How pretrainings ended, in a sentence or two; empty without a pretraining.
      dimensions: Whether pretrainings lost dimensions, in a sentence or two; empty where no rank is known.
      compared: The columns that get a difference and a verdict.
      planned: The column that the plan decides on; None without a plan.
      alpha: The probability of a wrong claim that the plan allows.
      decisions: What the plan decides, by the arm's name.
      components: The parts of the uncertainty of each primary comparison, by the arm's name, where they are known.
      answer: What was asked and the answer, in a few sentences; empty without a plan.
      metric: Name of the number that is shown.
      metric_reason: Why another number than the usual one leads, as the end of a sentence; empty where the usual does.
      majority: What it scores to always name the largest class; None where that tells nothing.
      attributes: The numbers of each attribute; None for classes, and for older runs.
      leaks: How many images of a split also lie in another, a sentence for each two splits that share images.
    """

    title: str
    headline: Headline
    columns: tuple[Key, ...]
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    seeds: tuple[int, ...]
    units_done: int
    units_expected: int
    pretrainings: int
    details: tuple[tuple[str, ...], ...] = ()
    details_caption: str = ""
    paper_source: str | None = None
    form: PaperForm | None = None
    collapse: str = ""
    dimensions: str = ""
    compared: tuple[Key, ...] = ()
    planned: Key | None = None
    alpha: float = 0.05
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    components: Mapping[str, Components] = field(default_factory=dict)
    answer: str = ""
    metric: str = "top1"
    metric_reason: str = ""
    majority: Majority | None = None
    attributes: Attributes | None = None
    leaks: tuple[str, ...] = ()

    @property
    def others(self) -> tuple[Row, ...]:
        """The rows that are compared with another one."""
        return tuple(row for row in self.rows if row.reference is not None)

    @property
    def reference(self) -> str:
        """The arm that the others are compared with, in words."""
        titles = list(dict.fromkeys(row.reference.title for row in self.rows if row.reference is not None))
        return f"“{titles[0]}”" if len(titles) == 1 else "the first arm of each group"

    @property
    def precision(self) -> tuple[str, ...]:
        """What the interval of each primary comparison is made of, a sentence for each part."""
        titles = {row.name: f"“{row.label}”: " if len(self.components) > 1 else "" for row in self.rows}
        return tuple(f"{titles[arm]}{said}" for arm, found in self.components.items() for said in found.sentences)

    @property
    def findings(self) -> tuple[str, ...]:
        """What else came out beside the verdicts: leaks, arms that were not run, how pretrainings ended."""
        return tuple(words for words in (*self.leaks, *self.absences, self.collapse, self.dimensions) if words)

    @property
    def terms(self) -> tuple[str, ...]:
        """What the words of the findings mean that not everyone knows."""
        said = ((self.collapse, SPREAD_EXPLAINED), (self.dimensions, RANK_EXPLAINED))
        return tuple(explained for found, explained in said if found)

    @property
    def absences(self) -> tuple[str, ...]:
        """Which arms were not run, and why. Arms of the same reason are in one sentence."""
        absent = sorted((row.arm for row in self.rows if row.arm.absent), key=lambda arm: str(arm.absent))
        by_reason = {reason: [arm.title for arm in arms] for reason, arms in groupby(absent, lambda arm: arm.absent)}
        return tuple(f"Not run: {', '.join(titles)} ({reason})." for reason, titles in by_reason.items())

    @property
    def progress(self) -> str:
        """How much of the run is done, in words."""
        if not self.columns:
            return (
                f"{self.pretrainings} {'pretraining' if self.pretrainings == 1 else 'pretrainings'} done, no evaluation"
            )
        done, expected = self.units_done, self.units_expected
        return f"all {expected} evaluations done" if done == expected else f"{done} of {expected} evaluations done"


def summarise(results: Sequence[Result], experiment: Experiment, failures: Sequence[Failure] = ()) -> Table:
    """Mean, spread and paired differences of an ablation's headline (Tables 1 to 3 of arXiv 2112.02297).

    Differs from the paper: it gives one run each; here every number is over seeds, with paired intervals.

    Args:
      results: All results of the run. Of two for the same arm, seed, eval and split the later one counts.
      experiment: What the run is: the order of the rows, their groups and what a finished run holds.
      failures: The units that failed. No verdict is drawn from their arms.
    """
    failed = failed_arms(failures, experiment)
    withheld = without_verdict(failed, experiment)
    scores = scores_by_arm(results, experiment, experiment.metric)
    here = [result for result in results if result.arm in scores]
    evaluated = [result for result in here if result.eval in EVALUATIONS]
    # A search leaves the test images alone.
    searching = bool(evaluated) and all(result.split != "test" for result in evaluated)
    judged = "validation" if searching else "test"
    measured = {key for columns in scores.values() for key in columns}
    columns = tuple(
        key
        for key in COLUMNS
        if (key in measured if searching else key in _SHOWN and (key[0] in experiment.evals or key in measured))
    )
    compared = tuple(key for key in columns if key[1] == judged)
    planned = planned_differences(results, experiment)
    decisions = {} if experiment.plan is None else decide(planned, experiment.plan, withheld)
    column = None if experiment.plan is None else (experiment.plan.evaluation, "test")
    ended, directions = spreads(results, experiment), ranks(results, experiment)
    faults = flags(ended, directions)
    faults |= {arm: ", ".join((words, faults[arm])) if arm in faults else words for arm, words in failed.items()}
    rows = _rows(scores, experiment, columns, faults, _decided(planned, decisions, experiment), failed)
    seeds = _seeds(here, experiment)
    evals = {key[0] for key in columns}
    done = {
        (result.arm, result.seed, result.eval) for result in here if result.split == judged and result.eval in evals
    }
    majority = majority_scores(experiment)
    details = _details(results, experiment, seeds, majority)
    caption = f"Every number of the test images in %. {_CAPTIONS[_label_kind(experiment)]}"
    return Table(
        title=experiment.title,
        headline=experiment.headline,
        columns=columns,
        rows=rows,
        verdicts=tuple(
            verdict(
                row.arm,
                row.reference,
                key,
                row.differences.get(key),
                experiment,
                decisions.get(row.name) if key == column else None,
                withheld.get(row.name, ""),
            )
            for key in sorted(compared, key=lambda key: key != column)
            for row in sorted(rows, key=lambda row: not (row.name in decisions and decisions[row.name].primary))
            if row.reference is not None and not row.arm.absent
        ),
        seeds=seeds,
        units_done=len(done),
        units_expected=_units(here, experiment) * len(evals),
        pretrainings=len({(result.arm, result.seed) for result in here if result.eval == "pretrain"}),
        details=details,
        details_caption=caption if details else "",
        paper_source=experiment.paper_source if any(arm.published for arm in experiment.arms) else None,
        form=paper_form(results, experiment, failed),
        collapse=collapse_sentence(ended, experiment),
        dimensions=rank_sentence(directions, recipe=experiment.config.get("recipe")),
        compared=compared,
        planned=column,
        alpha=0.05 if experiment.plan is None else experiment.plan.alpha,
        decisions=decisions,
        components={
            arm: found for arm, found in primary_components(results, experiment).items() if arm not in withheld
        },
        answer=answer(decisions, experiment, results),
        metric=experiment.metric,
        metric_reason=experiment.metric_reason,
        majority=majority,
        attributes=attribute_numbers(results, experiment),
        leaks=tuple(leak_sentence(leak) for leak in experiment.leaks or ()),
    )


def majority_scores(experiment: Experiment) -> Majority | None:
    """What it scores to name the largest class of the training images whatever the image.

    Args:
      experiment: What the run is: its classes and their counts.

    Returns:
      None for attributes, without counts, and where classes are about equal, so that it is as good as guessing.
    """
    train = experiment.label_counts.get("train")
    classes = len(experiment.class_names)
    if _label_kind(experiment) != "classes" or train is None or classes < 2 or len(train.present) != classes:
        return None
    largest = max(range(classes), key=lambda place: train.present[place])
    if train.present[largest] * classes <= (1 + _ABOUT) * sum(train.present):
        return None
    numbers = {
        split: {
            "top1": 100 * counts.present[largest] / sum(counts.present),
            "balanced_accuracy": 100.0 * (counts.present[largest] > 0) / sum(count > 0 for count in counts.present),
            **({"auc": 50.0} if classes == 2 else {}),
        }
        for split, counts in experiment.label_counts.items()
        if sum(counts.present)
    }
    return Majority(experiment.class_names[largest], numbers)


def _seeds(here: Sequence[Result], experiment: Experiment) -> tuple[int, ...]:
    """The seeds that the run has. One whose plan may stop early has those that are measured, or the first look's."""
    measured = {result.seed for result in here}
    plan = experiment.plan
    if plan is None or len(plan.looks) == 1:
        return tuple(sorted({*experiment.seeds, *measured}))
    return tuple(sorted(measured)) or plan.seeds[: plan.looks[0]]


def _units(here: Sequence[Result], experiment: Experiment) -> int:
    """The number of arms and seeds that are to be evaluated. Groups may stop at looks of their own."""
    expected = 0
    for arms in experiment.groups.values():
        names = {arm.name for arm in arms}
        seeds = _seeds([result for result in here if result.arm in names], experiment)
        stops_early = experiment.plan is not None and len(experiment.plan.looks) > 1
        count = len(seeds if stops_early else _seeds(here, experiment))
        expected += count * sum(not arm.absent for arm in arms)
    return expected


def _decided(
    planned: Mapping[str, Mapping[int, float]], decisions: Mapping[str, Decision], experiment: Experiment
) -> dict[str, Difference | None]:
    """The difference of each decided arm over the seeds of its look, with the interval of the decision."""
    found: dict[str, Difference | None] = {}
    for arm, decision in decisions.items():
        assert experiment.plan is not None
        seeds = experiment.plan.seeds if decision.look is None else experiment.plan.seeds[: decision.n]
        values = [planned[arm][seed] for seed in seeds if seed in planned[arm]]
        std = statistics.stdev(values) if len(values) > 1 else None
        found[arm] = (
            None if decision.mean is None else Difference(decision.mean, len(values), std, decision.low, decision.high)
        )
    return found


def _rows(
    scores: Mapping[str, dict[Key, Score]],
    experiment: Experiment,
    columns: Sequence[Key],
    faults: Mapping[str, str],
    decided: Mapping[str, Difference | None],
    failed: Collection[str],
) -> tuple[Row, ...]:
    references = {group: arms[0] for group, arms in experiment.groups.items()}
    best = {key: best_arms(scores, experiment, key, failed) for key in columns}
    rows = []
    for arm in experiment.arms:
        reference = None if arm is references[arm.group] else references[arm.group]
        differences = _differences(scores[arm.name], scores[reference.name]) if reference else {}
        if experiment.plan is not None and arm.name in decided:
            key, difference = (experiment.plan.evaluation, "test"), decided[arm.name]
            differences = {name: each for name, each in differences.items() if name != key}
            differences |= {} if difference is None else {key: difference}
        rows.append(
            Row(
                arm=arm,
                scores={key: score for key, score in scores[arm.name].items() if key in columns},
                differences=differences,
                best=frozenset(key for key, names in best.items() if arm.name in names),
                flag=faults.get(arm.name),
                reference=reference,
            )
        )
    return tuple(rows)


def _differences(ours: Mapping[Key, Score], theirs: Mapping[Key, Score]) -> dict[Key, Difference]:
    found = {key: paired_difference(ours[key].by_seed, theirs[key].by_seed) for key in ours.keys() & theirs.keys()}
    return {key: difference for key, difference in found.items() if difference is not None}


def _label_kind(experiment: Experiment) -> str:
    known = experiment.label_kind if experiment.label_kind in _CAPTIONS else None
    return known or ("attributes" if experiment.metric in ATTRIBUTE_NUMBERS else "classes")


def _details(
    results: Sequence[Result], experiment: Experiment, seeds: Sequence[int], majority: Majority | None
) -> tuple[tuple[str, ...], ...]:
    names = ATTRIBUTE_NUMBERS if _label_kind(experiment) == "attributes" else CLASS_NUMBERS
    numbers = {name: scores_by_arm(results, experiment, name) for name in names}
    shown = [name for name in names if any(key[1] == "test" for cells in numbers[name].values() for key in cells)]
    if "balanced_accuracy" in shown and _equal(numbers["balanced_accuracy"], numbers["top1"]):
        shown.remove("balanced_accuracy")  # the classes are equally frequent
    if len(shown) < 2:
        return ()
    body = [
        (arm.title, heading, *(score_text(numbers[name][arm.name].get(key), seeds) for name in shown))
        for key, heading in COLUMNS.items()
        for arm in experiment.arms
        if key[1] == "test" and any(key in numbers[name][arm.name] for name in shown)
    ]
    if majority is not None and "test" in majority.numbers:
        found = majority.numbers["test"]
        body.append((majority.label, NOTHING, *(f"{found[name]:.2f}" if name in found else NOTHING for name in shown)))
    return (("pretraining", "evaluation", *(names[name] for name in shown)), *body)


def _equal(ours: Mapping[str, Mapping[Key, Score]], theirs: Mapping[str, Mapping[Key, Score]]) -> bool:
    """Whether two numbers agree, but for rounding, in every arm, evaluation and seed of the test images."""
    return all(
        math.isclose(value, theirs[arm][key].by_seed.get(seed, value), rel_tol=1e-9)
        for arm, cells in ours.items()
        for key, score in cells.items()
        if key[1] == "test" and key in theirs[arm]
        for seed, value in score.by_seed.items()
    )
