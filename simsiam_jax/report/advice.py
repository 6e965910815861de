"""What to do next, from a report's own numbers: at most four steps, each with its reason and its command.

Advice is given for a run with a plan, about its primary comparisons. A step that asks for another run has a command
with a folder of its own, because settings of a begun run are not changed.
"""

import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simsiam_jax.records.experiment import Experiment
from simsiam_jax.report.curves import Curves
from simsiam_jax.report.decide import Decision
from simsiam_jax.report.summary import Row, Table
from simsiam_jax.report.words import STAGE_WORDS, seeds_text, signed
from simsiam_jax.settings.resolve import SETTINGS

MOST = 4
# Between the last two measurements, kNN must have risen by these points, or the rank by this share, to count as rising.
RISING_POINTS, RISING_SHARE = 0.5, 0.02
# Below this number of unlabelled images, more of them are worth gathering.
FEW_IMAGES = 2000
# The backbones for which `--init=imagenet` knows weights, which are of full width.
IMAGENET_BACKBONES = ("resnet18", "efficientnet_b0")


@dataclass(frozen=True)
class Step:
    """One piece of advice.

    Attributes:
      words: What to do.
      reason: The number that led to it.
      command: The command that does it; None where there is none.
    """

    words: str
    reason: str
    command: str | None = None

    def __str__(self) -> str:
        return f"{self.words}, because {self.reason}."


def advice(table: Table, experiment: Experiment, pretraining: Sequence[Curves]) -> tuple[Step, ...]:
    """What to do next, the most urgent first; nothing without a plan, or before its first look.

    Args:
      table: The numbers and the decisions.
      experiment: What the run is: its plan, its settings and its command.
      pretraining: The arms' logs of pretraining, in the order of the arms.
    """
    rows = {row.name: row for row in table.rows}
    asked = [(rows[arm], decision) for arm, decision in table.decisions.items() if decision.primary]
    asked = [(row, decision) for row, decision in asked if decision.look is not None]
    if experiment.plan is None or not asked:
        return ()
    logs = {arm.name: curves for arm, curves in zip(experiment.arms, pretraining, strict=True)}
    steps = [
        *_use(asked, experiment),
        *_repair(asked, experiment),
        *_more_seeds_or_draws(asked, table, experiment),
        *_more_updates(asked, logs, experiment),
        *_more_images(asked, experiment),
        *_other_settings(asked, experiment),
    ]
    return tuple(steps[:MOST])


def with_flags(command: str, **values: str | int | float) -> str:
    """A command with these flags in place of those of the same names.

    Args:
      command: A command line whose flags are written `--name=value` or `--name value`.
      values: The flags' values by name.
    """
    kept: list[str] = []
    drop_value = False
    for word in shlex.split(command):
        name, _, given = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in values:
            drop_value = not given
        elif drop_value and not word.startswith("-"):
            drop_value = False
        else:
            drop_value = False
            kept.append(word)
    return shlex.join([*kept, *(f"--{name}={value}" for name, value in values.items())])


Asked = Sequence[tuple[Row, Decision]]


def _use(asked: Asked, experiment: Experiment) -> list[Step]:
    """What to use, once the question is answered."""
    helped = [(row, decision) for row, decision in asked if decision.outcome == "helped"]
    if helped:
        row, decision = max(helped, key=lambda each: _score(each[0], experiment))
        assert experiment.plan is not None
        seed = experiment.plan.first_seed
        folder = f"{row.arm.shares or row.name}/seed-{seed}/pretrain"
        reason = f"it raised {_spoken(experiment)} by {_change(decision)}"
        command = f"simsiam export --checkpoint=WORKDIR/{folder} --out=exported"
        return [Step(f"Use the pretraining “{row.label}”, whose checkpoint is {folder} in this run's folder",
                     reason, command)]  # fmt: skip
    if all(decision.outcome in ("hurt", "too_small") for _, decision in asked):
        row, decision = max(asked, key=lambda each: each[1].mean or 0.0)
        reference = row.reference.words if row.reference is not None else ""
        said = "a loss" if decision.outcome == "hurt" else "too small to matter"
        reason = f"“{row.label}” changed {_spoken(experiment)} by {_change(decision)}, which is {said}"
        return [Step(f"Do without this pretraining: start from “{reference}”", reason)]
    return []


