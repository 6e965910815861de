"""Checksums of files, block by block, by which damage is noticed and its place named when they are read back.

CRC-32 notices every flipped bit and every run of flips up to 32 bits long; other damage to a block escapes it once in
four billion times. With zlib it reads 2.2 GB a second on one core where sha256 reads 1.0 and blake2b 0.4, and it needs
no further package. It guards against accidents, not against forgery.
"""

import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

# Bytes with a checksum of their own.
BLOCK = 2**24
# Bytes that are read at a time, so that they are still in the processor's cache when they are summed.
_AT_A_TIME = 2**20
_MAX_THREADS = 8
# Seconds after which a bar shows how far reading is.
_PATIENCE = 3.0


def checksums(path: Path) -> list[int]:
    """The size of a file in bytes, and the CRC-32 of each `BLOCK` of it.

    Raises:
      OSError: If it cannot be read.
    """
    size = path.stat().st_size
    starts = range(0, size, BLOCK)
    with path.open("rb") as file, ThreadPoolExecutor(min(os.cpu_count() or 1, _MAX_THREADS)) as pool:
        sums = pool.map(lambda start: _block(file.fileno(), start), starts)
        bar = tqdm(sums, f"checking {path.name}", len(starts), leave=False, disable=None, delay=_PATIENCE)
        return [size, *bar]


def of_files(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """The `checksums` of some files of a folder by name."""
    return {name: checksums(folder / name) for name in names}


def first_fault(folder: Path, expected: Mapping[str, Sequence[int]]) -> str:
    """What is wrong with the first of some files that is not as it was; empty where all are.

    Args:
      folder: Folder of the files.
      expected: The `checksums` of each file by name.
    """
    for name, before in expected.items():
        try:
            now = checksums(folder / name)
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as fault:
            return f"{name} cannot be read: {fault.strerror}"
        if now[0] != before[0]:
            return f"{name} has {now[0]:,} bytes, not {before[0]:,}"
        for place, (old, new) in enumerate(zip(before[1:], now[1:], strict=True)):
            if old != new:
                start = place * BLOCK
                return f"{name} has changed between bytes {start:,} and {min(start + BLOCK, now[0]):,}"
    return ""


def _block(descriptor: int, start: int) -> int:
    total = 0
    for place in range(start, start + BLOCK, _AT_A_TIME):
        total = zlib.crc32(os.pread(descriptor, _AT_A_TIME, place), total)
    return total
