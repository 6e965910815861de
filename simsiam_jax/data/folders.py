"""A user's own folder of images: which files, which labels and which splits, before any data is prepared."""

import functools
import hashlib
import heapq
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from absl import logging
from jaxtyping import Int, Int32

from simsiam_jax.data.duplicates import duplicate_files
from simsiam_jax.data.folder_csv import labels_from_csv
from simsiam_jax.data.folder_labels import (
    EXTENSIONS,
    NO_LABEL,
    SPLITS,
    flat_splits,
    labels_from_folders,
)
from simsiam_jax.data.names import listed
from simsiam_jax.errors import InputError, require

# Version that is part of every digest: raise it when the same files would be divided otherwise.
FORMAT = 1


@dataclass(frozen=True, eq=False)
class Listing:
    """What a folder holds.

    Attributes:
      root: Path of the folder.
      files: Sorted names of the images relative to it, with `/`.
      labels: Class numbers, or binary attributes, which are 1, 0 or -1 for missing; -1 where an image has no label.
      label_kind: Whether the labels are classes or attributes, or whether there are none.
      class_names: Names of the classes or attributes, in the order of the labels.
      splits: Sorted positions in `files` by the split's name; they are disjoint, and none is empty.
      digest: 64 hex digits that change with any name, size, time of change, label or split.
    """

    root: Path
    files: Sequence[str]
    labels: Int32[np.ndarray, " n"] | Int32[np.ndarray, "n attributes"]
    label_kind: Literal["classes", "attributes", "none"]
    class_names: tuple[str, ...]
    splits: Mapping[str, Int[np.ndarray, " _"]]
    digest: str


def list_folder(path: Path, labels: str | None, group_duplicates: bool = False) -> Listing:
    """Lists the images of a folder with their labels and splits.

    Without `labels` the folder holds class folders, `PATH/CLASS/**/x.jpg`, or such class folders within `train/` and
    perhaps `validation/` (`val/`, `valid/`) and `test/`, beside `unlabelled/` (`unlabeled/`) with images at any
    depth; or else images directly, which have no labels. What is not given of validation and test is held out of
    the training images: 20 % of every class for test, then 20 % of the rest for validation, at least one image each.
    Images without labels are divided into `train` and `validation` (10 %, at most 1,000).

    A CSV file has a first line of column names. Its first column names files, relative to the folder or, where that
    is unique, without their folders. A further column `split` says train, validation or test; without it, folders
    `train/`, `validation/` and `test/` do if all images named lie in them. A further column `group` names what belongs
    together, such as a patient: the images of a group are held out together. One column more holds classes, sorted by
    number if all are integers; several more are binary attributes. Images without a row become `unlabelled`.

    Hidden files and folders, and files without one of `EXTENSIONS`, are passed over. Symbolic links are followed, also
    out of the folder, as images are often kept apart from the folders that arrange them; a warning counts these. A
    folder is listed once, whatever leads to it. Pipes, sockets and devices are never opened, and named in a warning.

    Args:
      path: Path of the folder.
      labels: The value of --labels: a CSV file, `none` to take all images at any depth without labels, or None.
      group_duplicates: Whether duplicates are held out together, exact and near ones; every image is opened for it.

    Returns:
      What the folder holds.

    Raises:
      InputError: If the folder or the CSV file is not as described.
    """
    root = Path(os.path.abspath(path.expanduser()))
    require(root.exists(), f"folder:{path} (--dataset) does not exist; name a folder of images")
    require(root.is_dir(), f"folder:{path} (--dataset) is a file; name a folder of images")
    folders, files = _walk(root)
    require(
        len(files) > 0,
        f"folder:{path} (--dataset) holds no images; known are files ending in {', '.join(EXTENSIONS)}",
    )
    together = _duplicates(root, files) if group_duplicates else None
    if labels not in (None, "none"):
        values, names, splits = labels_from_csv(Path(labels).expanduser(), root, files, together)
    elif labels == "none" or not any("/" in name for name in files):
        values, names, splits = np.full(len(files), NO_LABEL, np.int32), (), flat_splits(root, files, together)
    else:
        values, names, splits = labels_from_folders(root, folders, files, together)
    kind = "attributes" if values.ndim == 2 else "classes" if names else "none"
    members = {split: np.flatnonzero(splits == number) for number, split in enumerate(SPLITS)}
    return Listing(
        root=root,
        files=files,
        labels=values,
        label_kind=kind,
        class_names=names,
        splits={split: positions for split, positions in members.items() if len(positions)},
        digest=_digest(root, files, values, names, splits),
    )