def _repair(asked: Asked, experiment: Experiment) -> list[Step]:
    """Another recipe or rate, where a pretraining collapsed or lost dimensions.

    Where `practice` helped all the same there is none: half its rate was no better (experiments/results/README.md).
    """
    small = _value(experiment, "recipe") == "practice"
    faulty = [row for row, decision in asked if row.flag is not None and not (small and decision.outcome == "helped")]
    if not faulty:
        return []
    reason = f"“{faulty[0].label}” {faulty[0].flag}"
    rate = _value(experiment, "learning_rate")
    if not small:
        words = "Pretrain with the recipe for small data"
        return [Step(words, reason, _another(experiment, "practice", recipe="practice"))]
    if not isinstance(rate, int | float):
        return []
    return [Step("Pretrain with half the learning rate", f"{reason} at {rate:g}",
                 _another(experiment, "lower-rate", learning_rate=f"{rate / 2:g}"))]  # fmt: skip


def _more_seeds_or_draws(asked: Asked, table: Table, experiment: Experiment) -> list[Step]:
    """More seeds or more draws of labelled images, for comparisons that are undecided."""
    plan, open_ones = experiment.plan, [each for each in asked if each[1].outcome == "undecided"]
    if not open_ones or plan is None:
        return []
    row, decision = max(open_ones, key=lambda each: abs(each[1].mean or 0.0))
    found = table.components.get(row.name)
    undecided = f"“{row.label}” is undecided after {seeds_text(decision.n)} ({_change(decision)})"
    draws = experiment.label_draws.get(plan.evaluation, 1)
    if found is not None and found.more_draws is not None and not found.seeds_dominate and draws > 1:
        flag = "finetune_label_draws" if plan.evaluation == "finetune" else "label_draws"
        reason = f"{undecided} and draws of labelled images differ by {found.between_draws:.1f} points"
        command = _another(experiment, "more-draws", **{flag: draws + found.more_draws})
        return [Step(f"Average each seed over {draws + found.more_draws} draws of labelled images", reason, command)]
    if not decision.final:
        assert decision.look is not None
        words = f"Go on to {seeds_text(plan.looks[decision.look + 1])}"
        return [Step(words, undecided, experiment.command)]
    more = decision.n if found is None or found.more_seeds is None else found.more_seeds
    if found is not None and found.between_seeds is not None:
        undecided = f"{undecided} and seeds differ by {found.between_seeds:.1f} points"
    first, count = plan.first_seed + plan.looks[-1], decision.n + more
    words = f"Ask again with {seeds_text(count)} that are new: seeds added to a finished plan would raise its error"
    return [Step(words, undecided, _another(experiment, "new-seeds", first_seed=first, seeds=count))]


def _more_updates(asked: Asked, logs: Mapping[str, Curves], experiment: Experiment) -> list[Step]:
    """More epochs, where kNN or the rank still rose at the end."""
    for row, _ in asked:
        rise = _rise(logs[row.name], experiment)
        if rise is not None:
            # The log's last epoch, because --min_updates may have made more of them than --epochs says.
            epochs = max(logs[row.name].by_epoch("epoch"))
            words = "Pretrain for twice as many epochs"
            return [Step(words, f"{rise} of “{row.label}”", _another(experiment, "longer", epochs=2 * epochs))]
    return []


