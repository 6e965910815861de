"""What lies in a data folder, and how it is bounded."""

import os
import time

import numpy as np
import pytest

from simsiam_jax.data import storage
from simsiam_jax.data.splits import load_split
from simsiam_jax.files import locked
from simsiam_jax.settings.schema import NoiseConfig
from tests.support.launchers import launch_in_one_process, refused

# What a split of 50 noise images of 8 pixels takes at least.
PIXELS = 50 * 8 * 8 * 3


def noise(root, seed):
    return load_split("random_images", "train", data_dir=root, size=8, noise=NoiseConfig(count=50), seed=seed)


@pytest.fixture
def root(tmp_path):
    """Noise of two seeds, of which the first was used longest ago, and both before this process."""
    for seed in (0, 1):
        noise(tmp_path, seed)
    for each in storage.stored(tmp_path):
        last_used(each, storage._STARTED - (200 if "seed0" in each.name else 100))
    return tmp_path


def last_used(each, when):
    """Marks a folder as used then."""
    for path in (each.folder / storage.DESCRIPTION, each.folder / storage.PREPARED):
        if path.exists():
            os.utime(path, (when, when))


def names(root):
    return [(each.name.rpartition("_")[2], each.what) for each in storage.stored(root)]


def test_what_can_be_made_again_is_listed_by_its_last_use(root):
    assert sorted(names(root)[:2]) == [("seed1", "prepared"), ("seed1", "train, 8 px")]
    assert sorted(names(root)[2:]) == [("seed0", "prepared"), ("seed0", "train, 8 px")]
    assert all(each.size > PIXELS / 2 for each in storage.stored(root))
    noise(root, 0)
    assert names(root)[0] == ("seed0", "train, 8 px")
    assert storage.stored(root)[0].used == pytest.approx(time.time(), abs=60)


def test_a_folder_that_is_missing_holds_nothing(tmp_path):
    assert storage.stored(tmp_path / "nowhere") == []


def test_what_was_used_longest_ago_goes_first_and_is_made_again_alike(root, caplog):
    before = np.array(noise(root, 0).images)
    for each in storage.stored(root):
        last_used(each, 1)
    one = max(each.size for each in storage.stored(root))
    storage.keep_within(root, float(one))
    assert sum(each.size for each in storage.stored(root)) <= one
    assert "--cache_limit" in caplog.text
    np.testing.assert_array_equal(noise(root, 0).images, before)


def test_what_this_process_uses_stays_whatever_it_takes(root):
    images = noise(root, 0).images
    storage.keep_within(root, 0.0)
    assert names(root) == [("seed0", "train, 8 px")]
    assert images.shape == (50, 8, 8, 3)


def test_within_the_limit_nothing_goes(root, caplog):
    before = names(root)
    storage.keep_within(root, 1e9)
    assert names(root) == before
    assert caplog.text == ""


def test_images_that_are_mapped_outlive_their_file(root):
    split = noise(root, 0)
    before = np.array(split.images)
    assert storage.remove(root, storage.stored(root)) > 2 * PIXELS
    assert storage.stored(root) == []
    assert not (root / storage.DECODED).exists()
    np.testing.assert_array_equal(split.images, before)


def test_what_another_process_prepares_is_left_alone(root):
    before = names(root)
    with locked(storage.lock_of(root, "random_images")):
        assert storage.remove(root, storage.stored(root)) == 0
    assert names(root) == before


def test_the_command_lists_and_cleans_one_data_set_or_all(root):
    where = f"--data_dir={root}"
    results = launch_in_one_process(
        [
            ["prepare_data", "--list", where],
            ["prepare_data", "--list", "--dataset=digits", where],
            ["prepare_data", "--clean", "--dataset=digits", where],
            ["prepare_data", "--list", "--clean", where],
            ["prepare_data", "--clean", where],
            ["prepare_data", "--list", where],
        ]
    )
    listed, of_digits, clean_digits, both, cleaned, empty = results
    assert "random_images/uniform_50x8_seed0" in listed.stdout
    assert "train, 8 px" in listed.stdout
    assert "random_images" not in of_digits.stdout
    assert clean_digits.stdout.startswith("removed 0.0 MB")
    refused(both, "--list and --clean")
    assert cleaned.returncode == 0
    assert not cleaned.stdout.startswith("removed 0.0 MB")
    assert empty.stdout.startswith("0.0 MB in")
