"""Prepares TFDS data of any size in little memory, and without TensorFlow.

TFDS orders records by a hash of their keys. It keeps them in memory until a split exceeds 1 GB, and then writes files
through TensorFlow. So it cannot prepare STL-10 and CelebA without TensorFlow.
"""

import array
import contextlib
import os
import tempfile
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from tensorflow_datasets.core import hashing, shuffle

KEY_BYTES = 16


class DiskShuffler:
    """A `Shuffler` with the order of TFDS's own, which keeps the records in a temporary file.

    Memory holds 24 bytes for each record, and as many again while sorting. The file has no name, so that nothing is
    left of it whenever the process dies.

    Args:
      dirpath: Folder of the file, which takes as much space as the records.
      hash_salt: Text that TFDS mixes with the keys: the split's name.
      disable_shuffling: Must be False, because no builder here needs it.
      ignore_duplicates: Must be False, because no builder here needs it.

    Raises:
      NotImplementedError: If one of the last two is True.
    """

    def __init__(
        self, dirpath: Any, hash_salt: str | bytes, disable_shuffling: bool = False, ignore_duplicates: bool = False
    ) -> None:
        if disable_shuffling or ignore_duplicates:
            raise NotImplementedError("records are always shuffled, and duplicates refused")
        self._hasher = hashing.Hasher(hash_salt)
        self._file = tempfile.TemporaryFile(dir=dirpath)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._keys = bytearray()
        self._ends = array.array("Q", [0])

    @property
    def size(self) -> int:
        """Bytes of all records."""
        return self._ends[-1]

    @property
    def num_examples(self) -> int:
        """Number of records."""
        return len(self._ends) - 1

    @property
    def bucket_lengths(self) -> list[int]:
        """Number of records in each file, for TFDS's division into shards."""
        return [self.num_examples]

    def add(self, key: Any, data: bytes) -> None:
        """Adds a record; `key` is hashed as TFDS does."""
        self._keys += self._hasher.hash_key(key).to_bytes(KEY_BYTES, "big")
        self._ends.append(self.size + len(data))
        self._file.write(data)

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """The hashed keys, ascending, and their records.

        Raises:
          DuplicatedKeysError: If two records have the same key.
        """
        self._file.flush()
        high, low = np.frombuffer(bytes(self._keys), ">u8").reshape(-1, 2).T
        previous = None
        for position in np.lexsort((low, high)):
            start, end = self._ends[position], self._ends[position + 1]
            record = os.pread(self._file.fileno(), end - start, start)
            key = int(high[position]) << 64 | int(low[position])
            if previous is not None and previous[0] == key:
                raise shuffle.DuplicatedKeysError(record, previous[1])
            previous = key, record
            yield previous


@contextlib.contextmanager
def flat_memory() -> Iterator[None]:
    """A context in which TFDS's `download_and_prepare` shuffles with `DiskShuffler`."""
    stock = shuffle.Shuffler
    shuffle.Shuffler = DiskShuffler
    try:
        yield
    finally:
        shuffle.Shuffler = stock
