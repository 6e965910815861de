"""Every setting once: its default, range, help and flag stand in one field.

The defaults are those of the recipe `paper`: the text of arXiv 2112.02297 and, where the text is silent, its code
(`experiments/PAPER.md` tells them apart). `settings.recipes` has the others.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from simsiam_jax.errors import require
from simsiam_jax.settings.declare import Settings, part, setting

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Norm = Literal["none", "plain", "affine"]
# The numbers of `metrics.scores` that tables can lead with.
Metric = Literal[
    "top1", "balanced_accuracy", "auc",
    "macro_jaccard", "macro_accuracy", "macro_auc", "macro_average_precision",
    "micro_jaccard", "micro_accuracy", "micro_auc", "micro_average_precision",
]  # fmt: skip


@dataclass(frozen=True)
class ViewSpec(Settings):
    """How an augmented view is drawn from an image (SimSiam, appendix A); jitter is torchvision's `ColorJitter`.

    Attributes:
      image_size: Side of the view in pixels.
      mean: Mean of each channel, 0..1, that is subtracted from a view.
      std: Deviation of each channel, 0..1, by which a view is divided.
    """

    image_size: int
    crop_scale: tuple[float, float] = setting(
        (0.2, 1.0), "Smallest and largest share of the image that a view shows, as 0.2,1.", "method", above=0, high=1.5
    )
    crop_ratio: tuple[float, float] = setting(
        (3 / 4, 4 / 3), "Smallest and largest width of a crop relative to its height.", "method", low=0.1, high=10
    )
    flip_probability: float = setting(0.5, "Probability of mirroring a view.", "method", low=0, high=1)
    jitter_probability: float = setting(0.8, "Probability of colour jitter in a view.", "method", low=0, high=1)
    brightness: float = setting(0.4, "Strength of the brightness jitter.", "method", low=0, high=4)
    contrast: float = setting(0.4, "Strength of the contrast jitter.", "method", low=0, high=4)
    saturation: float = setting(0.4, "Strength of the saturation jitter.", "method", low=0, high=4)
    hue: float = setting(0.1, "Largest turn of the hue, as a share of the circle.", "method", low=0, high=0.5)
    greyscale_probability: float = setting(0.2, "Probability of taking a view's colour away.", "method", low=0, high=1)
    blur_probability: float = setting(0.5, "Probability of blurring a view.", "method", low=0, high=1)
    blur_sigma: tuple[float, float] = setting(
        (0.1, 2.0), "Smallest and largest sigma of the Gaussian blur in pixels.", "method", above=0, high=100
    )
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def blur_kernel(self) -> int:
        """Width of the Gaussian blur's kernel in pixels, an odd number about a tenth of the image."""
        return self.image_size // 20 * 2 + 1


@dataclass(frozen=True)
class BackboneConfig(Settings):
    """Which backbone, and its fields; None for a field that it does not have, or at its default."""

    name: str = setting("resnet18", "Backbone.", "size", flag="backbone")
    stem: str | None = setting(None, "First layers of a convolutional backbone: imagenet, paper32 or cifar.", "size")
    width: float = setting(
        1.0, "Channels of the backbone as a multiple of the published network's.", "size", above=0, high=8
    )
    patch_size: int | None = setting(None, "Side of a vision transformer's patches in pixels.", "size", low=1, high=256)
    drop_path: float | None = setting(
        None, "Stochastic depth: probability of dropping the last block.", "method", low=0, below=1
    )

    def fields(self) -> dict[str, Any]:
        """The fields to hand to `models.create_backbone`."""
        values = {name: getattr(self, name) for name in ("stem", "width", "patch_size", "drop_path")}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class HeadConfig(Settings):
    """SimSiam's projector and predictor; an ablation takes away `predictor` and `hidden_norm` (SimSiam, 4.2 and 4.4).

    The paper's "after every fully connected layer except the output layer" is read as the network's output layer, the
    predictor's, as its code and SimSiam have it; a projector_output_norm of none is the other reading.
    """

    projector_dim: int = setting(
        1024, "Units of the projector: 1024 (the paper's code) or 2048 (SimSiam).", "method", low=1, high=65536
    )
    projector_layers: int = setting(3, "Fully connected layers of the projector.", "method", low=1, high=16)
    projector_output_norm: Norm = setting(
        "affine", "Batch norm on the projector's output: without scale and bias it is plain.", "method"
    )
    predictor: bool = setting(True, "Whether there is a predictor; without one p is z.", "method")
    predictor_dim: int = setting(
        256, "Hidden units of the predictor: 256 (the paper's code) or 512 (SimSiam).", "method", low=1, high=65536
    )
    predictor_output_norm: Norm = setting("none", "Batch norm on the predictor's output.", "method")
    hidden_norm: bool = setting(True, "Whether the heads' hidden layers have batch norm.", "method")


