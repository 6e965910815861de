"""What a run is: `experiment.json`, written and read by one dataclass, and the names that all its files use."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from simsiam_jax.errors import InputError, require
from simsiam_jax.files import one_line, read_sealed, write_sealed
from simsiam_jax.settings.values import from_dict, to_dict

EXPERIMENT_FILE = "experiment.json"
STAGES = ("pretrain", "knn", "linear", "finetune")
EVALUATIONS = STAGES[1:]
SPLITS = ("train", "validation", "test")
_FIX = "give the folder that a launcher wrote, or run the launcher again in a new one"


class Headline(NamedTuple):
    """The words for the one number that an experiment's tables show.

    Attributes:
      name: The number's full name.
      noun: Its name inside a sentence.
      unit: The label of a curve's axis.
      note: A remark for a table's caption, with a leading blank.
    """

    name: str
    noun: str
    unit: str
    note: str = ""


# Every number that tables can show, by its name in result files, where it is a fraction 0..1 (`metrics.scores`).
HEADLINES = {
    "top1": Headline("top-1 accuracy", "accuracy", "top-1, %"),
    "balanced_accuracy": Headline("balanced accuracy", "balanced accuracy", "balanced accuracy, %"),
    "auc": Headline("area under the ROC curve", "AUC", "AUC, %"),
    **{
        f"{average}_{name}": Headline(f"{average} {words}", f"{average} {words}", "%", note.format(average))
        for average in ("macro", "micro")
        for name, words, note in (
            ("jaccard", "Jaccard", " (which the paper calls {} accuracy)"),
            ("accuracy", "accuracy", ""),
            ("auc", "AUC", ""),
            ("average_precision", "average precision", ""),
        )
    },
}


def _require_one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    require(value in known, f"{name} must be one of {', '.join(known)}, not {value!r}")


@dataclass(frozen=True)
class Column:
    """A column of the table in the paper's form.

    Attributes:
      heading: The column's heading.
      eval: The evaluation that is shown, one of `EVALUATIONS`.
      split: The split that is shown, one of `SPLITS`.
      metric: The number that is shown, one of `HEADLINES`; None means the experiment's `metric`.
    """

    heading: str
    eval: str
    split: str
    metric: str | None = None

    def __post_init__(self) -> None:
        _require_one_of("a column's eval", self.eval, EVALUATIONS)
        _require_one_of("a column's split", self.split, SPLITS)
        if self.metric is not None:
            _require_one_of("a column's metric", self.metric, tuple(HEADLINES))


@dataclass(frozen=True)
class Layout:
    """The table in the paper's form.

    Attributes:
      columns: The columns. A pivoted table has one, whose number fills it.
      pivot: Whether groups are the lines and arms the columns (Table 2). Otherwise every arm is a line.
    """

    columns: tuple[Column, ...]
    pivot: bool = False

    def __post_init__(self) -> None:
        require(len(self.columns) > 0, "a layout must have at least one column")
        require(not self.pivot or len(self.columns) == 1, "a pivoted layout must have exactly one column")


@dataclass(frozen=True)
class ArmRecord:
    """What experiment.json says of one arm of an ablation.

    Attributes:
      name: The arm's folder.
      label: What tables call the arm.
      position: The arm's place, from 0, among all arms that the launcher knows. Figures choose colour and marker by
        it, so that an arm looks the same whichever other arms are run.
      published: The paper's numbers in percent: by split where they are of the headline, else by `split/metric`.
      pretrain: The kind of pretraining, `none`, `in_domain` or `random_images`; None where the file does not say.
      group: The arms of a group are compared with its first arm. All arms without a group are one group.
      shares: The arm whose pretraining this arm starts from; None where it has its own.
      settings: The settings in which the arm differs from the run, by the names of their flags.
      changes: The same differences in full, such as `pretrain.stop_gradient: true -> false`.
      labels: The number of labelled images that the arm learns from; None where arms do not differ in it.
      absent: The reason why the arm was not run; None for an arm that was or will be run.
      init: The weights that the arm starts from; None for random ones or those of the run.
    """

    name: str
    label: str
    position: int
    published: dict[str, float | int] = field(default_factory=dict)
    pretrain: str | None = None
    group: str | None = None
    shares: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    labels: int | None = None
    absent: str | None = None
    init: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, value in self.published.items():
            require(math.isfinite(value), f"the published number {name!r} of {self.name} is not finite")

    @property
    def words(self) -> str:
        """The label on one line, or the name where there is no label."""
        return " ".join(self.label.split()) or self.name

    @property
    def title(self) -> str:
        """The label with the group in front, if it has one: it tells the arm from every other arm."""
        return self.words if self.group is None or self.group in self.words else f"{self.group}: {self.words}"


@dataclass(frozen=True)
class AnalysisPlan:
    """How a run decides: fixed before anything is measured, so that looking at results cannot choose the answer.

    Attributes:
      evaluation: The evaluation whose headline on test images decides, one of `EVALUATIONS`.
      primary: The names of the arms whose comparison with the first arm of their group is asked for. Every other arm
        is a further one.
      looks: The numbers of seeds, ascending, after which the run may stop; one number for a fixed number of seeds.
      first_seed: The first seed; the others follow it.
      smallest_effect: The difference in points, 0 or more, below which an effect does not matter; 0 asks for none.
      alpha: The probability, over all looks and arms, of claiming an effect where there is none.
    """

    evaluation: str
    primary: tuple[str, ...]
    looks: tuple[int, ...]
    first_seed: int = 0
    smallest_effect: float = 1.0
    alpha: float = 0.05

    def __post_init__(self) -> None:
        _require_one_of("the deciding evaluation", self.evaluation, EVALUATIONS)
        ascending = list(self.looks) == sorted(set(self.looks)) and len(self.looks) > 0 and self.looks[0] >= 1
        require(ascending, f"looks must be ascending numbers of seeds, not {self.looks}")
        require(self.smallest_effect >= 0, f"smallest_effect must be 0 or more points, not {self.smallest_effect}")
        require(0 < self.alpha < 1, f"alpha must lie between 0 and 1, not {self.alpha}")

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of a run that goes on to its last look."""
        return tuple(range(self.first_seed, self.first_seed + self.looks[-1]))


