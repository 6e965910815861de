"""Labels and splits of a folder's images, from its subfolders or from a hash of the file names.

The hash makes the splits the same on every machine, and adding images moves few of the others.
"""

import hashlib
import os
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32, UInt64

from simsiam_jax.data.names import listed
from simsiam_jax.errors import InputError, require

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp")
SPLITS = ("train", "validation", "test", "unlabelled")
SPLIT_FOLDERS = {
    **{split: split for split in SPLITS},
    **{"val": "validation", "valid": "validation", "unlabeled": "unlabelled"},
}
FLAT_VALIDATION_FRACTION = 0.1
FLAT_VALIDATION_MAX = 1000
NO_LABEL = -1
TRAIN, VALIDATION, TEST, UNLABELLED = range(4)  # Split numbers are positions in SPLITS.
HELD_OUT = {TEST: 0.2, VALIDATION: 0.2}  # The order counts: validation's share is of what test leaves.


def top_folder(name: str) -> str:
    """The first folder in the name of a file, or the name itself."""
    return name.split("/", 1)[0]


def labels_from_folders(
    root: Path, folders: Sequence[str], files: Sequence[str], together: Int[np.ndarray, " n"] | None = None
) -> tuple[Int32[np.ndarray, " n"], tuple[str, ...], Int[np.ndarray, " n"]]:
    """Labels and splits from class folders, which may lie in folders named like splits.

    Args:
      root: Path of the folder, for errors.
      folders: Names of the folders of the first two levels.
      files: Sorted names of the images.
      together: Number of each image's group, as `with_held_out` takes it.

    Returns:
      Class numbers, class names and split numbers.

    Raises:
      InputError: If an image lies in no class folder, or a class folder holds no image.
    """
    direct = next((name for name in files if "/" not in name), None)
    require(
        direct is None,
        f"{root} has images beside folders of images, such as {direct}; move them into class folders, "
        "or take all images without labels by --labels=none",
    )
    split_of = _split_folders(root, files)
    depth = 1 if split_of else 0
    splits, codes, numbers, used = array("b"), array("i"), {}, set(split_of)
    for name in files:
        parts = name.split("/", depth + 1)
        split = split_of.get(parts[0], TRAIN)
        splits.append(split)
        if split == UNLABELLED:
            codes.append(NO_LABEL)
            continue
        if len(parts) < depth + 2:
            raise InputError(
                f"{root / name} lies in no class folder; move it into {parts[0]}/CLASS/, or name --labels=FILE.csv "
                "or --labels=none"
            )
        codes.append(numbers.setdefault(parts[depth], len(numbers)))
        used.add("/".join(parts[: depth + 1]))
    for folder in folders:
        if split_of:
            is_class = "/" in folder and split_of.get(top_folder(folder), UNLABELLED) != UNLABELLED
            expected = is_class or folder.lower() in SPLIT_FOLDERS
        else:
            expected = "/" not in folder
        if expected:
            require(folder in used, f"folder {root / folder} holds no images; put some in or remove it")
    values, names = sorted_classes(np.array(codes, np.int32), sorted(numbers), numbers)

    def place(at: int) -> str:
        return str(root / files[at])

    return values, names, with_held_out(files, values, names, np.array(splits), place, together)


def _split_folders(root: Path, files: Sequence[str]) -> dict[str, int]:
    """The top folders named like splits, with their split numbers; empty if they are class folders.

    Raises:
      InputError: If some are and others are not, `train/` is missing, or two stand for the same split.
    """
    tops = sorted({top_folder(name) for name in files})
    found = {top: SPLITS.index(SPLIT_FOLDERS[top.lower()]) for top in tops if top.lower() in SPLIT_FOLDERS}
    if found:
        other = next((top for top in tops if top not in found), None)
        require(
            other is None,
            f"{root} has {next(iter(found))}/, a split, beside {other}/, a class; move the classes into train/, or "
            f"rename {next(iter(found))}/ if it is a class too",
        )
        require(
            TRAIN in found.values(),
            f"{root} has {next(iter(found))}/ but no train/ with images; put the class folders of training into train/",
        )
        require(
            len(set(found.values())) == len(found),
            f"{root} has {', '.join(f'{top}/' for top in found)}, two of which mean the same split; merge them",
        )
    return found


