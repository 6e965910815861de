"""A study: its arms, what they are evaluated by, and where its results go."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simsiam_jax.data.datasets import dataset_title
from simsiam_jax.errors import require
from simsiam_jax.records.experiment import EVALUATIONS, AnalysisPlan, Layout
from simsiam_jax.settings.resolve import SETTINGS
from simsiam_jax.settings.schema import Config
from simsiam_jax.weights.initial import start_name


@dataclass(frozen=True)
class Arm:
    """An arm of an ablation: a row of its table.

    Attributes:
      pretrain: Images of its pretraining: `none`, `random_images`, or `in_domain` for those of `Config.pretrain`
        without their labels; of a backbone that was pretrained before, the name of what it saw.
      label: Title in tables; `{dataset}` stands for the name of the data set pretrained on.
      published: The paper's numbers in percent: by split where they are those of the headline, or by `split/metric`.
      settings: Settings in which the arm differs from the run, by name.
      group: Group of arms that are compared with its first one; None puts the arm into one group with all such arms.
      shares: The arm whose pretraining this one starts from, instead of having its own.
    """

    pretrain: str
    label: str
    published: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    shares: str | None = None

    def __post_init__(self) -> None:
        for name in self.settings:
            if name not in SETTINGS or SETTINGS[name].setting.shared:
                raise TypeError(f"{name!r} is no setting in which an arm may differ from others")

    def source(self, config: Config) -> str:
        """The name of the data that this arm is pretrained on, or `none`."""
        return config.pretrain.dataset or config.dataset if self.pretrain == "in_domain" else self.pretrain

    def title(self, config: Config) -> str:
        """What tables call the arm: its pretraining, and where that starts unless from random weights."""
        label = self.label.format(dataset=dataset_title(config.pretrain.dataset or config.dataset))
        # An arm that sets its own start is called after it.
        named = config.init == "random" or "init" in self.settings
        return label if named else f"{label}, from {start_name(config.init)}"

    def pretraining(self, config: Config) -> str:
        """What results call the arm's pretraining: `none`, a data set's name, or `imagenet+stl10` for both in turn."""
        source = self.source(config)
        if config.init == "random":
            return source
        return start_name(config.init) if source == "none" else f"{start_name(config.init)}+{source}"


# The three arms of Table 1.
THREE_ARMS: Mapping[str, Arm] = {
    "none": Arm("none", "no pretraining"),
    "random": Arm("random_images", "random images"),
    "in_domain": Arm("in_domain", "{dataset} images, no labels"),
}


def backbone_arms(
    backbones: Mapping[str, str],
    published: Mapping[tuple[str, str], Mapping[str, float]],
    in_domain: Mapping[str, Any] | None = None,
) -> dict[str, Arm]:
    """The arms of Tables 2 and 3: each backbone, a group of its own, without, with in-domain and with ImageNet's start.

    Args:
      backbones: Titles of the backbones by name.
      published: The paper's numbers by backbone and pretraining (`none`, `in_domain`, `imagenet`), as `Arm` takes them.
      in_domain: Further settings of the arms that are pretrained.
    """
    pretrainings = {
        "none": ("none", "no pretraining", {}),
        "in_domain": ("in_domain", "{dataset}, no labels", in_domain or {}),
        "imagenet": ("none", "ImageNet, with labels", {"init": "imagenet"}),
    }
    return {
        f"{backbone}-{name}": Arm(
            pretrain, label, published[backbone, name], {"backbone": backbone, **settings}, group=title
        )
        for backbone, title in backbones.items()
        for name, (pretrain, label, settings) in pretrainings.items()
    }


@dataclass(frozen=True)
class Study:
    """One run of a launcher.

    Attributes:
      experiment: Name of the launcher, which its results carry.
      title: Title of the report.
      question: Question that the report answers.
      arms: Arms to run by name; those of a group are compared with its first one.
      config: Settings that hold where an arm says nothing else.
      seeds: Seeds, each of which runs every arm.
      evaluations: Names of the evaluations, of `EVALUATIONS`.
      workdir: Folder of the results.
      data_dir: Folder of the prepared data.
      manual_dir: Folder with files that the user fetched, or None.
      command: Command line that repeats the run.
      feed: Name of the feed that brings images to the devices, of `data.feed.FEEDS`; it changes no result.
      accumulate_by: Form of an update, of `train.epochs.FORMS`; it changes results by rounding alone.
      paper_source: Source of the arms' published numbers, or None.
      configs: Settings of the arms that differ from `config`.
      layout: The table in the paper's form; None shows fine-tuning's headline on validation and test.
      tested: Whether evaluations read the test images; a search for settings does not.
      known_arms: Names of all arms that the launcher has, of which `arms` may be a part.
      plan: How the run decides, and after which numbers of seeds; None where it only describes.
      budget: Seconds after which a run that may stop early begins no further unit; None without a limit.
      keep: Which checkpoints stay when a unit has ended: `all`, that is the last two of each stage, `last` or `none`.
      cache_limit: Bytes that data which can be made again may take in `data_dir`; None without a limit.
    """

    experiment: str
    title: str
    question: str
    arms: Mapping[str, Arm]
    config: Config
    seeds: tuple[int, ...]
    evaluations: tuple[str, ...]
    workdir: Path
    data_dir: Path
    manual_dir: Path | None
    command: str
    feed: str = "auto"
    accumulate_by: str = "auto"
    paper_source: str | None = None
    configs: Mapping[str, Config] = field(default_factory=dict)
    layout: Layout | None = None
    tested: bool = True
    known_arms: Sequence[str] = ()
    plan: AnalysisPlan | None = None
    budget: float | None = None
    cache_limit: float | None = None
    keep: str = "all"

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds after which the run may stop; the number of all seeds where it has no plan."""
        return self.plan.looks if self.plan else (len(self.seeds),)

    def on(self, platform: str) -> "Study":
        """The same with what `auto` means among the settings on a platform of jax, such as `cpu` or `gpu`."""
        configs = {name: config.on(platform) for name, config in self.configs.items()}
        return dataclasses.replace(self, config=self.config.on(platform), configs=configs)

    def config_of(self, arm: str) -> Config:
        """All settings of an arm."""
        return self.configs.get(arm, self.config)

    def position(self, arm: str) -> int:
        """An arm's place among all arms of the launcher, by which figures choose its colour."""
        return list(self.known_arms or self.arms).index(arm)

    def __post_init__(self) -> None:
        require(len(self.seeds) >= 1, f"--seeds must be at least 1, not {len(self.seeds)}")
        for name in self.evaluations:
            require(name in EVALUATIONS, f"--evals: unknown evaluation {name!r}; known: {', '.join(EVALUATIONS)}")
