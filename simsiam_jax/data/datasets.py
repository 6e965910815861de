"""The data sets of the study: what each is, and its splits as uint8 arrays.

A further data set is one builder and one line in `DATASETS`. Nothing here imports jax or TFDS before data is
asked for, so that launchers know the names at once.
"""

import contextlib
import errno
import importlib
import io
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int, Int32, UInt8

from simsiam_jax.config import InputError, NoiseConfig, require
from simsiam_jax.data.cache import ImageSplit, locked, open_split, write_split
from simsiam_jax.data.subsets import stratified_split

HELD_OUT_SEED = 0
DECODE_BATCH = 512
UNLABELLED = -1


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set before it is there.

    Attributes:
        name: as on the command line and in TFDS.
        builder: `module.Class` under `simsiam_jax.data.builders`.
        num_classes: 0 if it has no labels.
        class_names: in the order of the labels.
        native_size: side in pixels.
        image_size: side of the views in pixels, unless --image_size says otherwise.
        splits: of ours, that `load_split` takes.
        validation_fraction: held out of TFDS's `train`, by class, where TFDS has no split `validation`.
        views: fields of `ViewSpec` that differ from SimSiam's when pretraining on this data.
        finetune_views: fields of `ViewSpec` that differ from the recipe's when fine-tuning on it.
    """

    name: str
    builder: str
    num_classes: int
    class_names: tuple[str, ...]
    native_size: int
    image_size: int
    splits: tuple[str, ...] = ("train", "validation", "test")
    validation_fraction: float | None = None
    views: Mapping[str, Any] = field(default_factory=dict)
    finetune_views: Mapping[str, Any] = field(default_factory=dict)


FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
# Grey images are their own greyscale and have neither saturation nor hue: drawing these would only take time.
GREY_VIEWS = {"saturation": 0.0, "hue": 0.0, "greyscale_probability": 0.0}
# A mirrored digit is no digit, and a fifth of an 8×8 image is 3 to 4 pixels wide.
DIGIT_VIEWS = {"crop_scale": (0.4, 1.0), "flip_probability": 0.0}

DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            builder="digits.Digits",
            num_classes=10,
            class_names=tuple("0123456789"),
            native_size=8,
            image_size=16,
            views=DIGIT_VIEWS | GREY_VIEWS,
            finetune_views={"flip_probability": 0.0},
        ),
        DatasetInfo(
            name="fashion_mnist",
            builder="fashion_mnist.FashionMNIST",
            num_classes=10,
            class_names=FASHION_CLASSES,
            native_size=28,
            image_size=32,
            validation_fraction=0.2,
            views=GREY_VIEWS,
        ),
        DatasetInfo(
            name="random_images",
            builder="random_images.RandomImages",
            num_classes=0,
            class_names=(),
            native_size=32,
            image_size=32,
            splits=("train",),
        ),
    )
}


def dataset_info(name: str) -> DatasetInfo:
    """The registry's entry.

    Raises:
        InputError: if there is none, listing the known names.
    """
    require(name in DATASETS, f"unknown data set {name!r} (--dataset): known are {', '.join(DATASETS)}")
    return DATASETS[name]


def load_split(
    name: str,
    split: str,
    *,
    data_dir: str | Path,
    manual_dir: str | Path | None = None,
    size: int | None = None,
    noise: NoiseConfig | None = None,
    seed: int = 0,
) -> ImageSplit:
    """A split as memory-mapped uint8 images; prepared by TFDS and decoded into the cache on first use.

    Where a data set has no validation images of its own, 20 % of the training images, the same number of each
    class, are held out with a fixed seed (paper.md section 9); `train` is then the rest.

    Args:
        name: a key of `DATASETS`.
        split: one of its splits.
        data_dir: folder of the prepared data and the cache; made if missing.
        manual_dir: folder with files that the user fetched, for data sets that take them.
        size: side in pixels to resize to, as `decode_image` does; None: native size.
        noise: for `random_images`: which, how many, and how large (its size, else `size`, else 32 pixels).
        seed: for `random_images`: of the noise. Other data sets do not depend on it.

    Returns:
        The split; its images are read-only.

    Raises:
        InputError: for an unknown name or split, data that is neither there nor reachable, damaged source
            files, or a folder that cannot be written.
    """
    info = dataset_info(name)
    require(
        split in info.splits,
        f"{name} has no split {split!r}: it has {', '.join(repr(s) for s in info.splits)}",
    )
    require(size is None or size >= 1, f"--image_size must be at least 1 pixel, not {size}")
    if manual_dir is not None:
        manual_dir = Path(manual_dir).expanduser().resolve()
        require(manual_dir.is_dir(), f"--manual_dir={manual_dir} is no folder; create it or leave the flag out")
    root = Path(data_dir).expanduser().resolve()
    with _quiet():
        builder = _make_builder(info, root, noise or NoiseConfig(), size, seed)
        parts = [part for part in (name, builder.builder_config_name, str(builder.version)) if part]
        folder = root.joinpath("decoded", *parts, f"{split}-{size or 'native'}")
        # Looked at before locking, so that a finished data folder may be read-only.
        if (cached := open_split(folder)) is None:
            with _writing(root), locked(root / f".{name}.lock"):
                if (cached := open_split(folder)) is None:
                    if folder.exists():
                        logging.warning("Rebuilding the damaged or outdated cache %s", folder)
                    _prepare(builder, manual_dir)
                    write_split(folder, *_decode(builder, info, split, size))
                    cached = open_split(folder)
    if cached is None:
        raise RuntimeError(f"the cache {folder} cannot be read just after it was written")
    return cached


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TFDS from printing, and from drawing progress bars where no one sees them."""
    import tensorflow_datasets as tfds

    tfds.display_progress_bar(sys.stderr.isatty())
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Makes the data folder; failures to write there become an `InputError`."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        unwritable = (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.ENOSPC,
            errno.EDQUOT,
        )
        if error.errno not in unwritable:
            raise
        raise InputError(
            f"--data_dir={root} cannot be written ({error.strerror}); name a folder that can, with free space"
        ) from error


