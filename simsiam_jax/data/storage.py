"""What lies in a data folder that can be made again: its size, when it was last used, and how it is bounded.

Decoded splits can be made again from what TFDS has prepared, and so can the prepared images of folders and of noise.
Downloads and what is prepared from them are never removed: that is for the user to do.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from simsiam_jax.data.cache import DESCRIPTION
from simsiam_jax.files import locked

# Folder of the decoded splits in a data folder.
DECODED = "decoded"
PREPARED = "dataset_info.json"
# Builders whose prepared data is made without a download.
REMADE = ("image_folder", "random_images")
# What this process has used, it may use again.
_STARTED = time.time()


@dataclass(frozen=True)
class Stored:
    """A folder that can be made again.

    Attributes:
      name: Name of the data set, such as `cifar10` or `image_folder/photos_3f2a9c01b7de_96`.
      what: The split and the side of its images, such as `train, 37 px`; `prepared` for what splits are decoded from.
      folder: The folder.
      size: Bytes of its files.
      used: Time of its last use, in seconds since the epoch.
    """

    name: str
    what: str
    folder: Path
    size: int
    used: float


def stored(root: Path) -> list[Stored]:
    """What lies in a data folder that can be made again, what was used last first.

    Args:
      root: The data folder. It need not exist.
    """
    decoded = root / DECODED
    found = [_split(decoded, description.parent) for description in decoded.glob(f"**/{DESCRIPTION}")]
    for builder in REMADE:
        for info in root.glob(f"{builder}/*/*/{PREPARED}"):
            folder = info.parent
            name = str(folder.parent.relative_to(root))
            found.append(Stored(name, "prepared", folder, _bytes(folder), info.stat().st_mtime))
    return sorted(found, key=lambda each: (-each.used, str(each.folder)))


def lock_of(root: Path, builder: str) -> Path:
    """The file that is locked while a builder's data is prepared, decoded or removed."""
    return root / f".{builder}.lock"


def note_use(folder: Path) -> None:
    """Notes that a decoded split is used now; one in a folder that cannot be written stays as it is."""
    try:
        (folder / DESCRIPTION).touch()
    except OSError:
        logging.debug("%s cannot be marked as used", folder)


def remove(root: Path, what: Sequence[Stored]) -> int:
    """Removes folders, and those that are empty then; a process that has mapped their images keeps them.

    A data set that another process is preparing is left alone.

    Args:
      root: The data folder.
      what: What to remove.

    Returns:
      The bytes that were freed.
    """
    freed = 0
    for each in what:
        with locked(lock_of(root, each.name.partition("/")[0]), wait=False) as ours:
            if not ours:
                continue
            # A folder that is half removed must not look whole.
            for last in (DESCRIPTION, PREPARED):
                (each.folder / last).unlink(missing_ok=True)
            shutil.rmtree(each.folder, ignore_errors=True)
        freed += each.size
        for parent in each.folder.parents:
            if parent == root or any(parent.iterdir()):
                break
            parent.rmdir()
    return freed


def keep_within(root: Path, limit: float) -> None:
    """Removes what was used longest ago until the rest takes at most so many bytes.

    What this process has used or made stays, whatever it takes.

    Args:
      root: The data folder.
      limit: Bytes.
    """
    taken, gone = 0, []
    for each in stored(root):
        if taken + each.size > limit and each.used < _STARTED:
            gone.append(each)
        else:
            taken += each.size
    if gone and (freed := remove(root, gone)):
        logging.warning(
            "%s: removed %s MB of decoded images that were used longest ago, to stay within --cache_limit; they are "
            "made again where they are needed",
            root,
            f"{freed / 1e6:,.0f}",
        )


def _split(decoded: Path, folder: Path) -> Stored:
    parts = folder.relative_to(decoded).parts
    split, _, side = parts[-1].rpartition("-")
    # BUILDER[/CONFIG]/VERSION[/VARIANT]/SPLIT-SIDE: the version is the part that begins with a number and has dots.
    version = next(place for place, part in enumerate(parts) if part.count(".") == 2 and part[0].isdigit())
    name = "/".join([*parts[:version], *parts[version + 1 : -1]])
    pixels = side if side == "native" else f"{side} px"
    return Stored(name, f"{split}, {pixels}", folder, _bytes(folder), (folder / DESCRIPTION).stat().st_mtime)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
