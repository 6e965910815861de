"""Checksums of files: which damage they notice, and where they say that it lies."""

import zlib

import numpy as np
import pytest

from simsiam_jax.data import checksums
from simsiam_jax.data.datasets import DATASETS
from simsiam_jax.data.prepared import find
from simsiam_jax.settings.schema import NoiseConfig


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of 1,000 random bytes, in blocks of 64 that are read 16 at a time."""
    monkeypatch.setattr(checksums, "BLOCK", 64)
    monkeypatch.setattr(checksums, "_AT_A_TIME", 16)
    path = tmp_path / "some.npy"
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    return path


def test_a_file_has_its_size_and_the_crc32_of_each_block(file):
    content = file.read_bytes()
    blocks = [content[start : start + 64] for start in range(0, 1000, 64)]
    assert checksums.checksums(file) == [1000, *map(zlib.crc32, blocks)]
    file.write_bytes(b"")
    assert checksums.checksums(file) == [0]


def test_a_flipped_bit_is_noticed_wherever_it_lies(file):
    content, before = file.read_bytes(), checksums.of_files(file.parent, [file.name])
    assert checksums.first_fault(file.parent, before) == ""
    draw = np.random.default_rng(1)
    for place in [0, 63, 64, 999, *draw.integers(0, 1000, 30).tolist()]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(draw.integers(8))
        file.write_bytes(changed)
        start = place // 64 * 64
        fault = f"some.npy has changed between bytes {start} and {min(start + 64, 1000):,}"
        assert checksums.first_fault(file.parent, before) == fault


def test_another_length_and_a_missing_file_are_named(file):
    before = checksums.of_files(file.parent, [file.name])
    file.write_bytes(file.read_bytes()[:-1])
    assert checksums.first_fault(file.parent, before) == "some.npy has 999 bytes, not 1,000"
    file.unlink()
    assert checksums.first_fault(file.parent, before) == "some.npy is missing"


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_is_looked_for_where_tfds_prepares_it(tmp_path, name):
    place = find(DATASETS[name], tmp_path, NoiseConfig(), None, 0, 0.01)
    assert str(place.builder().data_path) == str(place.folder)
