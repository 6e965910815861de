"""Prepares a data set: downloads or finds its archives, checks them, and decodes them into the cache of --data_dir.

Example: simsiam prepare photos --labels=labels.csv
         simsiam prepare cifar10
         simsiam prepare celeb_a --manual_dir=FOLDER        (archives fetched by hand)

Every command prepares what it needs by itself; this one does nothing else. Run again, it goes on with the split that
it was stopped in, and repeats none that is finished.
"""

import time

from simsiam_jax.cli.flags import define as define_flags
from simsiam_jax.cli.flags import explicit, value
from simsiam_jax.cli.folder import take_folder
from simsiam_jax.cli.launch import labels_flag
from simsiam_jax.data.datasets import dataset_info
from simsiam_jax.data.splits import load_split

WORDS = ("[FOLDER]",)


def define() -> None:
    """Defines the flags."""
    names = ["dataset", "labels", "data_dir", "manual_dir", "image_size", "cached_size", "max_bad_images"]
    define_flags([*names, "group_duplicates"], dataset="cifar10")


def main(folder: str | None = None) -> None:
    """Prepares a folder, or a data set."""
    take_folder(folder)
    info = dataset_info(value("dataset"), labels_flag(), group_duplicates=value("group_duplicates"))
    image_size = value("image_size") or info.image_size
    if info.label_kind != "none":
        print(f"{info.num_classes} {info.label_kind}: {', '.join(info.class_names)}")
    print(f"preparing {info.title} in {value('data_dir')}", flush=True)
    # Of train and unlabelled images together there would be a second copy: made where a run asks for it.
    for split in (name for name in info.splits if "+" not in name):
        begun = time.monotonic()
        images = load_split(
            info,
            split,
            data_dir=value("data_dir"),
            manual_dir=value("manual_dir"),
            size=value("cached_size") or info.stored_size(image_size),
            **explicit(["max_bad_images"]),
        ).images
        count, height, width, _ = images.shape
        size = f"{height}×{width}, {images.nbytes / 1e6:,.0f} MB"
        print(f"{split:12} {count:9,} images of {size}, {time.monotonic() - begun:.1f} s", flush=True)
