"""A recorded run: what its files say, and the few facts of it that the README states."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from simsiam_jax.data.datasets import dataset_title
from simsiam_jax.records.experiment import ArmRecord, Experiment, read_experiment
from simsiam_jax.records.results import Result, read_results
from simsiam_jax.report.labels import efficiency
from simsiam_jax.report.seeds import Difference, Score, paired_difference, scores_by_arm
from simsiam_jax.report.summary import Table, summarise
from simsiam_jax.report.words import NOT_RUN, NOTHING, STAGE_WORDS, escape_markdown, signed

__all__ = [
    "NOTHING",
    "NOT_RUN",
    "RESULTS",
    "STAGE_WORDS",
    "Difference",
    "Recorded",
    "efficiency",
    "escape_markdown",
    "interval_text",
    "score_text",
]

RESULTS = Path(__file__).parent


@dataclass(frozen=True)
class Recorded:
    """A run in this folder.

    Attributes:
      folder: Path of the run's folder.
      experiment: Content of its experiment.json.
      results: Lines of its results.jsonl.
    """

    folder: Path
    experiment: Experiment
    results: list[Result]

    @classmethod
    def read(cls, name: str, root: Path = RESULTS) -> "Recorded":
        """Reads a run.

        Args:
          name: Name of the run's folder.
          root: Folder that holds the runs.

        Raises:
          InputError: If one of its files is missing or damaged.
        """
        return cls(root / name, read_experiment(root / name), read_results(root / name))

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.name

    @cached_property
    def table(self) -> Table:
        """The report's numbers."""
        return summarise(self.results, self.experiment)

    @cached_property
    def scores(self) -> dict[str, dict[tuple[str, str], Score]]:
        """Scores in percent by arm and (stage, split)."""
        return scores_by_arm(self.results, self.experiment, self.experiment.metric)

    def arm(self, name: str) -> ArmRecord:
        """The record of the arm with this name."""
        return next(arm for arm in self.experiment.arms if arm.name == name)

    def first_of_group(self, name: str) -> str:
        """The name of the arm that the arm with this name is compared with; its own for the first one of a group."""
        return next(arms[0].name for arms in self.experiment.groups.values() if self.arm(name) in arms)

    def difference(self, arm: str, reference: str, stage: str) -> Difference | None:
        """The paired difference of two arms on test images, in points; None where one of them was not measured.

        Args:
          arm: Name of the arm.
          reference: Name of the arm that it is compared with.
          stage: Name of the evaluation.
        """
        found = [self.scores[name].get((stage, "test")) for name in (arm, reference)]
        ours, theirs = found
        return None if ours is None or theirs is None else paired_difference(ours.by_seed, theirs.by_seed)

    def planned(self, arm: str) -> Difference:
        """The difference that the plan decided on, with the interval of its look, in points."""
        assert self.table.planned is not None
        return next(row for row in self.table.rows if row.name == arm).differences[self.table.planned]

    def draws(self, arm: str, stage: str) -> int:
        """The number of draws of labels that each seed of an evaluation is the mean of; 1 in older runs.

        Args:
          arm: Name of the arm.
          stage: Name of the evaluation.
        """
        return max((len(each.draws) for each in self.results if (each.arm, each.eval) == (arm, stage)), default=0) or 1

    @property
    def dataset_words(self) -> str:
        """The data set's name; the folder's own name where the data are a folder."""
        return dataset_title(self.experiment.dataset)

    @property
    def device(self) -> str:
        """Every device that measured something."""
        return ", ".join(dict.fromkeys(result.device for result in self.results))

    @property
    def revision(self) -> str:
        """First 7 digits of every revision that measured something."""
        return ", ".join(dict.fromkeys(result.git_revision[:7] for result in self.results))

    @property
    def versions(self) -> str:
        """Names and versions of what the numbers depend on."""
        shown = ("python", "jax", "flax", "optax", "numpy")
        return ", ".join(f"{name} {self.results[0].versions[name]}" for name in shown)

    @property
    def minutes(self) -> float:
        """Sum of the time of all stages in minutes; a stage that reports two splits counts once."""
        seconds = {(result.arm, result.seed, result.eval): result.seconds for result in self.results}
        return sum(seconds.values()) / 60

    @property
    def size(self) -> str:
        """Network, images, epochs and labels in words."""
        config = self.experiment.config
        program: Mapping[str, Any] = config.get("program", config)
        backbones = {result.backbone for result in self.results}
        width = program["backbone"]["width"]
        side = program["image_size"]
        words = [
            f"{'networks' if len(backbones) > 1 else next(iter(backbones))} at {width:g} of the full width",
            f"{self.experiment.data['unlabelled']['images']:,} unlabelled images at {side}×{side}",
            f"{config['pretrain']['epochs']} epochs of pretraining",
        ]
        labels = config["evaluation"]["labels_per_class"]
        if labels is not None and not any(arm.labels for arm in self.experiment.arms):
            words.append(f"then {labels} labels a class")
        return ", ".join(words)


def interval_text(difference: Difference) -> str:
    """`+4.13 (−2.43 to +10.68)`: a difference in points with Student's 95 % interval, where there is one."""
    if difference.low is None or difference.high is None:
        return signed(difference.mean)
    return f"{signed(difference.mean)} ({signed(difference.low)} to {signed(difference.high)})"


def score_text(score: Score) -> str:
    """`61.53 ± 3.71`: mean and standard deviation over seeds in percent."""
    return f"{score.mean:.2f}" if score.std is None else f"{score.mean:.2f} ± {score.std:.2f}"