def list_images(path: Path) -> Listing:
    """Lists all images of a folder at any depth, without labels and in no split.

    Args:
      path: Path of the folder. What is passed over is as in `list_folder`.

    Raises:
      InputError: If there is no such folder, or no image in it.
    """
    root = Path(os.path.abspath(path.expanduser()))
    require(root.exists(), f"{path} does not exist; name a folder of images")
    require(root.is_dir(), f"{path} is a file; name a folder of images")
    _, files = _walk(root)
    require(len(files) > 0, f"{path} holds no images; known are files ending in {', '.join(EXTENSIONS)}")
    return Listing(root, files, np.full(len(files), NO_LABEL, np.int32), "none", (), {}, "")


_known: dict[str, Int[np.ndarray, " n"]] = {}


def _duplicates(root: Path, files: Sequence[str]) -> Int[np.ndarray, " n"]:
    """The groups of duplicates, kept for as long as the process lasts, which lists its folder several times."""
    nothing = np.zeros(len(files), np.int32)
    key = f"{root} {_digest(root, files, nothing, (), nothing)}"
    if key not in _known:
        _known[key] = duplicate_files([root / name for name in files])
    return _known[key]


def _walk(root: Path) -> tuple[list[str], list[str]]:
    """The folders of the first two levels and the images at any depth, both relative to `root` and sorted.

    Each folder is listed once, whatever leads to it: first those that lie in `root`, then links by name.
    """
    real_root = os.path.realpath(root)
    folders: list[str] = []
    files: list[str] = []
    outside, again, odd = [], [], []
    seen: set[tuple[int, int]] = set()
    waiting, links = [""], []
    while waiting or links:
        prefix = waiting.pop() if waiting else heapq.heappop(links)
        place = root / prefix
        try:
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in seen:
                again.append(prefix[:-1])
                continue
            seen.add((status.st_dev, status.st_ino))
            if 1 <= prefix.count("/") <= 2:
                folders.append(prefix[:-1])
            real_place = os.path.realpath(place)
            inside = _is_within(real_place, real_root)
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name == "__MACOSX":
                        continue
                    name, is_link = prefix + entry.name, entry.is_symlink()
                    # Asked by its path, a link to itself is no folder; asked as an entry, it raises.
                    is_folder = os.path.isdir(entry.path) if is_link else entry.is_dir()
                    if is_folder and is_link:
                        heapq.heappush(links, f"{name}/")
                    elif is_folder:
                        waiting.append(f"{name}/")
                    elif not name.lower().endswith(EXTENSIONS):
                        continue
                    # A link that leads nowhere is an image that cannot be read, which is worth telling.
                    elif is_link or entry.is_file():
                        files.append(name)
                    else:
                        odd.append(name)
                    if is_link and inside:
                        target = os.path.normpath(os.path.join(real_place, os.readlink(entry.path)))
                        # The folder itself may be reached by a link.
                        if not any(_is_within(target, each) for each in (real_root, str(root))):
                            outside.append(name)
        except OSError as error:
            raise InputError(f"{place} cannot be read ({error.strerror}); make it readable or move it away") from error
    for names, words in (
        (outside, "links out of the folder are followed"),
        (again, "links to folders that are listed already are passed over"),
        (odd, "pipes, sockets and devices that are called like images are passed over"),
    ):
        if names:
            _warn(f"{root}: {words}: {len(names):,} ({listed(sorted(names), 3)})")
    return sorted(folders), sorted(files)


@functools.cache
def _warn(message: str) -> None:
    """Warns once: a process lists its folder several times."""
    logging.warning("%s", message)


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath((path, folder)) == folder


def _digest(
    root: Path,
    files: Sequence[str],
    values: Int32[np.ndarray, "n ..."],
    names: Sequence[str],
    splits: Int[np.ndarray, " n"],
) -> str:
    """The digest of all that decides what is prepared. The root's name is left out: moving a folder changes nothing."""
    digest = hashlib.sha256(json.dumps([FORMAT, values.shape, names]).encode())
    for name in files:
        try:
            status = os.stat(f"{root}/{name}")
            state = b"%d %d" % (status.st_size, status.st_mtime_ns)
        except OSError:  # A link that leads nowhere, or a file just removed.
            state = b"missing"
        digest.update(b"%s\0%s\n" % (os.fsencode(name), state))
    digest.update(values.astype("<i4").tobytes())
    digest.update(splits.astype("i1").tobytes())
    return digest.hexdigest()