@dataclass(frozen=True)
class MethodConfig(Settings):
    """Equation (3), what an ablation takes away from it (SimSiam, 4.1, 4.2 and 4.6), and what others add to it."""

    stop_gradient: bool = setting(True, "Whether the gradient is stopped at z.", "method")
    symmetric: bool = setting(True, "Whether every view predicts the others, or the first view alone does.", "method")
    target_views: int = setting(
        2, "Views of an image; each predicts the mean of the others (FastSiam).", "method", low=2, high=8
    )
    constant_predictor: bool = setting(True, "Whether the predictor's learning rate stays at its peak.", "method")
    predictor_rate: float = setting(
        1.0, "Factor on the predictor's learning rate, constant or not.", "method", above=0, high=100
    )
    frozen_patch_embedding: bool = setting(
        False, "Whether pretraining leaves a transformer's patch embedding as it is (MoCo v3).", "method"
    )


@dataclass(frozen=True)
class OptimizerConfig(Settings):
    """The optimiser, without its learning rate."""

    name: Literal["adam", "sgd", "adamw", "lars"] = setting("adam", "Optimiser.", "method", flag="optimizer")
    weight_decay: float = setting(
        1e-5, "Weight decay: coupled (L2), of adamw decoupled; lars spares biases and norms.", "method", low=0, high=10
    )
    momentum: float = setting(0.9, "Momentum of sgd and lars.", "method", low=0, below=1)


@dataclass(frozen=True)
class ScheduleConfig(Settings):
    """The learning rate over time."""

    learning_rate: float = setting(
        1e-3, "Peak learning rate; given as a flag it is not scaled by the batch.", "method", above=0, high=1000
    )
    scaling_batch: Literal["none", "effective", "micro"] = setting(
        "none", "Batch whose size over 256 scales the learning rate: of an update, or of a micro-batch.", "method"
    )
    warmup_epochs: float = setting(0.0, "Epochs over which the learning rate rises.", "method", low=0, high=100_000)
    schedule: Literal["constant", "cosine"] = setting("constant", "Course of the learning rate.", "method")

    def peak(self, *, micro_batch: int, accumulation: int = 1) -> float:
        """The learning rate at the end of warm-up for micro-batches of so many images."""
        batch = {"none": 256, "effective": micro_batch * accumulation, "micro": micro_batch}[self.scaling_batch]
        return self.learning_rate * (batch / 256)


