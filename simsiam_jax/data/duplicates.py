"""Exact and near duplicates among images: a perceptual hash finds candidates, and small thumbnails confirm them.

A copy that was saved again, made brighter or cut a little keeps most bits of its hash. So do all pictures of trousers:
whether two images are copies is told by how much closer they are than images that were drawn at random.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8, UInt64
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from simsiam_jax import stopping
from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.decode import BadImage, decode_file
from simsiam_jax.data.feed import read_ahead
from simsiam_jax.files import written_whole

MARKS_FILE = "marks.npz"
# Version of the marks in files: raise it with a change of how they are made.
FORMAT = 1
SIDE = 16
# The thresholds were chosen on CIFAR-10, Fashion-MNIST and digits (README.md, "Images that lie in two splits").
MOST_BITS = 10  # Bits of 64 in which the hashes of a pair may differ.
MOST_CANDIDATES = 32  # Of each image; where more are that close, the hash tells little, and the closest are taken.
LEAST_CORRELATION = 0.9  # Of the thumbnails.
# Largest distance of a pair's thumbnails, as a share of the distance to the third nearest of the references.
SHARE_OF_DISTANCE = 0.35
NEAREST = 3
REFERENCES = 512
# Side in pixels at which files are compared before any data is prepared.
FILE_SIDE = 64
# A block of hashes that stays in a processor's cache.
ROWS, COLUMNS = 16, 4096


@dataclass(frozen=True, eq=False)
class Marks:
    """What is kept of images to find duplicates among them.

    Attributes:
      hashes: Perceptual hashes of 64 bits.
      thumbnails: Grey images of 16×16 pixels, 0..255.
      digests: Digests of sizes and pixels.
    """

    hashes: UInt64[np.ndarray, " n"]
    thumbnails: UInt8[np.ndarray, "n pixels"]
    digests: UInt64[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True, eq=False)
class Duplicates:
    """The images of one set that also lie in another.

    Attributes:
      positions: Sorted positions of these images in the one set.
      originals: For each the position of the closest image of the other set.
      exact: Whether the two are equal, pixel for pixel.
    """

    positions: Int[np.ndarray, " found"]
    originals: Int[np.ndarray, " found"]
    exact: Bool[np.ndarray, " found"]

    def __len__(self) -> int:
        return len(self.positions)


def mark(images: UInt8[np.ndarray, "n height width 3"]) -> Marks:
    """The marks of images, one image in memory at a time."""
    hashes, digests = np.zeros(len(images), np.uint64), np.zeros(len(images), np.uint64)
    thumbnails = np.zeros((len(images), SIDE * SIDE), np.uint8)
    for at, pixels in enumerate(images):
        if at % 512 == 0:
            stopping.check()
        pixels = np.ascontiguousarray(pixels)
        grey = Image.fromarray(pixels).convert("L")
        hashes[at] = np.packbits(imagehash.phash(grey).hash).view(np.uint64)[0]
        thumbnails[at] = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()
        digest = hashlib.blake2b(str(pixels.shape).encode(), digest_size=8)
        digest.update(pixels.data)
        digests[at] = np.frombuffer(digest.digest(), np.uint64)[0]
    return Marks(hashes, thumbnails, digests)


def duplicate_files(paths: Sequence[Path]) -> Int[np.ndarray, " n"]:
    """A number for each file, which duplicates share, as `duplicate_groups` has them; each file is decoded once.

    Args:
      paths: Paths of images. One that cannot be read is a duplicate of none.
    """

    def read(path: Path) -> Marks | None:
        try:
            return mark(decode_file(path, FILE_SIDE)[None])
        except BadImage:
            return None

    found = list(read_ahead(read, paths, ahead=os.cpu_count() or 1))
    readable = np.array([at for at, each in enumerate(found) if each is not None], int)
    numbers = np.arange(len(found))
    if len(readable):
        marks = [each for each in found if each is not None]
        parts = (
            np.concatenate([getattr(each, name) for each in marks]) for name in ("hashes", "thumbnails", "digests")
        )
        groups = duplicate_groups(Marks(*parts))
        # A group is called after its first file.
        first = np.unique(groups, return_index=True)[1]
        numbers[readable] = readable[first[groups]]
    return numbers


def marks_of(split: ImageSplit) -> Marks:
    """The marks of a split; those of a cached split are kept beside it, and made anew where they are damaged."""
    filename = getattr(split.images, "filename", None)
    if filename is None:
        return mark(split.images)
    path = Path(filename).with_name(MARKS_FILE)
    marks = _read(path, split)
    if marks is None:
        marks = mark(split.images)
        # A data folder that is finished may be read-only.
        with contextlib.suppress(OSError):
            _write(path, split, marks)
    return marks


def _key(split: ImageSplit) -> str:
    return f"{FORMAT}-{len(split)}-{split.fingerprint}"


def _read(path: Path, split: ImageSplit) -> Marks | None:
    """The marks in a file; None if there are none of this split, or they are damaged."""
    try:
        with path.open("rb") as raw, np.load(raw) as file:
            if str(file["key"]) != _key(split):
                return None
            return Marks(file["hashes"], file["thumbnails"], file["digests"])
    # NumPy and zipfile raise any kind of exception for damaged bytes.
    except Exception:
        return None


def _write(path: Path, split: ImageSplit, marks: Marks) -> None:
    """Writes the marks whole or not at all; of several processes each writes the same."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        # Stored in a zip file, every array has a checksum.
        np.savez(file, key=_key(split), hashes=marks.hashes, thumbnails=marks.thumbnails, digests=marks.digests)


