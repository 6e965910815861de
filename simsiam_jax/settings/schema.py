"""Every setting of the study as frozen dataclasses, and the named recipes that fill them.

A *recipe* is a complete method (heads, optimiser, augmentation); a *preset* only changes size and length, and
belongs to the launcher that knows the data. `paper.md`'s three readings of the study are the recipes here:
`paper` is the text of arXiv 2112.02297 and, where the text is silent, its code; `code` is what the code does;
`reference` is SimSiam's own (Chen and He 2021).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from simsiam_jax.errors import require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ViewSpec:
    """How an augmented view is drawn from an image (SimSiam, appendix A).

    The defaults are SimSiam's; `paper.md` section 4 lists them. Probabilities are in 0..1, jitter strengths
    as torchvision's `ColorJitter` takes them, sigmas in output pixels.
    """

    image_size: int
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    greyscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        require(self.image_size >= 1, f"image_size must be at least 1 pixel, not {self.image_size}")
        for name in ("flip", "jitter", "greyscale", "blur"):
            value = getattr(self, f"{name}_probability")
            require(0 <= value <= 1, f"{name}_probability must lie in 0..1, not {value}")
        for name in ("crop_scale", "crop_ratio", "blur_sigma"):
            low, high = getattr(self, name)
            require(0 < low <= high, f"{name} must be 0 < low <= high, not {(low, high)}")
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(value >= 0, f"{name} must not be negative, got {value}")
        require(0 <= self.hue <= 0.5, f"hue must lie in 0..0.5, not {self.hue}")

    @property
    def blur_kernel(self) -> int:
        """Width of the Gaussian blur's kernel in pixels, an odd number about a tenth of the image."""
        return self.image_size // 20 * 2 + 1


