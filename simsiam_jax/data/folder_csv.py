"""Labels and splits of a folder's images from a CSV file."""

import bisect
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32

from simsiam_jax.data.duplicates import joined
from simsiam_jax.data.folder_labels import (
    EXTENSIONS,
    NO_LABEL,
    SPLIT_FOLDERS,
    SPLITS,
    TRAIN,
    UNLABELLED,
    printable,
    sorted_classes,
    top_folder,
    with_held_out,
)
from simsiam_jax.errors import InputError, require

ATTRIBUTE_VALUES = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), 1),  # pandas writes 1.0 where a column has gaps.
    **dict.fromkeys(("0", "0.0", "false", "no"), 0),
    **dict.fromkeys(("", "nan", "na", "?"), -1),
}


def labels_from_csv(
    path: Path, root: Path, files: Sequence[str], duplicates: Int[np.ndarray, " n"] | None = None
) -> tuple[Int32[np.ndarray, "n ..."], tuple[str, ...], Int[np.ndarray, " n"]]:
    """Labels and splits from a CSV file.

    Args:
      path: Path of the CSV file.
      root: Path of the folder of images, for errors.
      files: Sorted names of the images.
      duplicates: Number of each image's group of duplicates, which stay together as those of a column `group` do.

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
    group_column = _index([name.lower() for name in header[1:]], "group") + 1
    columns = [column for column in range(1, len(header)) if column not in (split_column, group_column)]
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
    groups: dict[str, int] = {}
    together = np.arange(len(files))
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
        if group_column and cells[group_column]:
            together[at] = together[groups.setdefault(cells[group_column], at)]
        if attributes:
            values[at] = [_attribute(cells[column], header[column], place) for column in columns]
        elif cells[columns[0]]:
            values[at] = numbers.setdefault(cells[columns[0]], len(numbers))
        else:
            raise InputError(f"{place}: {cells[0]!r} has no label; add one, or remove the row to leave it unlabelled")
    labelled = np.flatnonzero(lines)
    require(len(labelled) > 0, f"{path} (--labels) has no rows below its first line; add one a labelled image")
    if not split_column:
        by_folder = [SPLIT_FOLDERS.get(top_folder(files[at]).lower(), "") for at in labelled.tolist()]
        if {"train"} <= set(by_folder) <= {"train", "validation", "test"}:
            splits[labelled] = [SPLITS.index(split) for split in by_folder]
    least, most = splits.copy(), splits.copy()
    np.minimum.at(least, together, splits)
    np.maximum.at(most, together, splits)
    torn = next((name for name, first in groups.items() if least[first] < most[first]), None)
    if torn is not None:
        first = groups[torn]
        raise InputError(
            f"{path}, line {lines[first]}: group {torn!r} lies in {SPLITS[least[first]]} and {SPLITS[most[first]]}; "
            "put all its images into one split"
        )
    require(bool((splits == TRAIN).any()), f"{path} (--labels) has no image in split train; add some")
    names = tuple(printable(header[column]) for column in columns)
    if not attributes:
        values, names = sorted_classes(values, _in_order(numbers), numbers)

    def place_of(at: int) -> str:
        return f"{path}, line {lines[at]}" if lines[at] else str(path)

    joint = _joined(together, duplicates) if groups else duplicates
    return values, names, with_held_out(files, values, names, splits, place_of, joint)


def _joined(groups: Int[np.ndarray, " n"], others: Int[np.ndarray, " n"] | None) -> Int[np.ndarray, " n"]:
    """Groups that join images which either of two groupings joins; a group is called by the position of an image."""
    if others is None:
        return groups
    positions = np.arange(len(groups))
    return joined(np.concatenate([positions, positions]), np.concatenate([groups, others]), len(groups))


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
    # Opening a pipe would wait for whoever writes to it.
    require(
        path.is_file() or path.is_dir() or not path.exists(),
        f"--labels={path} is no regular file; name a CSV file or none",
    )
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
