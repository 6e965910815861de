"""The data sets by name, and what is known of each before it is there; `splits.py` loads them.

A further data set is a builder and an entry in `DATASETS`. A folder of images needs neither.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from simsiam_jax.data.builders.celeb_a import CelebA
from simsiam_jax.data.builders.cifar10 import Cifar10
from simsiam_jax.data.builders.digits import Digits
from simsiam_jax.data.builders.fashion_mnist import FashionMNIST
from simsiam_jax.data.builders.image_folder import ImageFolder
from simsiam_jax.data.builders.random_images import RandomImages
from simsiam_jax.data.builders.solar_cells import SolarCells
from simsiam_jax.data.builders.stl10 import Stl10
from simsiam_jax.data.folders import Listing, list_folder
from simsiam_jax.errors import require

FOLDER = "folder:"
DEFAULT_FOLDER_IMAGE_SIZE = 96
# Images of many sizes are kept a little larger than the views: 256 pixels for views of 224, as is usual.
MARGIN = 8 / 7


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is prepared.

    Attributes:
      name: Name on the command line.
      builder: Class of the TFDS builder that prepares it.
      num_classes: Number of classes or binary attributes; 0 for data without labels.
      class_names: Names of the classes or attributes, in the order of the labels.
      native_size: Shorter side of the images in pixels; None where they have many sizes.
      image_size: Side of the views in pixels where --image_size is not given.
      label_kind: Whether an image has one class, binary attributes, or no label.
      headline: Metric of `metrics.scores` that tables show and that epochs and penalties are chosen by; None means that
        of `metrics.HEADLINE` for the kind of labels.
      label_features: Names of the features of TFDS's examples that hold the labels, with `/` between nested names.
      label_ranges: For attributes that TFDS has as numbers: the lowest and the highest value at which each is present.
      splits: Names of the splits that `load_split` takes.
      pretrain_splits: Split to pretrain on by recipe; other recipes take `train`.
      validation_fraction: Share of TFDS's `train` that is held out for validation, class by class; None where TFDS has
        a split `validation`.
      fold: Number of the predefined fold that is `train`; the rest of TFDS's `train` is then `validation`.
      keeps_size: Whether images are cached at their own size.
      views: Fields of `ViewSpec` that differ from SimSiam's when pretraining on this data.
      finetune_views: Fields of `ViewSpec` that differ from the recipe's when fine-tuning on this data.
      variants: Fields that differ in `NAME:VARIANT`, by the variant's name.
      listing: Files, labels and splits of a folder; None for other data sets.
    """

    name: str
    builder: Any
    num_classes: int
    class_names: tuple[str, ...]
    native_size: int | None
    image_size: int
    label_kind: Literal["classes", "attributes", "none"] = "classes"
    headline: str | None = None
    label_features: tuple[str, ...] = ("label",)
    label_ranges: tuple[tuple[float, float], ...] = ()
    splits: tuple[str, ...] = ("train", "validation", "test")
    pretrain_splits: Mapping[str, str] = field(default_factory=dict)
    validation_fraction: float | None = None
    fold: int | None = None
    keeps_size: bool = True
    views: Mapping[str, Any] = field(default_factory=dict)
    finetune_views: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    listing: Listing | None = None

    @property
    def title(self) -> str:
        """The name shown to people: a folder is called by its own name."""
        return dataset_title(self.name)

    def stored_size(self, image_size: int) -> int | None:
        """Side in pixels at which images are cached for views of `image_size`; None means their own size."""
        return None if self.keeps_size else round(image_size * MARGIN)


FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STL_CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
CELEBA_ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips"),
    *("Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin"),
    *("Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open"),
    *("Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline"),
    *("Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat"),
    *("Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young"),
)
# Attributes of a solar cell: the name, its meaning, and the feature of the data with the range of values at which it is
# present. The probability of a defect is 0, 1/3, 2/3 or 1 there, and the type 0 (mono-) or 1 (polycrystalline).
SOLAR_ATTRIBUTES = (
    ("monocrystalline", "cut from a single crystal", "type", (0.0, 0.0)),
    ("any_defect", "probability of a defect above 0", "probability", (0.1, 1.0)),
    ("likely_defect", "probability of a defect above 1/2", "probability", (0.5, 1.0)),
    ("certain_defect", "probability of a defect 1", "probability", (0.9, 1.0)),
)
# Grey images have neither saturation nor hue, and are their own greyscale: drawing these would only take time.
GREY_VIEWS = {"saturation": 0.0, "hue": 0.0, "greyscale_probability": 0.0}
# These gave the best linear probe on validation images among five candidates, with two seeds of a few epochs each
# (experiments/search_augmentation.py, experiments/results/search_augmentation-*).
SEARCHED_VIEWS = {"crop_scale": (0.5, 1.0), "flip_probability": 0.0} | GREY_VIEWS
# How dark a solar cell is tells its defects, and features that jitter makes blind to it tell less: on validation images
# the probe lies above that of no pretraining on both seeds without jitter, and not with it
# (experiments/search_recipe.py, experiments/results/search_recipe-solar_cells*).
SOLAR_VIEWS = SEARCHED_VIEWS | {"jitter_probability": 0.0}
# A mirrored digit is no digit, and a fifth of an 8×8 image is 3 to 4 pixels wide.
DIGIT_VIEWS = {"crop_scale": (0.4, 1.0), "flip_probability": 0.0}

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            builder=Digits,
            num_classes=10,
            class_names=tuple("0123456789"),
            native_size=8,
            image_size=16,
            views=DIGIT_VIEWS | GREY_VIEWS,
            finetune_views={"flip_probability": 0.0},
        ),
        DatasetInfo(
            name="fashion_mnist",
            builder=FashionMNIST,
            num_classes=10,
            class_names=FASHION_CLASSES,
            native_size=28,
            image_size=32,
            validation_fraction=0.2,
            views=SEARCHED_VIEWS,
        ),
        DatasetInfo(
            name="cifar10",
            builder=Cifar10,
            num_classes=10,
            class_names=CIFAR_CLASSES,
            native_size=32,
            image_size=32,
            validation_fraction=0.2,
        ),
        DatasetInfo(
            name="stl10",
            builder=Stl10,
            num_classes=10,
            class_names=STL_CLASSES,
            native_size=96,
            image_size=96,
            splits=("train", "validation", "test", "unlabelled", "train+unlabelled"),
            # The paper's text speaks of the unlabelled images, its code takes both (PAPER.md, "Splits").
            pretrain_splits={"paper": "unlabelled", "code": "train+unlabelled", "reference": "train+unlabelled"},
            validation_fraction=0.2,
            variants={f"fold{fold}": {"fold": fold} for fold in range(10)},
        ),
        DatasetInfo(
            name="celeb_a",
            builder=CelebA,
            num_classes=40,
            class_names=CELEBA_ATTRIBUTES,
            native_size=178,
            image_size=224,
            label_kind="attributes",
            label_features=tuple(f"attributes/{name}" for name in CELEBA_ATTRIBUTES),
        ),
        DatasetInfo(
            name="solar_cells",
            builder=SolarCells,
            num_classes=2,
            class_names=("functional", "defective"),
            native_size=300,
            image_size=96,
            # Three cells in ten are defective: to call none of them so would be right in seven.
            headline="auc",
            keeps_size=False,
            views=SOLAR_VIEWS,
            variants={
                "type": {"class_names": ("mono", "poly"), "label_features": ("type",)},
                "conditions": {
                    "class_names": tuple(name for name, *_ in SOLAR_ATTRIBUTES),
                    "num_classes": len(SOLAR_ATTRIBUTES),
                    "label_kind": "attributes",
                    "headline": None,
                    "label_features": tuple(feature for _, _, feature, _ in SOLAR_ATTRIBUTES),
                    "label_ranges": tuple(values for *_, values in SOLAR_ATTRIBUTES),
                },
                "attributes": {
                    "class_names": ("defective", "poly"),
                    "label_kind": "attributes",
                    "headline": None,
                    "label_features": ("label", "type"),
                },
            },
        ),
        DatasetInfo(
            name="random_images",
            builder=RandomImages,
            num_classes=0,
            class_names=(),
            native_size=32,
            image_size=32,
            label_kind="none",
            label_features=(),
            splits=("train",),
        ),
    )
}