def _make_builder(info: DatasetInfo, root: Path, noise: NoiseConfig, size: int | None, seed: int) -> Any:
    module_name, class_name = info.builder.split(".")
    module = importlib.import_module(f"simsiam_jax.data.builders.{module_name}")
    arguments: dict[str, Any] = {"data_dir": root}
    if info.name == "random_images":
        pixels = noise.size or size or info.native_size
        arguments["config"] = module.NoiseImages(
            distribution=noise.distribution, count=noise.count, size=pixels, seed=seed
        )
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # Each new configuration of noise is worth a warning to TFDS.
    try:
        return getattr(module, class_name)(**arguments)
    finally:
        logging.set_verbosity(verbosity)


def _prepare(builder: Any, manual_dir: Path | None) -> None:
    """Writes the TFDS data unless it is there; the caller holds the lock."""
    import tensorflow_datasets as tfds

    if not builder.data_path.exists():
        for leftover in Path(builder.data_path).parent.glob(f"incomplete.*_{builder.version}"):
            shutil.rmtree(leftover)
        logging.info("Preparing %s in %s", builder.name, builder.data_dir)
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False),
        )
    formats = {str(file_format.value) for file_format in builder.info.available_file_formats()}
    require(
        "array_record" in formats,
        f"{builder.data_dir} was prepared elsewhere as {', '.join(sorted(formats))}, which needs TensorFlow "
        "to read; remove that folder or name another --data_dir",
    )


def _decode(
    builder: Any, info: DatasetInfo, split: str, size: int | None
) -> tuple[
    Iterator[tuple[UInt8[np.ndarray, "batch height width 3"], Int32[np.ndarray, " batch"]]],
    Int32[np.ndarray, " n"],
]:
    """The batches and sample ids of one of our splits, as `write_split` takes them."""
    import tensorflow_datasets as tfds

    held_out = info.validation_fraction is not None and split in ("train", "validation")
    tfds_split = "train" if held_out else split
    source = builder.as_data_source(split=tfds_split, decoders={"image": tfds.decode.SkipDecoding()})
    labels = _read_labels(source, builder)
    indices = np.arange(len(labels))
    if held_out:
        assert info.validation_fraction is not None
        rest, validation = stratified_split(labels, info.validation_fraction, HELD_OUT_SEED)
        indices = rest if split == "train" else validation
    # Not TFDS's order of splits, which changes when its description is written and read back.
    names = [name for name in info.splits if name in builder.info.splits]
    before = sum(builder.info.splits[name].num_examples for name in names[: names.index(tfds_split)])
    return _decoded_batches(source, indices, labels, size), (before + indices).astype(np.int32)


def _batches(indices: Int[np.ndarray, " n"]) -> Iterator[Int[np.ndarray, " batch"]]:
    for start in range(0, len(indices), DECODE_BATCH):
        yield indices[start : start + DECODE_BATCH]


def _read(source: Any, indices: Int[np.ndarray, " batch"]) -> Sequence[dict[str, Any]]:
    try:
        return source.__getitems__(indices.tolist())
    except (RuntimeError, FileNotFoundError) as error:  # What array_record raises for damaged and missing files.
        folder = source.dataset_info.data_dir
        raise InputError(f"the data in {folder} is damaged; remove that folder and run again") from error


def _read_labels(source: Any, builder: Any) -> Int32[np.ndarray, " n"]:
    """All labels of a TFDS split, its images left undecoded."""
    if "label" not in builder.info.features:
        return np.full(len(source), UNLABELLED, np.int32)
    return np.array(
        [example["label"] for batch in _batches(np.arange(len(source))) for example in _read(source, batch)],
        np.int32,
    )


def _decoded_batches(
    source: Any, indices: Int[np.ndarray, " n"], labels: Int32[np.ndarray, " all"], size: int | None
) -> Iterator[tuple[UInt8[np.ndarray, "batch height width 3"], Int32[np.ndarray, " batch"]]]:
    for batch in _batches(indices):
        images = [decode_image(example["image"], size) for example in _read(source, batch)]
        yield np.stack(images), labels[batch]


def decode_image(encoded: bytes, size: int | None) -> UInt8[np.ndarray, "height width 3"]:
    """An encoded image as RGB 0..255, greyscale repeated to three channels.

    Args:
        encoded: a PNG or JPEG file.
        size: side in pixels: the largest central square is resized to it, bilinearly with antialiasing;
            None: the image as it is.

    Returns:
        The pixels.
    """
    # Imported here like TFDS: a launcher's --help has no use for it.
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        rgb = image.convert("RGB")
    if size is not None and rgb.size != (size, size):
        side = min(rgb.size)
        left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
        # Cropped before, not by resize's `box`: its filter would reach over the edge.
        square = rgb.crop((left, top, left + side, top + side))
        rgb = square.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)