@dataclass(frozen=True)
class BackboneConfig:
    """Which backbone, what its weights start from, and its fields (None: it has none such, or its default).

    Attributes:
      name: A key of `models.BACKBONES`.
      stem: First layers of a convolutional network.
      width: Channels as a multiple of the published network's.
      patch_size: Of a vision transformer, in pixels.
      drop_path: Stochastic depth's probability in the last block, 0..1.
      init: `random`, `imagenet`, a file of weights, or `hf:OWNER/REPO`.
    """

    name: str = "resnet18"
    stem: str | None = None
    width: float = 1.0
    patch_size: int | None = None
    drop_path: float | None = None
    init: str = "random"

    def fields(self) -> dict[str, Any]:
        """The fields to hand to `models.create_backbone`."""
        values = {name: getattr(self, name) for name in ("stem", "width", "patch_size", "drop_path")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class HeadConfig:
    """SimSiam's projector and predictor; dims are output and hidden widths in units.

    The last three are there to be taken away (SimSiam, sections 4.2 and 4.4): without `predictor`, p is z; without
    `hidden_norm`, no hidden layer of either head has a batch norm.

    The paper's "after every fully connected layer except the output layer" is read as the network's output layer, the
    predictor's, as its code and SimSiam have it; `projector_output_norm="none"` is the other reading.
    """

    projector_dim: int = 1024
    projector_layers: int = 3
    projector_output_norm: Literal["none", "plain", "affine"] = "affine"
    predictor_dim: int = 256
    predictor: bool = True
    hidden_norm: bool = True
    predictor_output_norm: Literal["none", "plain", "affine"] = "none"

    def __post_init__(self) -> None:
        for name in ("projector_dim", "projector_layers", "predictor_dim"):
            require(getattr(self, name) >= 1, f"--{name} must be at least 1, not {getattr(self, name)}")
        for name in ("projector_output_norm", "predictor_output_norm"):
            value = getattr(self, name)
            require(value in ("none", "plain", "affine"), f"--{name} must be none, plain or affine, not {value!r}")


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimiser and its schedule.

    `learning_rate` is the peak; with `scale_with_batch` it is multiplied by effective batch / 256, the effective
    batch being micro-batch × accumulation. `weight_decay` is the coupled (L2) kind, on all parameters.
    """

    name: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    scale_with_batch: bool = False
    weight_decay: float = 1e-5
    momentum: float = 0.9
    warmup_epochs: float = 0.0
    schedule: Literal["cosine", "constant"] = "constant"

    def __post_init__(self) -> None:
        require(self.name in ("adam", "sgd"), f"optimizer must be adam or sgd, not {self.name!r}")
        require(self.learning_rate > 0, f"--learning_rate must be positive, not {self.learning_rate}")
        require(self.weight_decay >= 0, f"weight_decay must not be negative, got {self.weight_decay}")
        require(self.warmup_epochs >= 0, f"warmup_epochs must not be negative, got {self.warmup_epochs}")
        require(
            self.schedule in ("cosine", "constant"),
            f"schedule must be cosine or constant, not {self.schedule!r}",
        )

    def peak_learning_rate(self, effective_batch: int) -> float:
        """The learning rate at the end of warm-up for this many images per update."""
        return self.learning_rate * (effective_batch / 256 if self.scale_with_batch else 1.0)


@dataclass(frozen=True)
class PretrainConfig:
    """SimSiam pretraining; batch sizes in images, lengths in epochs.

    `dataset` and `split` say which images it sees, labels aside; None: those of the data set that is evaluated on.
    `stop_gradient` and `symmetric` are equation (3)'s; without the latter only the first view is predicted from.
    `scaling_batch` is the batch by which the optimiser scales its rate: of an update, or of a micro-batch (the paper's
    "BatchSize" can be read so). `test_loss` also logs the loss on the test images, without their labels and with no say
    in anything (Figure 3).
    """

    dataset: str | None = None
    split: str = "train"
    epochs: int = 100
    micro_batch_size: int = 64
    accumulation: int = 8
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(scale_with_batch=True, warmup_epochs=5.0, schedule="cosine")
    )
    constant_predictor_learning_rate: bool = True
    knn_every: int = 5
    max_images: int | None = None
    stop_gradient: bool = True
    symmetric: bool = True
    test_loss: bool = False
    scaling_batch: Literal["effective", "micro"] = "effective"

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"--epochs must be at least 1, not {self.epochs}")
        # Batch statistics of a single image are no statistics.
        require(self.micro_batch_size >= 2, f"--micro_batch_size must be at least 2, not {self.micro_batch_size}")
        require(self.accumulation >= 1, f"--accumulation must be at least 1, not {self.accumulation}")
        require(self.knn_every >= 1, f"--knn_every must be at least 1, not {self.knn_every}")
        require(
            self.max_images is None or self.max_images >= 1,
            f"--pretrain_images must be at least 1, not {self.max_images}",
        )
        require(
            self.scaling_batch in ("effective", "micro"),
            f"--scaling_batch must be effective or micro, not {self.scaling_batch!r}",
        )

    @property
    def effective_batch(self) -> int:
        """Images per optimiser update."""
        return self.micro_batch_size * self.accumulation

    @property
    def rate_batch(self) -> int:
        """Images by which the learning rate is scaled."""
        return self.effective_batch if self.scaling_batch == "effective" else self.micro_batch_size


@dataclass(frozen=True)
class EvaluationConfig:
    """What all evaluations share: the labelled images that they may see, and kNN's two numbers.

    `threshold` is the probability from which on a binary attribute is predicted to be there. `label_fraction` is an
    other way to say `labels_per_class`: a share of all labelled images, 0..1.
    """

    labels_per_class: int | None = None
    label_fraction: float | None = None
    max_validation_images: int | None = None
    threshold: float = 0.5
    knn_k: int = 200
    knn_temperature: float = 0.1

    def __post_init__(self) -> None:
        for flag, value in (
            ("--labels_per_class", self.labels_per_class),
            ("--validation_images", self.max_validation_images),
            ("knn_k", self.knn_k),
        ):
            require(value is None or value >= 1, f"{flag} must be at least 1, not {value}")
        require(
            self.label_fraction is None or 0 < self.label_fraction <= 1,
            f"--label_fraction must lie above 0 and at most at 1, not {self.label_fraction}",
        )
        require(
            self.label_fraction is None or self.labels_per_class is None,
            "--label_fraction and --labels_per_class are two ways to say one thing: give one",
        )
        require(0 < self.threshold < 1, f"--threshold must lie between 0 and 1, not {self.threshold}")
        require(self.knn_temperature > 0, f"knn_temperature must be positive, not {self.knn_temperature}")


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning of all weights on the labelled images.

    `max_updates` ends it after the epoch in which so many updates are reached, for studies in which the number of
    labels differs.
    """

    epochs: int = 100
    batch_size: int = 64
    optimizer: OptimizerConfig = OptimizerConfig()
    max_updates: int | None = None

    def __post_init__(self) -> None:
        require(
            self.max_updates is None or self.max_updates >= 1,
            f"--finetune_updates must be at least 1, not {self.max_updates}",
        )
        require(self.epochs >= 1, f"--finetune_epochs must be at least 1, not {self.epochs}")
        require(self.batch_size >= 2, f"--finetune_batch_size must be at least 2, not {self.batch_size}")


@dataclass(frozen=True)
class NoiseConfig:
    """The random images of the second arm (paper.md section 5); `size` in pixels, None: the data set's own."""

    distribution: Literal["uniform", "gaussian"] = "uniform"
    count: int = 1000
    size: int | None = None

    def __post_init__(self) -> None:
        require(
            self.distribution in ("uniform", "gaussian"),
            f"noise distribution must be uniform or gaussian, not {self.distribution!r}",
        )
        require(self.count >= 2, f"--noise_images must be at least 2, not {self.count}")
        require(self.size is None or self.size >= 1, f"--noise_size must be at least 1 pixel, not {self.size}")


@dataclass(frozen=True)
class Config:
    """The whole of a run but its seed and arm: two equal configs, seeds and arms give equal numbers.

    Attributes:
      dataset: That evaluations run on, as `--dataset` names it.
      image_size: Side of the views in pixels.
      views: How pretraining's views are drawn.
      finetune_views: How fine-tuning's are.
      recipe: From which the rest was filled.
      labels: Of a folder: a CSV file, or `none`.
      cached_size: Side in pixels at which decoded images are kept; None: as the data set has it.
      max_bad_images: Share of a folder's files, 0..1, that may be unreadable.
      dtype: Compute type.
      backbone: Which, and its fields.
      head: SimSiam's heads.
      pretrain: How long, on what, and with which optimiser.
      evaluation: What all evaluations share.
      finetune: Of all weights.
      noise: The random images.
    """

    dataset: str
    image_size: int
    views: ViewSpec
    finetune_views: ViewSpec
    recipe: str = "paper"
    labels: str | None = None
    cached_size: int | None = None
    max_bad_images: float = 0.01
    dtype: Literal["float32", "bfloat16"] = "float32"
    backbone: BackboneConfig = BackboneConfig()
    head: HeadConfig = HeadConfig()
    pretrain: PretrainConfig = PretrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    noise: NoiseConfig = NoiseConfig()

    def __post_init__(self) -> None:
        require(self.dtype in ("float32", "bfloat16"), f"--dtype must be float32 or bfloat16, not {self.dtype!r}")
        require(
            self.views.image_size == self.finetune_views.image_size == self.image_size,
            "views and finetune_views must have the config's image_size",
        )
        require(
            self.cached_size is None or self.cached_size >= 1,
            f"--cached_size must be at least 1 pixel, not {self.cached_size}",
        )
        require(0 <= self.max_bad_images <= 1, f"--max_bad_images must lie in 0..1, not {self.max_bad_images}")


@dataclass(frozen=True)
class Row:
    """An arm of an ablation: a row of its table.

    Attributes:
      pretrain: `none`, `in_domain` for the images of `Config.pretrain` without their labels, or `random_images`.
      label: What the table calls it; `{dataset}` stands for the data set's name.
      paper: The paper's numbers in percent: by split, where they are those of the headline, or by `split/metric`.
      settings: In which the arm differs from the run, by the names of `OVERRIDES`.
      group: The rows of a group are compared with its first one; None: all rows are one group.
      shares: The arm whose pretraining this one starts from, instead of having its own.
    """

    pretrain: str
    label: str
    paper: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    shares: str | None = None

    def __post_init__(self) -> None:
        for name in self.settings:
            if name not in OVERRIDES or name in _OF_ALL_ARMS:
                raise TypeError(f"{name!r} is no setting in which an arm may differ from others")

    def source(self, config: Config) -> str:
        """The name of the data that this arm is pretrained on, or `none`."""
        return config.pretrain.dataset or config.dataset if self.pretrain == "in_domain" else self.pretrain


@dataclass(frozen=True)
class Column:
    """A column of a table in the paper's form: its heading, and which evaluation's number on which split it shows.

    Without a `metric` it shows the one by which the data set's epochs are chosen.
    """

    heading: str
    eval: str
    split: str
    metric: str | None = None


@dataclass(frozen=True)
class Layout:
    """The table in the paper's form.

    Attributes:
      columns: What is shown of every arm; of a pivoted table the one number that fills it.
      pivot: Whether groups are its lines and arms its columns (Table 2), instead of arms its lines.
    """

    columns: tuple[Column, ...]
    pivot: bool = False


EVALS = ("knn", "linear", "finetune")


@dataclass(frozen=True)
class Study:
    """One run of a launcher: which arms, how often, on what, and where to.

    Attributes:
      experiment: Name of the launcher, which its results carry.
      title: Of the report.
      question: That the report answers.
      rows: The arms by name, the first being what the others are compared with.
      config: All settings.
      seeds: Of which each runs every arm.
      evals: Which evaluations, of `EVALS`.
      workdir: Folder of the results.
      data_dir: Folder of the prepared data.
      manual_dir: Folder with files that the user fetched, or None.
      command: That repeats the run.
      feed: How images reach the devices, of `data.feed.FEEDS`; it changes no result.
      paper_source: Where the rows' paper numbers come from, or None.
      configs: Of the rows whose settings differ from `config`.
      part: `(i, n)`: do every n-th unit from the i-th on, 1..n, and leave the others to other processes.
      layout: The table in the paper's form; None: fine-tuning's headline on validation and test.
      tested: Whether evaluations read the test images; not where settings are searched for.
    """

    experiment: str
    title: str
    question: str
    rows: Mapping[str, Row]
    config: Config
    seeds: tuple[int, ...]
    evals: tuple[str, ...]
    workdir: Path
    data_dir: Path
    manual_dir: Path | None
    command: str
    feed: str = "auto"
    paper_source: str | None = None
    configs: Mapping[str, Config] = field(default_factory=dict)
    part: tuple[int, int] = (1, 1)
    layout: Layout | None = None
    tested: bool = True

    @property
    def shard(self) -> str | None:
        """What this process's file of results is called after, where several share the workdir."""
        number, count = self.part
        return None if count == 1 else f"{number}-of-{count}"

    def config_of(self, arm: str) -> Config:
        """All settings of an arm."""
        return self.configs.get(arm, self.config)

    def __post_init__(self) -> None:
        require(len(self.seeds) >= 1, f"--seeds must be at least 1, not {len(self.seeds)}")
        for name in self.evals:
            require(name in EVALS, f"--evals: unknown evaluation {name!r}; known: {', '.join(EVALS)}")


RECIPES = ("paper", "code", "reference")


def recipe_config(
    recipe: str,
    *,
    dataset: str,
    image_size: int,
    view_changes: Mapping[str, Any] | None = None,
    finetune_view_changes: Mapping[str, Any] | None = None,
) -> Config:
    """The complete settings of a recipe for a data set.

    Args:
      recipe: `paper`, `code` or `reference`; the module's docstring tells them apart, paper.md in full.
      dataset: Name of the data set.
      image_size: Side of the views in pixels.
      view_changes: What the data set asks for in place of the recipe's augmentation (no flip for digits, say).
      finetune_view_changes: The same for fine-tuning.
    """
    require(recipe in RECIPES, f"--recipe={recipe}: unknown recipe; known: {', '.join(RECIPES)}")
    # No blur, and first layers that keep more of the image, for small ones (paper.md, "Where its code differs", 4, 6).
    small = image_size <= 32
    backbone = BackboneConfig(stem="paper32" if small else "imagenet", patch_size=4 if small else 16)
    pretrain_views: dict[str, Any] = {"blur_probability": 0.0 if small else 0.5}
    finetune_views: dict[str, Any] = {
        "crop_scale": (0.8, 1.2),
        "jitter_probability": 0.0,
        "greyscale_probability": 0.0,
        "blur_probability": 0.0,
    }
    config = Config(
        dataset=dataset,
        image_size=image_size,
        views=ViewSpec(image_size, **{**pretrain_views, **(view_changes or {})}),
        finetune_views=ViewSpec(image_size, **{**finetune_views, **(finetune_view_changes or {})}),
        recipe=recipe,
        backbone=backbone,
    )
    if recipe == "code":
        # Differs from the paper's code: it lowers the rate on a plateau, here it follows a cosine.
        sgd = OptimizerConfig(name="sgd", learning_rate=1e-2, weight_decay=1e-6, schedule="cosine")
        return dataclasses.replace(config, finetune=dataclasses.replace(config.finetune, optimizer=sgd))
    if recipe == "reference":
        # SimSiam, section 3 and, for images of 32 pixels, appendix D.
        sgd = OptimizerConfig(
            name="sgd",
            learning_rate=0.03 if small else 0.05,
            scale_with_batch=True,
            weight_decay=5e-4 if small else 1e-4,
            schedule="cosine",
        )
        return dataclasses.replace(
            config,
            backbone=dataclasses.replace(backbone, stem="cifar" if small else "imagenet"),
            head=HeadConfig(
                projector_dim=2048,
                projector_layers=2 if small else 3,
                projector_output_norm="plain",
                predictor_dim=512,
            ),
            pretrain=dataclasses.replace(config.pretrain, optimizer=sgd, micro_batch_size=512, accumulation=1),
        )
    return config


# The settings that a preset or a flag may change, by the flag's name, and where they live.
OVERRIDES = {
    "cached_size": "cached_size",
    "max_bad_images": "max_bad_images",
    "dtype": "dtype",
    "backbone": "backbone.name",
    "stem": "backbone.stem",
    "width": "backbone.width",
    "patch_size": "backbone.patch_size",
    "drop_path": "backbone.drop_path",
    "init": "backbone.init",
    "projector_dim": "head.projector_dim",
    "projector_layers": "head.projector_layers",
    "projector_output_norm": "head.projector_output_norm",
    "predictor": "head.predictor",
    "predictor_dim": "head.predictor_dim",
    "predictor_output_norm": "head.predictor_output_norm",
    "hidden_norm": "head.hidden_norm",
    "stop_gradient": "pretrain.stop_gradient",
    "symmetric": "pretrain.symmetric",
    "constant_predictor": "pretrain.constant_predictor_learning_rate",
    "epochs": "pretrain.epochs",
    "micro_batch_size": "pretrain.micro_batch_size",
    "accumulation": "pretrain.accumulation",
    "optimizer": "pretrain.optimizer.name",
    "learning_rate": "pretrain.optimizer.learning_rate",
    "scaling_batch": "pretrain.scaling_batch",
    "weight_decay": "pretrain.optimizer.weight_decay",
    "warmup_epochs": "pretrain.optimizer.warmup_epochs",
    "knn_every": "pretrain.knn_every",
    "test_loss": "pretrain.test_loss",
    "pretrain_images": "pretrain.max_images",
    "pretrain_split": "pretrain.split",
    **{
        name: f"views.{name}"
        for name in (
            "crop_scale",
            "flip_probability",
            "jitter_probability",
            "brightness",
            "contrast",
            "saturation",
            "hue",
            "greyscale_probability",
            "blur_probability",
        )
    },
    "labels_per_class": "evaluation.labels_per_class",
    "label_fraction": "evaluation.label_fraction",
    "validation_images": "evaluation.max_validation_images",
    "threshold": "evaluation.threshold",
    "finetune_epochs": "finetune.epochs",
    "finetune_updates": "finetune.max_updates",
    "finetune_batch_size": "finetune.batch_size",
    "finetune_optimizer": "finetune.optimizer.name",
    "finetune_learning_rate": "finetune.optimizer.learning_rate",
    "finetune_weight_decay": "finetune.optimizer.weight_decay",
    "finetune_schedule": "finetune.optimizer.schedule",
    "finetune_crop_scale": "finetune_views.crop_scale",
    "finetune_flip_probability": "finetune_views.flip_probability",
    "noise_images": "noise.count",
    "noise_size": "noise.size",
    "noise_distribution": "noise.distribution",
}
# Of two ways to say one thing the later one counts.
_EXCLUDED = {"labels_per_class": "label_fraction", "label_fraction": "labels_per_class"}
# These decide which images are loaded, once for all arms.
_OF_ALL_ARMS = ("cached_size", "max_bad_images", "pretrain_images", "pretrain_split", "validation_images")


def with_overrides(config: Config, values: Mapping[str, Any]) -> Config:
    """Replaces settings by the names in `OVERRIDES`; a learning rate given so is the peak, not scaled by the batch."""
    for name, value in values.items():
        require(name in OVERRIDES, f"unknown setting {name!r}; known: {', '.join(OVERRIDES)}")
        if name in _EXCLUDED and value is not None:
            config = _replace_at(config, OVERRIDES[_EXCLUDED[name]].split("."), None)
        config = _replace_at(config, OVERRIDES[name].split("."), value)
        if name == "learning_rate":
            config = _replace_at(config, ["pretrain", "optimizer", "scale_with_batch"], False)
    return config


def _replace_at(config: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return dataclasses.replace(config, **{name: _replace_at(getattr(config, name), rest, value) if rest else value})
