"""Labels and splits of a folder's images, from its subfolders, from a CSV file, or from a hash of the file names.

The hash makes the splits the same on every machine, and adding images moves few of the others.
"""

import bisect
import csv
import hashlib
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32, UInt64

from simsiam_jax.errors import InputError, require

EXTENSIONS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp")
SPLITS = ("train", "validation", "test", "unlabelled")
SPLIT_FOLDERS = {
    **{split: split for split in SPLITS},
    **{"val": "validation", "valid": "validation", "unlabeled": "unlabelled"},
}
FLAT_VALIDATION_FRACTION = 0.1
FLAT_VALIDATION_MAX = 1000
ATTRIBUTE_VALUES = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),  # pandas writes 1.0 where a column has gaps.
    **dict.fromkeys(("0", "0.0", "false", "no"), 0),
    **dict.fromkeys(("", "nan", "na", "?"), -1),
}
NO_LABEL = -1
TRAIN, VALIDATION, TEST, UNLABELLED = range(4)  # Split numbers are positions in SPLITS.
HELD_OUT = {TEST: 0.2, VALIDATION: 0.2}  # The order counts: validation's share is of what test leaves.


def _top(name: str) -> str:
    return name.split("/", 1)[0]


def labels_from_folders(
    root: Path, folders: Sequence[str], files: Sequence[str]
) -> tuple[Int32[np.ndarray, " n"], tuple[str, ...], Int[np.ndarray, " n"]]:
    """Labels and splits from class folders, which may lie in folders named like splits.

    Args:
      root: Path of the folder, for errors.
      folders: Names of the folders of the first two levels.
      files: Sorted names of the images.

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
            is_class = "/" in folder and split_of.get(_top(folder), UNLABELLED) != UNLABELLED
            expected = is_class or folder.lower() in SPLIT_FOLDERS
        else:
            expected = "/" not in folder
        if expected:
            require(folder in used, f"folder {root / folder} holds no images; put some in or remove it")
    values, names = _sorted_classes(np.array(codes, np.int32), sorted(numbers), numbers)
    return values, names, _complete(files, values, names, np.array(splits), lambda at: str(root / files[at]))


def _split_folders(root: Path, files: Sequence[str]) -> dict[str, int]:
    """The top folders named like splits, with their split numbers; empty if they are class folders.

    Raises:
      InputError: If some are and others are not, `train/` is missing, or two stand for the same split.
    """
    tops = sorted({_top(name) for name in files})
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


def _sorted_classes(
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
    return new[codes], tuple(_printable(name) for name in ordered)


def _printable(name: str) -> str:
    """The name in one line of UTF-8, because TFDS stores one class name in each line."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")


def _complete(
    files: Sequence[str],
    values: Int32[np.ndarray, "n ..."],
    names: Sequence[str],
    splits: Int[np.ndarray, " n"],
    place: Callable[[int], str],
) -> Int[np.ndarray, " n"]:
    """Split numbers with validation and test held out of train where there are none.

    Args:
      files: Names of the images, whose hashes decide. Each class, or all images with attributes, is divided by itself.
      values: Class numbers or attributes.
      names: Names of the classes or attributes.
      splits: Split numbers that are given.
      place: Function that says where the label of the image at a position is from.

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
    for members in np.split(train, np.flatnonzero(np.diff(groups[train])) + 1):
        if len(members) <= len(missing):
            first = int(members[0])
            what = f"class {names[int(groups[first])]!r}" if values.ndim == 1 else "train"
            raise InputError(
                f"{place(first)}: {what} has too few images ({len(members)}) to hold out "
                f"{' and '.join(SPLITS[split] for split in missing)}; add images or splits"
            )
        for split in missing:
            held_out, members = np.split(members, [max(1, round(HELD_OUT[split] * len(members)))])
            splits[held_out] = split
    return splits


def _hashes(files: Sequence[str], positions: Int[np.ndarray, " m"]) -> UInt64[np.ndarray, " m"]:
    """Hashes of the names at some positions, which order the images that are held out."""
    names = (os.fsencode(files[int(at)]) for at in positions)
    digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in names)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def flat_splits(root: Path, files: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Split numbers of images without labels: 10 % of them, at most 1,000, are for validation.

    Args:
      root: The folder, for the error.
      files: Names of the images, whose hashes decide.

    Raises:
      InputError: If there is a single image.
    """
    require(len(files) > 1, f"{root} holds a single image; pretraining takes at least two")
    count = min(FLAT_VALIDATION_MAX, max(1, round(FLAT_VALIDATION_FRACTION * len(files))))
    splits = np.full(len(files), TRAIN, np.int8)
    splits[np.argsort(_hashes(files, np.arange(len(files))), kind="stable")[:count]] = VALIDATION
    return splits