def _rise(curves: Curves, experiment: Experiment) -> str | None:
    """How kNN or the rank rose between the last two measurements; None where neither did."""
    for field, name, form, scale in (
        (f"knn_{experiment.metric}", f"kNN {experiment.headline.noun}", "{:.1f} %", 100.0),
        ("heldout_rank", "the effective rank", "{:.1f}", 1.0),
    ):
        means = [(epoch, scale * statistics.fmean(values)) for epoch, values in curves.by_epoch(field).items()]
        if len(means) < 2:
            continue
        (before, low), (after, high) = means[-2:]
        if high - low >= (RISING_POINTS if scale > 1 else RISING_SHARE * low):
            return f"{name} still rose from {form.format(low)} to {form.format(high)} in epochs {before} to {after}"
    return None


def _more_images(asked: Asked, experiment: Experiment) -> list[Step]:
    """More unlabelled images, where pretraining helped and there were few, or not all were used."""
    helped = [(row, decision) for row, decision in asked if decision.outcome == "helped"]
    count = experiment.data.get("unlabelled", {}).get("images")
    if not helped or not isinstance(count, int):
        return []
    row, decision = helped[0]
    reason = f"“{row.label}” gave {_change(decision)} with {count:,} unlabelled images"
    if _value(experiment, "pretrain_images") == count:
        command = _another(experiment, "more-images", pretrain_images=2 * count)
        return [Step("Pretrain on twice as many images", reason, command)]
    return [Step("Gather more unlabelled images of this kind", reason)] if count < FEW_IMAGES else []


def _other_settings(asked: Asked, experiment: Experiment) -> list[Step]:
    """Other views, weights or backbone, where pretraining did not help."""
    if any(decision.outcome == "helped" for _, decision in asked):
        return []
    row, decision = asked[0]
    reason = f"“{row.label}” gave {_change(decision)}"
    crops, backbone = _value(experiment, "crop_scale"), _value(experiment, "backbone")
    views = "" if not isinstance(crops, list | tuple) else f" with crops from {crops[0]:g} of the image"
    dataset = shlex.quote(f"--dataset={experiment.dataset}")
    steps = [Step("Search for views that suit these images", f"{reason}{views}",
                  f"python -m experiments.search_augmentation {dataset}")]  # fmt: skip
    alone = len({row.arm.group for row, _ in asked}) == 1 and not row.arm.settings.get("backbone")
    full = _value(experiment, "width") in (1, 1.0)
    if alone and backbone in IMAGENET_BACKBONES and full and _value(experiment, "init") == "random":
        command = _another(experiment, "imagenet", init="imagenet")
        steps.append(Step("Start from ImageNet weights", f"{reason} from random weights", command))
    if alone and isinstance(backbone, str):
        other = "pit_ti" if backbone != "pit_ti" else "resnet18"
        command = _another(experiment, other, backbone=other)
        steps.append(Step("Try another backbone", f"{reason} with {backbone}", command))
    return steps


def _another(experiment: Experiment, folder: str, **values: str | int | float) -> str:
    """The run's command with these flags, for a folder of its own."""
    return with_flags(experiment.command, **values, workdir=f"runs/{experiment.experiment}-{folder}")


def _value(experiment: Experiment, flag: str) -> Any:
    """The value of a setting of the run by its flag's name, or of the recipe; None where the file does not say."""
    value: Any = experiment.config
    for name in SETTINGS[flag].path if flag in SETTINGS else (flag,):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _spoken(experiment: Experiment) -> str:
    assert experiment.plan is not None
    return f"{STAGE_WORDS[experiment.plan.evaluation].adjective} test {experiment.headline.noun}"


def _score(row: Row, experiment: Experiment) -> float:
    assert experiment.plan is not None
    score = row.scores.get((experiment.plan.evaluation, "test"))
    return score.mean if score is not None else 0.0


def _change(decision: Decision) -> str:
    """A decision's mean with its interval, such as `+9.4 points (+5.1 to +13.7)`."""
    words = f"{signed(decision.mean or 0.0, 1)} points"
    if decision.low is None or decision.high is None:
        return words
    return f"{words} ({signed(decision.low, 1)} to {signed(decision.high, 1)})"