@dataclass(frozen=True)
class LabelCounts:
    """How often each class or attribute occurs in a split, in the order of `Experiment.class_names`.

    Attributes:
      present: The number of images of each class, or of those that have each attribute.
      known: The number of images of which each attribute is known; empty for classes.
    """

    present: tuple[int, ...]
    known: tuple[int, ...] = ()


@dataclass(frozen=True)
class Leak:
    """How many images of a split also lie in another one, exactly or nearly.

    Attributes:
      split: The split that is looked at, `validation` or `test`.
      among: The images among which its images were found: `train`, `validation` or `pretraining`.
      images: The number of images of the split.
      shared: The number of them that lie in the other split too, 1 or more.
      exact: The number of these that are equal to an image there, pixel for pixel.
    """

    split: str
    among: str
    images: int
    shared: int
    exact: int


@dataclass(frozen=True)
class Experiment:
    """What a run is: the content of its experiment.json.

    Attributes:
      experiment: The launcher's name, which the run's results carry.
      title: The report's title.
      question: The question that the report answers.
      dataset: The data set that is evaluated on, as `--dataset` names it.
      command: The command that repeats the run.
      arms: The arms in the order of the table. The first arm of a group is what its others are compared with.
      evals: The evaluations of the run, in the order of `EVALUATIONS`.
      config: All settings of the run, as nested plain values.
      data: The number of images and the fingerprint of each split.
      paper_source: The place in the paper that the arms' published numbers are from; None where there are none.
      seeds: The seeds that the finished run has; empty where the file does not say.
      init: The weights that the run's backbones start from; None for random ones.
      metric: The number that tables show, one of `HEADLINES`.
      label_kind: `classes`, `attributes` or `none`; None where the file does not say.
      class_names: The names of the classes or attributes; empty where they are not known.
      layout: The table in the paper's form; None where the paper has none.
      figure3: Whether the report draws the loss on test images by epoch of pretraining (Figure 3).
      plan: How the run decides; None where it only describes, as a search for settings does.
      label_draws: The number of draws of labelled images of each evaluation, by its name; one where none is said.
      metric_reason: Why another number than the usual one leads, as the end of a sentence; empty where the usual does.
      label_counts: How often each class or attribute occurs, by split; empty where the file does not say.
      leaks: The images of a split that also lie in another; None where the file does not say that any were looked for.
    """

    experiment: str
    title: str
    question: str
    dataset: str
    command: str
    arms: tuple[ArmRecord, ...]
    evals: tuple[str, ...]
    config: dict[str, Any]
    data: dict[str, Any]
    paper_source: str | None = None
    seeds: tuple[int, ...] = ()
    init: dict[str, Any] | None = None
    metric: str = "top1"
    label_kind: str | None = None
    class_names: tuple[str, ...] = ()
    layout: Layout | None = None
    figure3: bool = False
    plan: AnalysisPlan | None = None
    label_draws: dict[str, int] = field(default_factory=dict)
    metric_reason: str = ""
    label_counts: dict[str, LabelCounts] = field(default_factory=dict)
    leaks: tuple[Leak, ...] | None = None

    def __post_init__(self) -> None:
        require(len(self.arms) > 0, "arms must name at least one arm")
        for name in self.evals:
            _require_one_of("evals", name, EVALUATIONS)
        _require_one_of("metric", self.metric, tuple(HEADLINES))

    @property
    def headline(self) -> Headline:
        """The words for `metric`."""
        return HEADLINES[self.metric]

    @property
    def groups(self) -> dict[str | None, tuple[ArmRecord, ...]]:
        """The arms of each group in order: a group's others are compared with its first arm."""
        names = dict.fromkeys(arm.group for arm in self.arms)
        return {name: tuple(arm for arm in self.arms if arm.group == name) for name in names}

    def write(self, workdir: Path) -> None:
        """Writes experiment.json into `workdir`, whole or not at all.

        Raises:
          ValueError: If a value is not finite.
        """
        write_sealed(Path(workdir) / EXPERIMENT_FILE, to_dict(self))


def read_experiment(workdir: Path) -> Experiment:
    """Reads what `Experiment.write` left in `workdir`.

    Raises:
      InputError: If there is no such folder or file, or if the file is not what a launcher writes.
    """
    require(Path(workdir).is_dir(), f"--workdir={workdir}: there is no such folder")
    path = Path(workdir) / EXPERIMENT_FILE
    require(
        path.exists(), f"--workdir={workdir} holds no {EXPERIMENT_FILE}: give the folder of a finished or begun run"
    )
    try:
        return from_dict(Experiment, read_sealed(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} does not describe a run ({one_line(error)}): {_FIX}") from None