def find(some: Marks, others: Marks) -> Duplicates:
    """The images of one set that also lie in another one, exactly or nearly.

    Args:
      some: Marks of the images that are looked for.
      others: Marks of the images that they are looked for among.
    """
    first, second = _equal(some, others)
    near_first, near_second, distances = _near(some, others, NEAREST)
    first, second = np.concatenate([first, near_first]), np.concatenate([second, near_second])
    distances = np.concatenate([np.full(len(first) - len(distances), -1, np.float32), distances])
    order = np.lexsort((second, distances, first))
    first, second, distances = first[order], second[order], distances[order]
    positions, places = np.unique(first, return_index=True)
    return Duplicates(positions, second[places], distances[places] < 0)


def duplicate_groups(marks: Marks) -> Int[np.ndarray, " n"]:
    """A number for each image, which images share if they are duplicates, or duplicates of duplicates."""
    first, second = _equal(marks, marks)
    # Every image is the nearest one to itself.
    near_first, near_second, _ = _near(marks, marks, NEAREST + 1)
    first, second = np.concatenate([first, near_first]), np.concatenate([second, near_second])
    return joined(first, second, len(marks))


def joined(
    first: Int[np.ndarray, " pairs"], second: Int[np.ndarray, " pairs"], count: int
) -> Int[np.ndarray, " count"]:
    """A number for each of `count` things, which things share that pairs of positions join, directly or by others."""
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _equal(some: Marks, others: Marks) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Pairs that are equal pixel for pixel; each of `some` with the first of its kind."""
    known, places = np.unique(others.digests, return_index=True)
    if not len(known):
        return np.zeros(0, int), np.zeros(0, int)
    at = np.minimum(np.searchsorted(known, some.digests), len(known) - 1)
    found = np.flatnonzero(known[at] == some.digests)
    return found, places[at[found]]


def _near(
    some: Marks, others: Marks, nearest: int
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"], Float32[np.ndarray, " pairs"]]:
    """Pairs of near duplicates, and the distances of their thumbnails."""
    rng = np.random.default_rng(0)
    references = _normal(others.thumbnails[np.sort(rng.permutation(len(others))[:REFERENCES])])
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for first, second in _candidates(some.hashes, others.hashes):
        stopping.check()
        rows, places = np.unique(first, return_inverse=True)
        ours = _normal(some.thumbnails[rows])
        known = np.sort(_distance(ours @ references.T), axis=1)[:, min(nearest, len(references)) - 1]
        correlation = np.einsum("nd,nd->n", ours[places], _normal(others.thumbnails[second]))
        distance = _distance(correlation)
        close = (correlation >= LEAST_CORRELATION) & (distance <= SHARE_OF_DISTANCE * known[places])
        found.append((first[close], second[close], distance[close]))
    if not found:
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32)
    first, second, distances = (np.concatenate(part) for part in zip(*found, strict=True))
    return first, second, distances


def _normal(thumbnails: UInt8[np.ndarray, "n pixels"]) -> Float32[np.ndarray, "n pixels"]:
    """Thumbnails of mean 0 and length 1, so that brightness and contrast do not count; flat ones are 0."""
    values = thumbnails.astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    # A standard deviation of 2 of 255 levels is no picture.
    return np.where(length < 2 * SIDE, np.float32(0), values / np.maximum(length, 1e-6)).astype(np.float32)


def _distance(correlation: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """The distance of vectors of length 1."""
    return np.sqrt(np.maximum(2 - 2 * correlation, 0))


def _candidates(
    some: UInt64[np.ndarray, " n"], others: UInt64[np.ndarray, " m"]
) -> Iterator[tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]]:
    """Pairs of positions whose hashes differ in few bits, in parts of bounded size, found by all processors."""

    def part(start: int) -> tuple[np.ndarray, np.ndarray]:
        rows = some[start : start + ROWS, None]
        bits = np.empty((len(rows), len(others)), np.uint8)
        for column in range(0, len(others), COLUMNS):
            np.bitwise_count(rows ^ others[column : column + COLUMNS], out=bits[:, column : column + COLUMNS])
        row, place = np.divmod(np.flatnonzero(bits <= MOST_BITS), len(others))
        counts = np.bincount(row, minlength=1)
        if counts.max() > MOST_CANDIDATES:
            order = np.lexsort((bits[row, place], row))
            rank = np.arange(len(row)) - (np.cumsum(counts) - counts)[row]
            order = order[rank < MOST_CANDIDATES]
            row, place = row[order], place[order]
        return row + start, place

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for block in range(0, len(some), ROWS * 64):
            starts = range(block, min(block + ROWS * 64, len(some)), ROWS)
            for first, second in pool.map(part, starts):
                for at in range(0, len(first), 1 << 16):
                    yield first[at : at + (1 << 16)], second[at : at + (1 << 16)]