def sorted_classes(
    codes: Int32[np.ndarray, " n"], ordered: Sequence[str], numbers: Mapping[str, int]
) -> tuple[Int32[np.ndarray, " n"], tuple[str, ...]]:
    """Class numbers in the order of `ordered`, and the classes' names.

    Args:
      codes: Numbers in the order in which classes were met; -1 where an image has no label.
      ordered: The classes in the order wanted.
      numbers: The number in `codes` of each class.
    """
    new = np.empty(len(ordered) + 1, np.int32)
    new[[numbers[name] for name in ordered]] = np.arange(len(ordered))
    new[-1] = NO_LABEL  # Where `codes` is -1.
    return new[codes], tuple(printable(name) for name in ordered)


def printable(name: str) -> str:
    """The name in one line of UTF-8, because TFDS stores one class name in each line."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def with_held_out(
    files: Sequence[str],
    values: Int32[np.ndarray, "n ..."],
    names: Sequence[str],
    splits: Int[np.ndarray, " n"],
    place: Callable[[int], str],
    together: Int[np.ndarray, " n"] | None = None,
) -> Int[np.ndarray, " n"]:
    """Split numbers with validation and test held out of train where there are none.

    Args:
      files: Names of the images, whose hashes decide. Each class, or all images with attributes, is divided by itself.
      values: Class numbers or attributes.
      names: Names of the classes or attributes.
      splits: Split numbers that are given.
      place: Function that says where the label of the image at a position is from.
      together: Number of each image's group; the images of a group stay together. None divides image by image.

    Returns:
      Split numbers.

    Raises:
      InputError: If there is only one class, a class that training images lack, or too few images of a class.
    """
    is_train = splits == TRAIN
    groups = values if values.ndim == 1 else np.zeros(len(files), np.int32)
    if values.ndim == 1:
        strange = np.flatnonzero(~is_train & (values != NO_LABEL) & ~np.isin(values, values[is_train])).tolist()
        if strange:
            name, split = names[int(values[strange[0]])], SPLITS[int(splits[strange[0]])]
            raise InputError(
                f"{place(strange[0])}: class {name!r} of {split} has no image in train; add some or remove it"
            )
        require(len(names) > 1, f"{place(0)}: {names[0]!r} is the only class; add another, or give --labels=none")
    missing = [split for split in (TEST, VALIDATION) if not (splits == split).any()]
    if not missing:
        return splits
    splits = splits.copy()
    train = np.flatnonzero(is_train)
    train = train[np.lexsort((_hashes(files, train), groups[train]))]
    classes = np.split(train, np.flatnonzero(np.diff(groups[train])) + 1)
    tiny = [members for members in classes if len(members) <= len(missing)]
    if tiny:
        raise InputError(_too_few(tiny, missing, values, names, place))
    if together is not None:
        splits[train] = group_splits(
            files, train, groups[train], together[train], {each: HELD_OUT[each] for each in missing}
        )
        lacking = [
            names[int(groups[members[0]])] if values.ndim == 1 else "train"
            for members in classes
            if len(np.unique(splits[members])) <= len(missing)
        ]
        require(
            not lacking,
            f"{place(int(train[0]))}: too few groups of images that stay together to hold out "
            f"{' and '.join(SPLITS[split] for split in missing)} beside train: {listed(lacking, most=20)}; add "
            "images of other groups, or say which are which in a column split",
        )
        return splits
    for members in classes:
        for split in missing:
            held_out, members = np.split(members, [max(1, round(HELD_OUT[split] * len(members)))])
            splits[held_out] = split
    return splits


def group_splits(
    files: Sequence[str],
    train: Int[np.ndarray, " m"],
    classes: Int[np.ndarray, " m"],
    together: Int[np.ndarray, " m"],
    shares: Mapping[int, float],
) -> Int[np.ndarray, " m"]:
    """Split numbers of images in groups, of which each lies in one split.

    Groups are taken in the order of their images' hashes, as long as no class gets more than its share. A class that
    then has no image there gives its smallest group. So a share is reached as nearly as the groups allow.

    Args:
      files: Names of all images.
      train: Positions of the images to divide.
      classes: Their class numbers.
      together: Their groups' numbers.
      shares: Share of the images that are left, 0..1, by the number of the split to hold out.
    """
    group = np.unique(together, return_inverse=True)[1]
    kinds = np.unique(classes, return_inverse=True)[1]
    first = np.full(group.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(first, group, _hashes(files, train))
    counts = np.zeros((len(first), kinds.max() + 1), np.int64)
    np.add.at(counts, (group, kinds), 1)
    split_of = np.full(len(first), TRAIN, np.int8)
    for split, share in shares.items():
        free = np.argsort(first, kind="stable")
        free = free[split_of[free] == TRAIN]
        wanted = np.maximum(1, np.round(share * counts[free].sum(axis=0)))
        held_out = np.zeros(counts.shape[1], np.int64)
        for one in free.tolist():
            if np.all((held_out + counts[one] <= wanted) | (counts[one] == 0)):
                split_of[one] = split
                held_out += counts[one]
        for kind in range(counts.shape[1]):
            own = free[(counts[free, kind] > 0) & (split_of[free] == TRAIN)]
            if not held_out[kind] and len(own) > 1:
                one = own[np.argmin(counts[own].sum(axis=1))]
                split_of[one] = split
                held_out += counts[one]
    return split_of[group]


def _too_few(
    tiny: Sequence[Int[np.ndarray, " _"]],
    missing: Sequence[int],
    values: Int32[np.ndarray, "n ..."],
    names: Sequence[str],
    place: Callable[[int], str],
) -> str:
    """The line that refuses classes with fewer images than splits, or so few images with attributes."""
    first = int(tiny[0][0])
    held_out = " and ".join(SPLITS[split] for split in missing)
    if values.ndim == 2:
        return (
            f"{place(first)}: train has too few images ({len(tiny[0])}) to hold out {held_out}; add images, or say "
            "which are which in a column split"
        )
    counts = listed((f"{names[int(values[members[0]])]!r} ({len(members)})" for members in tiny), most=20)
    return (
        f"{place(first)}: too few images to hold out {held_out} beside train, which takes {len(missing) + 1} of a "
        f"class: {counts}; add images, merge the class into another, remove it, or give the splits as folders train/, "
        "validation/ and test/"
    )


def _hashes(files: Sequence[str], positions: Int[np.ndarray, " m"]) -> UInt64[np.ndarray, " m"]:
    """Hashes of the names at some positions, which order the images that are held out."""
    names = (os.fsencode(files[int(at)]) for at in positions)
    digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def flat_splits(
    root: Path, files: Sequence[str], together: Int[np.ndarray, " n"] | None = None
) -> Int[np.ndarray, " n"]:
    """Split numbers of images without labels: 10 % of them, at most 1,000, are for validation.

    Args:
      root: The folder, for the error.
      files: Names of the images, whose hashes decide.
      together: Number of each image's group; the images of a group stay together.

    Raises:
      InputError: If there is a single image.
    """
    require(len(files) > 1, f"{root} holds a single image; pretraining takes at least two")
    count = min(FLAT_VALIDATION_MAX, max(1, round(FLAT_VALIDATION_FRACTION * len(files))))
    if together is not None:
        require(len(np.unique(together)) > 1, f"{root} holds copies of a single image; pretraining takes at least two")
        everything = np.arange(len(files))
        return group_splits(files, everything, 0 * everything, together, {VALIDATION: count / len(files)})
    splits = np.full(len(files), TRAIN, np.int8)
    splits[np.argsort(_hashes(files, np.arange(len(files))), kind="stable")[:count]] = VALIDATION
    return splits
