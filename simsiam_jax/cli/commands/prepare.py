"""Prepares a data set: downloads or finds its archives, checks them, and decodes them into the cache of --data_dir.

Example: simsiam prepare photos --labels=labels.csv
         simsiam prepare cifar10
         simsiam prepare celeb_a --manual_dir=FOLDER        (archives fetched by hand)
         simsiam prepare --list                             (what lies in the cache)
         simsiam prepare photos --clean                     (removes what the cache has of the folder photos)

Every command prepares what it needs by itself; this one does nothing else. Run again, it goes on with the split that
it was stopped in, and repeats none that is finished. Downloads are never removed.
"""

import time
from pathlib import Path

from absl import flags
from rich.table import Table

from simsiam_jax.cli.flags import define as define_flags
from simsiam_jax.cli.flags import explicit, value
from simsiam_jax.cli.folder import take_folder
from simsiam_jax.cli.launch import labels_flag
from simsiam_jax.data import storage
from simsiam_jax.data.builders.image_folder import FolderConfig
from simsiam_jax.data.datasets import DatasetInfo, dataset_info
from simsiam_jax.data.splits import load_split
from simsiam_jax.errors import require
from simsiam_jax.terminal import Console, say

WORDS = ("[FOLDER]",)


def define() -> None:
    """Defines the flags."""
    names = ["dataset", "labels", "data_dir", "manual_dir", "image_size", "cached_size", "max_bad_images"]
    define_flags([*names, "group_duplicates", "cache_limit", "list", "clean"], dataset="cifar10")


def main(folder: str | None = None) -> None:
    """Prepares a folder, or a data set; or lists or cleans the cache."""
    take_folder(folder)
    root = Path(value("data_dir")).expanduser().absolute()
    require(not (value("list") and value("clean")), "--list and --clean are two things to do: give one")
    if value("list") or value("clean"):
        named = folder is not None or flags.FLAGS["dataset"].present
        found = storage.stored(root)
        if named:
            ours = _names(dataset_info(value("dataset"), labels_flag(), group_duplicates=value("group_duplicates")))
            found = [each for each in found if each.name.startswith(ours)]
        (_remove if value("clean") else _list)(root, found)
        return
    info = dataset_info(value("dataset"), labels_flag(), group_duplicates=value("group_duplicates"))
    image_size = value("image_size") or info.image_size
    if info.label_kind != "none":
        say(f"{info.num_classes} {info.label_kind}: {', '.join(info.class_names)}")
    say(f"preparing {info.title} in {value('data_dir')}")
    # Of train and unlabelled images together there would be a second copy: made where a run asks for it.
    for split in (name for name in info.splits if "+" not in name):
        begun = time.monotonic()
        images = load_split(
            info,
            split,
            data_dir=root,
            manual_dir=value("manual_dir"),
            size=value("cached_size") or info.stored_size(image_size),
            **explicit(["max_bad_images"]),
        ).images
        count, height, width, _ = images.shape
        size = f"{height}×{width}, {images.nbytes / 1e6:,.0f} MB"
        say(f"{split:12} {count:9,} images of {size}, {time.monotonic() - begun:.1f} s")
    storage.keep_within(root, value("cache_limit") * 1e9)


def _names(info: DatasetInfo) -> str:
    """How the names of a data set's entries in the cache begin: a folder's for whatever size."""
    if info.listing is None:
        return info.name.replace(":", "/")
    return f"{info.builder.name}/{FolderConfig(listing=info.listing, size=1).name.rpartition('_')[0]}_"


def _list(root: Path, found: list[storage.Stored]) -> None:
    table = Table("data set", "what", "MB", "last used", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for each in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.used))
        table.add_row(each.name, each.what, f"{each.size / 1e6:,.1f}", used)
    console = Console(soft_wrap=True)
    if found:
        console.print(table, markup=False)
    total = sum(each.size for each in found)
    say(f"{total / 1e6:,.1f} MB in {root}; --clean removes it, and a run makes again what it needs")


def _remove(root: Path, found: list[storage.Stored]) -> None:
    freed = storage.remove(root, found)
    say(f"removed {freed / 1e6:,.1f} MB from {root}; a run makes again what it needs")