def dataset_info(name: str, labels: str | None = None, *, group_duplicates: bool = False) -> DatasetInfo:
    """What is known of a data set, or of a folder of images, which is looked through.

    Args:
      name: Name of the data set: `NAME`, `NAME:VARIANT` or `folder:PATH`.
      labels: For a folder: a CSV file, or `none` to ignore what its subfolders say.
      group_duplicates: For a folder: whether duplicates are held out together.

    Raises:
      InputError: If there is no such data set; the message lists the known names. If something is wrong with a folder.
    """
    if name.startswith(FOLDER):
        return _folder_info(Path(name.removeprefix(FOLDER)), labels, group_duplicates)
    require(
        not group_duplicates,
        f"--group_duplicates goes with --dataset=folder:PATH; the splits of {name} are what they are: leave it out",
    )
    require(labels is None, f"--labels={labels} goes with --dataset=folder:PATH; {name} has labels of its own")
    base, _, variant = name.partition(":")
    require(
        base in DATASETS,
        f"unknown data set {name!r} (--dataset): known are {', '.join(DATASETS)} and folder:PATH",
    )
    info = DATASETS[base]
    if not variant:
        return info
    require(
        variant in info.variants,
        f"{base} has no variant {variant!r} (--dataset={name})"
        + (f": it has {', '.join(info.variants)}" if info.variants else ""),
    )
    return dataclasses.replace(info, name=name, **info.variants[variant])


def any_folder() -> DatasetInfo:
    """What holds of every folder of images, for help that is asked before one is named."""
    return DatasetInfo(
        name=f"{FOLDER}FOLDER",
        builder=ImageFolder,
        num_classes=0,
        class_names=(),
        native_size=None,
        image_size=DEFAULT_FOLDER_IMAGE_SIZE,
        keeps_size=False,
    )


def pretraining_source(name: str, *, group_duplicates: bool = False) -> DatasetInfo:
    """A data set to pretrain on other than the one that is evaluated on; a folder's labels do not matter.

    Raises:
      InputError: As in `dataset_info`.
    """
    folder = name.startswith(FOLDER)
    return dataset_info(name, "none" if folder else None, group_duplicates=group_duplicates and folder)


def dataset_title(name: str) -> str:
    """The name shown for a data set, or for weights and a data set (`imagenet+folder:/a/b`): a folder's own name."""
    before, folder, path = name.partition(FOLDER)
    return f"{before}{Path(path).name}" if folder else name


def _folder_info(path: Path, labels: str | None, group_duplicates: bool) -> DatasetInfo:
    listing = list_folder(path.expanduser().absolute(), labels, group_duplicates)
    both = "unlabelled" in listing.splits
    return DatasetInfo(
        name=f"{FOLDER}{listing.root}",
        builder=ImageFolder,
        num_classes=len(listing.class_names),
        class_names=listing.class_names,
        native_size=None,
        image_size=DEFAULT_FOLDER_IMAGE_SIZE,
        label_kind=listing.label_kind,
        label_features={"classes": ("label",), "attributes": ("attributes",), "none": ()}[listing.label_kind],
        splits=(*listing.splits, *(["train+unlabelled"] if both else [])),
        pretrain_splits=dict.fromkeys(("paper", "code", "reference"), "train+unlabelled") if both else {},
        keeps_size=False,
        listing=listing,
    )