def labels_from_csv(
    path: Path, root: Path, files: Sequence[str]
) -> tuple[Int32[np.ndarray, "n ..."], tuple[str, ...], Int[np.ndarray, " n"]]:
    """Labels and splits from a CSV file.

    Args:
      path: Path of the CSV file.
      root: Path of the folder of images, for errors.
      files: Sorted names of the images.

    Returns:
      Class numbers or attributes, the names of the classes or attributes, and split numbers.

    Raises:
      InputError: If the file is not as `list_folder` describes; the message names the line.
    """
    rows = _rows(path)
    line, header = next(rows, (0, []))
    require(len(header) > 0, f"{path} (--labels) is empty; the first line names the columns, the others the images")
    require(all(header), f"{path}, line {line}: column {1 + _index(header, '')} has no name; name or remove it")
    twice = next((name for name in header if header.count(name) > 1), None)
    require(twice is None, f"{path}, line {line}: two columns are called {twice!r}; rename or remove one")
    split_column = _index([name.lower() for name in header[1:]], "split") + 1
    columns = [column for column in range(1, len(header)) if column != split_column]
    require(
        len(columns) > 0,
        f"{path}, line {line}: no column of labels; the first column names files, a further one their classes, "
        "or several further ones binary attributes",
    )
    attributes = len(columns) > 1
    values = np.full((len(files), len(columns)) if attributes else len(files), NO_LABEL, np.int32)
    splits = np.full(len(files), UNLABELLED, np.int8)
    lines = np.zeros(len(files), np.int64)
    numbers: dict[str, int] = {}
    find = _finder(root, files)
    for line, cells in rows:
        place = f"{path}, line {line}"
        if len(cells) != len(header):
            raise InputError(f"{place} has {len(cells)} cells, the first line {len(header)}; correct it")
        at = find(cells[0], place)
        if lines[at]:
            raise InputError(f"{place}: {cells[0]!r} has a row already, line {lines[at]}; remove one")
        lines[at] = line
        splits[at] = _split_cell(cells[split_column], place) if split_column else TRAIN
        if attributes:
            values[at] = [_attribute(cells[column], header[column], place) for column in columns]
        elif cells[columns[0]]:
            values[at] = numbers.setdefault(cells[columns[0]], len(numbers))
        else:
            raise InputError(f"{place}: {cells[0]!r} has no label; add one, or remove the row to leave it unlabelled")
    labelled = np.flatnonzero(lines)
    require(len(labelled) > 0, f"{path} (--labels) has no rows below its first line; add one a labelled image")
    if not split_column:
        by_folder = [SPLIT_FOLDERS.get(_top(files[at]).lower(), "") for at in labelled.tolist()]
        if {"train"} <= set(by_folder) <= {"train", "validation", "test"}:
            splits[labelled] = [SPLITS.index(split) for split in by_folder]
    require(bool((splits == TRAIN).any()), f"{path} (--labels) has no image in split train; add some")
    names = tuple(_printable(header[column]) for column in columns)
    if not attributes:
        values, names = _sorted_classes(values, _in_order(numbers), numbers)

    def place_of(at: int) -> str:
        return f"{path}, line {lines[at]}" if lines[at] else str(path)

    return values, names, _complete(files, values, names, splits, place_of)


def _index(names: Sequence[str], name: str) -> int:
    """Position of a name, or -1."""
    return names.index(name) if name in names else -1


def _in_order(names: Iterable[str]) -> list[str]:
    """The names sorted by number if all are integers, else by name."""
    integers = all(re.fullmatch(r"[+-]?[0-9]{1,18}", name) for name in names)
    return sorted(names, key=(lambda name: (int(name), name)) if integers else None)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV file that are not blank, with their numbers; `,`, `;` or tab separate the cells.

    Raises:
      InputError: If it cannot be read, is not in UTF-8, or its quotes do not match.
    """
    line = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            for cells in reader:
                line = reader.line_num
                if any(stripped := [cell.strip() for cell in cells]):
                    yield line, stripped
    except OSError as error:
        raise InputError(f"--labels={path} cannot be read ({error.strerror}); name a CSV file or none") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} (--labels) is no text in UTF-8 after line {line}; save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise InputError(f"{path} (--labels) is no proper CSV after line {line} ({error}); correct it") from error


def _finder(root: Path, files: Sequence[str]) -> Callable[[str, str], int]:
    """A function that finds the position in `files`, which are sorted, of a name that stands at some place."""
    bare: dict[str, int] = {}

    def find(name: str, place: str) -> int:
        for known in (name, name.replace("\\", "/").removeprefix("./")):
            at = bisect.bisect_left(files, known)
            if at < len(files) and files[at] == known:
                return at
        if not bare:  # It is made only where it is needed.
            for at, file in enumerate(files):
                bare[base] = -1 if (base := file.rsplit("/", 1)[-1]) in bare else at
        at = bare.get(name)
        if at is None:
            fault = f"is no image, with one of {', '.join(EXTENSIONS)}" if (root / name).is_file() else "does not exist"
            raise InputError(f"{place}: {name!r} {fault} in {root}; correct the name or remove the row")
        if at < 0:
            first, second, *_ = (file for file in files if file.endswith(f"/{name}"))
            raise InputError(f"{place}: {name!r} is {first} and {second}; write the name relative to {root}")
        return at

    return find


def _split_cell(cell: str, place: str) -> int:
    split = SPLIT_FOLDERS.get(cell.lower())
    if split in (None, "unlabelled"):
        raise InputError(f"{place}: split is {cell!r}; allowed are train, validation and test")
    return SPLITS.index(split)


def _attribute(cell: str, column: str, place: str) -> int:
    value = ATTRIBUTE_VALUES.get(cell.lower())
    if value is None:
        raise InputError(
            f"{place}: {column} is {cell!r}; allowed are 1 or 0, true or false, yes or no, and nothing, nan, NA or ? "
            "for missing"
        )
    return value