@dataclass(frozen=True)
class ProgramConfig(Settings):
    """Everything that changes a compiled program, and nothing else: the key under which programs are kept."""

    views: ViewSpec = part(dataclasses.MISSING)
    finetune_views: ViewSpec = part(dataclasses.MISSING, prefix="finetune_", group="evaluation")
    image_size: int = setting(
        dataclasses.MISSING, "Side of the views in pixels.", "size", low=1, high=2048, shared=True
    )
    backbone: BackboneConfig = part(BackboneConfig())
    head: HeadConfig = part(HeadConfig())
    method: MethodConfig = part(MethodConfig())
    optimizer: OptimizerConfig = part(OptimizerConfig())
    accumulation: int = setting(8, "Micro-batches of an update of pretraining.", "method", low=1, high=65536)
    finetune_optimizer: OptimizerConfig = part(OptimizerConfig(), prefix="finetune_", group="evaluation")
    dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", "Compute type, auto: bfloat16 on an accelerator, float32 on a CPU; parameters are float32.", "size"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = {self.image_size, self.views.image_size, self.finetune_views.image_size}
        require(len(sizes) == 1, f"views and finetune_views must have the program's image_size, not {sorted(sizes)}")

    def on(self, platform: str) -> "ProgramConfig":
        """The same with the compute type that `auto` means on a platform of jax, such as `cpu` or `gpu`."""
        if self.dtype != "auto":
            return self
        return dataclasses.replace(self, dtype="float32" if platform == "cpu" else "bfloat16")


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """SimSiam pretraining: on which images, and for how long.

    Differs from the paper: the loss on test images (Figure 3) is only logged, without their labels and with no say.
    """

    dataset: str | None = setting(
        None, "Pretrain on the images of another data set, such as folder:PATH.", "data", flag="pretrain_dataset",
        shared=True,
    )  # fmt: skip
    split: str = setting(
        "train", "Images to pretrain on: train, unlabelled or train+unlabelled.", "data", flag="pretrain_split",
        shared=True,
    )  # fmt: skip
    max_images: int | None = setting(
        None, "Pretrain on at most so many images.", "size", flag="pretrain_images", low=1, high=10**9, shared=True
    )
    epochs: int = setting(100, "Epochs of pretraining.", "size", low=1, high=100_000)
    min_updates: int | None = setting(
        None, "Pretrain for more epochs where they have fewer updates than this.", "size", low=1, high=10**9
    )
    micro_batch_size: int = setting(
        # Batch statistics of a single image are no statistics.
        64, "Images of a micro-batch, over which batch statistics are taken.", "method", low=2, high=65536
    )  # fmt: skip
    schedule: ScheduleConfig = part(ScheduleConfig(scaling_batch="effective", warmup_epochs=5.0, schedule="cosine"))
    knn_every: int = setting(
        5,
        "Epochs from one kNN measurement during pretraining to the next; more where --min_updates makes more epochs.",
        "output",
        low=1,
        high=100_000,
    )
    test_loss: bool = setting(False, "Whether the loss on test images is logged too (Figure 3).", "output")

    def epochs_for(self, updates_per_epoch: int) -> int:
        """The epochs of pretraining: `epochs`, or as many more as `min_updates` needs.

        Args:
          updates_per_epoch: Updates in an epoch, 1 or more.
        """
        return max(self.epochs, math.ceil((self.min_updates or 0) / updates_per_epoch))

    def knn_interval(self, epochs: int) -> int:
        """The epochs from one kNN measurement to the next: `knn_every`, as `epochs` were asked for.

        Where `min_updates` makes ten times as many epochs of few images, their measurements do not cost ten times
        as much.

        Args:
          epochs: The epochs that `epochs_for` gave.
        """
        return self.knn_every * max(1, epochs // self.epochs)


@dataclass(frozen=True)
class EvaluationConfig(Settings):
    """What all evaluations share: the labelled images that they may see, what counts, and kNN's two numbers."""

    labels_per_class: int | None = setting(
        None, "Labelled images of each class that evaluations learn from.", "evaluation", low=1, high=10**9
    )
    label_fraction: float | None = setting(
        None, "The same as a share of all labelled images.", "evaluation", above=0, high=1
    )
    label_draws: int = setting(
        20, "Draws of labelled images that kNN and the probe are averaged over; 1 where all labels are used.",
        "evaluation", low=1, high=10_000,
    )  # fmt: skip
    max_validation_images: int | None = setting(
        None, "Validate on at most so many images.", "evaluation", flag="validation_images", low=1, high=10**9,
        shared=True,
    )  # fmt: skip
    metric: Metric | None = setting(
        None, "Number that tables lead with and that epochs and penalties are chosen by; auto: the data set's own, for "
        "unequal classes balanced_accuracy, else top1, for attributes macro_jaccard.", "evaluation", shared=True,
        unset="auto",
    )  # fmt: skip
    threshold: float | None = setting(
        None, "Probability from which on every attribute is predicted; auto: each one's own, chosen on validation.",
        "evaluation", above=0, below=1, unset="auto",
    )  # fmt: skip
    knn_k: int | None = setting(
        None, "Neighbours that vote in kNN; auto: as many as a class has labelled images on average, at most 200.",
        "evaluation", low=1, high=10**6, unset="auto",
    )  # fmt: skip
    knn_temperature: float = setting(
        0.1, "Temperature of kNN's weights exp(cosine / temperature).", "evaluation", above=0, high=1000
    )

    @property
    def all_labels(self) -> bool:
        """Whether evaluations learn from all labelled images, of which there is one draw."""
        return self.labels_per_class is None and self.label_fraction in (None, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.label_fraction is None or self.labels_per_class is None,
            "--label_fraction and --labels_per_class are two ways to say one thing: give one",
        )


@dataclass(frozen=True)
class FinetuneConfig(Settings):
    """Fine-tuning of all weights on the labelled images."""

    epochs: int = setting(100, "Epochs of fine-tuning.", "evaluation", low=1, high=100_000)
    batch_size: int = setting(64, "Images of an update of fine-tuning.", "evaluation", low=2, high=65536)
    label_draws: int = setting(
        3, "Draws of labelled images that fine-tuning is averaged over; 1 where all labels are used.", "evaluation",
        low=1, high=1000,
    )  # fmt: skip
    max_updates: int | None = setting(
        None, "End fine-tuning after the epoch that reaches so many updates.", "evaluation", flag="updates", low=1,
        high=10**9,
    )  # fmt: skip
    schedule: ScheduleConfig = part(ScheduleConfig())


@dataclass(frozen=True)
class NoiseConfig(Settings):
    """The random images of the arm that pretrains on noise (PAPER.md, "Random images")."""

    distribution: Literal["uniform", "gaussian"] = setting(
        "uniform", "Distribution of the random images' pixels; the paper's code draws them uniformly.", "method"
    )
    count: int = setting(1000, "Number of random images.", "size", flag="images", low=2, high=10**7)
    size: int | None = setting(
        None, "Side of the random images in pixels; not set: the data set's own, 224 in the paper.", "size", low=1,
        high=4096,
    )  # fmt: skip


@dataclass(frozen=True)
class Config(Settings):
    """All settings of a run but its seed and arm: two equal configs, seeds and arms give equal numbers."""

    program: ProgramConfig = part(dataclasses.MISSING)
    dataset: str = setting(
        dataclasses.MISSING, "Data set: a name, a variant such as stl10:fold3, or folder:PATH.", "data", shared=True
    )
    labels: str | None = setting(
        None, "Labels of a folder: a CSV file with labels by file name; none ignores its subfolders.", "data",
        shared=True,
    )  # fmt: skip
    cached_size: int | None = setting(
        None, "Side in pixels at which decoded images are kept, as central squares.", "data", low=1, high=4096,
        shared=True,
    )  # fmt: skip
    max_bad_images: float = setting(
        0.01, "Share of a folder's files that may be unreadable and are skipped.", "data", low=0, high=1, shared=True
    )
    group_duplicates: bool = setting(
        False, "Whether a folder's duplicates, exact or near, are held out together.", "data", shared=True
    )
    recipe: str = "paper"
    init: str = setting(
        "random", "Weights to start from: random, imagenet, a .safetensors file, or hf:OWNER/REPO@COMMIT.", "method"
    )
    pretrain: PretrainConfig = part(PretrainConfig())
    evaluation: EvaluationConfig = part(EvaluationConfig())
    finetune: FinetuneConfig = part(FinetuneConfig(), prefix="finetune_", group="evaluation")
    noise: NoiseConfig = part(NoiseConfig(), prefix="noise_")

    def on(self, platform: str) -> "Config":
        """The same with what `auto` means on a platform of jax, such as `cpu` or `gpu`."""
        return dataclasses.replace(self, program=self.program.on(platform))

    def pretraining_part(self) -> "Config":
        """The settings with those of evaluations at their defaults: equal where two pretrainings are one."""
        program = dataclasses.replace(
            self.program, finetune_views=self.program.views, finetune_optimizer=OptimizerConfig()
        )
        return dataclasses.replace(self, program=program, evaluation=EvaluationConfig(), finetune=FinetuneConfig())

    @property
    def image_size(self) -> int:
        """Side of the views in pixels."""
        return self.program.image_size

    @property
    def effective_batch(self) -> int:
        """Images of an update of pretraining."""
        return self.pretrain.micro_batch_size * self.program.accumulation

    def pretraining_epochs(self, images: int) -> int:
        """Epochs of pretraining on so many images; fewer than an update takes count as one update."""
        return self.pretrain.epochs_for(max(1, images // self.effective_batch))

    def label_draws(self, evaluation: str) -> int:
        """Draws of labelled images that an evaluation is averaged over."""
        if self.evaluation.all_labels:
            return 1
        return self.finetune.label_draws if evaluation == "finetune" else self.evaluation.label_draws
