"""The registry, the splits and the cache: disjoint, atomic, mapped into memory, one line for a mistake."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam_jax.data import DATASETS, dataset_info, load_split
from simsiam_jax.data.builders import fashion_mnist
from simsiam_jax.data.builders.png import encode_png
from simsiam_jax.data.cache import DESCRIPTION, open_split, write_split
from simsiam_jax.data.datasets import dataset_title
from simsiam_jax.data.decode import decode_image
from simsiam_jax.errors import InputError
from simsiam_jax.settings.schema import NoiseConfig, ViewSpec
from tests.support.launchers import PATIENCE

REPOSITORY = Path(__file__).parents[2]
needs_debian = pytest.mark.skipif(
    not all((fashion_mnist.DEBIAN_FOLDER / name).is_file() for name in fashion_mnist.ARCHIVES),
    reason=f"Debian's package {fashion_mnist.DEBIAN_PACKAGE} is not installed",
)


def python(code, **environment):
    """Runs code in a process of its own, in which importing TensorFlow is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data folder with the digits; tests only read it."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("train", "validation", "test"):
        load_split("digits", split, data_dir=folder)
    return folder


def assert_divides(splits):
    """Sample ids of different splits differ; the original positions are covered without a gap."""
    ids = np.concatenate([split.sample_ids for split in splits])
    assert sorted(ids.tolist()) == list(range(len(ids)))


def test_digits_splits_are_disjoint_and_cover_the_data(prepared):
    splits = [load_split("digits", split, data_dir=prepared) for split in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [1197, 200, 400]
    assert_divides(splits)


def pairs(images, labels):
    """Every image with its label, as bytes and in sorted order."""
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


@needs_debian
def test_real_fashion_mnist_images_keep_pixels_and_labels_and_are_in_one_split(tmp_path, monkeypatch):
    archives = {name: fashion_mnist.DEBIAN_FOLDER / name for name in fashion_mnist.ARCHIVES}
    some = {
        split: (images[:1000], labels[:1000])
        for split, (images, labels) in fashion_mnist.read_archives(archives).items()
    }
    monkeypatch.setattr(fashion_mnist, "read_archives", lambda paths: some)
    train, validation, test = (
        load_split("fashion_mnist", split, data_dir=tmp_path) for split in ("train", "validation", "test")
    )
    assert [len(train), len(validation), len(test)] == [800, 200, 1000]
    assert_divides([train, validation, test])
    # TFDS stores them in an order of its own.
    assert pairs(test.images[..., 0], test.labels) == pairs(some["test"][0][..., 0], some["test"][1])
    both = np.concatenate([train.images, validation.images]), np.concatenate([train.labels, validation.labels])
    assert pairs(both[0][..., 0], both[1]) == pairs(some["train"][0][..., 0], some["train"][1])


@pytest.mark.exhaustive
@needs_debian
def test_the_whole_of_fashion_mnist_has_the_stated_splits(tmp_path):
    splits = [load_split("fashion_mnist", split, data_dir=tmp_path) for split in ("train", "validation", "test")]
    assert [len(split) for split in splits] == [48_000, 12_000, 10_000]
    assert_divides(splits)
    # 6,000 training and 1,000 test images a class; a fifth of the former is held out.
    assert [np.bincount(split.labels).tolist() for split in splits] == [[4800] * 10, [1200] * 10, [1000] * 10]


def test_sample_ids_do_not_depend_on_which_split_is_loaded_first(prepared, tmp_path):
    first = load_split("digits", "test", data_dir=tmp_path)
    later = load_split("digits", "test", data_dir=prepared)
    np.testing.assert_array_equal(first.sample_ids, later.sample_ids)
    assert first.fingerprint == later.fingerprint


def test_images_are_memory_mapped_and_read_only(prepared):
    split = load_split("digits", "train", data_dir=prepared)
    assert isinstance(split.images, np.memmap)
    assert split.images.shape == (1197, 8, 8, 3)
    with pytest.raises(ValueError, match="read-only"):
        split.images[0] = 0


def test_take_keeps_images_labels_and_ids_together(prepared):
    split = load_split("digits", "validation", data_dir=prepared)
    taken = split.take(np.array([7, 3]))
    assert len(taken) == 2
    np.testing.assert_array_equal(taken.images, split.images[[7, 3]])
    assert taken.labels.tolist() == [split.labels[7], split.labels[3]]
    assert taken.sample_ids.tolist() == [split.sample_ids[7], split.sample_ids[3]]
    assert taken.fingerprint != split.fingerprint
    assert split.take(np.arange(200)).fingerprint == split.fingerprint


def test_another_size_is_kept_apart(prepared):
    small = load_split("digits", "test", data_dir=prepared, size=4)
    assert small.images.shape == (400, 4, 4, 3)
    assert load_split("digits", "test", data_dir=prepared).images.shape == (400, 8, 8, 3)


def test_resizing_is_bilinear_with_antialiasing():
    stripes = np.tile(np.array([0, 200], np.uint8), (8, 4))[..., None]
    # Halving, the triangle filter weighs four pixels 1/8, 3/8, 3/8, 1/8, of which stripes make the mean, 100;
    # at an edge three are left, 3/7, 3/7 and 1/7: 3/7 of 200 at the left, 4/7 at the right.
    halved = decode_image(encode_png(stripes), 4)
    np.testing.assert_array_equal(halved, np.tile(np.array([86, 100, 100, 114])[:, None], (4, 1, 3)))


def test_an_oblong_image_is_cropped_to_its_central_square():
    image = np.zeros((6, 10, 3), np.uint8)
    image[:, 2:8] = 200
    assert (decode_image(encode_png(image), 3) == 200).all()
    np.testing.assert_array_equal(decode_image(encode_png(image), None), image)


def test_grey_pixels_are_repeated_over_three_channels():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    np.testing.assert_array_equal(decode_image(encode_png(grey), None), np.repeat(grey, 3, axis=2))


def test_a_jpeg_file_is_decoded_too(tmp_path):
    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "x.jpg", quality=95)
    pixels = decode_image((tmp_path / "x.jpg").read_bytes(), 4)
    assert np.abs(pixels.astype(int) - [10, 20, 30]).max() <= 3


@pytest.mark.parametrize(
    ("name", "split", "complaint"),
    [
        ("imagenet", "train", "unknown data set 'imagenet' .*: known are digits, fashion_mnist, .* and folder:PATH"),
        ("digits", "dev", "digits has no split 'dev': it has 'train', 'validation', 'test'"),
        ("random_images", "test", "random_images has no split 'test': it has 'train'"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(tmp_path, name, split, complaint):
    with pytest.raises(InputError, match=complaint):
        load_split(name, split, data_dir=tmp_path)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_data_folder_that_cannot_be_made_names_the_flag(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"^--data_dir=.*cannot be written") as error:
        load_split("digits", "train", data_dir=tmp_path / place)
    assert "\n" not in str(error.value)


def test_a_size_below_one_pixel_is_refused(tmp_path):
    with pytest.raises(InputError, match="--image_size must be at least 1 pixel, not 0"):
        load_split("digits", "train", data_dir=tmp_path, size=0)


def test_noise_takes_its_own_size_before_the_asked_one(tmp_path):
    def shape(size, noise_size):
        noise = NoiseConfig(count=2, size=noise_size)
        return load_split("random_images", "train", data_dir=tmp_path, size=size, noise=noise).images.shape

    assert shape(None, None) == (2, 32, 32, 3)
    assert shape(5, None) == (2, 5, 5, 3)
    assert shape(None, 7) == (2, 7, 7, 3)
    assert shape(5, 7) == (2, 5, 5, 3)
    assert (tmp_path / "random_images/uniform_2x7_seed0").is_dir()


def test_every_override_of_views_is_a_field_of_viewspec():
    for info in DATASETS.values():
        for name in (info.name, *(f"{info.name}:{variant}" for variant in info.variants)):
            known = dataset_info(name)
            ViewSpec(image_size=known.image_size, **known.views)
            ViewSpec(image_size=known.image_size, **known.finetune_views)
            assert len(known.class_names) == known.num_classes


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("split.json", lambda data: b""),
        ("split.json", lambda data: b"[]"),
        ("split.json", lambda data: json.dumps(json.loads(data) | {"fingerprint": "0" * 16}).encode()),
        ("split.json", lambda data: json.dumps(json.loads(data) | {"format": -1}).encode()),
        ("images.npy", lambda data: data[:-1]),
        ("images.npy", lambda data: b""),
        ("labels.npy", lambda data: data[:100]),
        ("sample_ids.npy", lambda data: b"no array"),
        ("labels.npy", None),
    ],
)
def test_a_damaged_cache_is_rebuilt_with_a_log_line(prepared, caplog, file, damage):
    folder = prepared / "decoded/digits/1.0.0/validation-native"
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    if damage is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(damage(whole[file]))
    with caplog.at_level("WARNING"):
        split = load_split("digits", "validation", data_dir=prepared)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"the decoded images in {folder.resolve()} cannot be used (")
    assert record.getMessage().endswith("; they are made again")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert len(split) == 200


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_records_give_one_line_that_names_the_folder(tmp_path, damage):
    load_split("digits", "test", data_dir=tmp_path)
    (records,) = (tmp_path / "digits/1.0.0").glob("*-train.array_record*")
    whole = records.read_bytes()
    records.unlink()
    if damage == "truncated":
        records.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"damaged \(.*\); remove that folder") as error:
        load_split("digits", "train", data_dir=tmp_path)
    assert str(tmp_path / "digits/1.0.0") in str(error.value)
    assert "\n" not in str(error.value)


def test_loading_again_touches_nothing_but_the_mark_of_the_last_use_and_prints_nothing(prepared, capfd):
    def state():
        return {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.name != DESCRIPTION}

    before = state()
    load_split("digits", "train", data_dir=prepared)
    assert state() == before
    assert capfd.readouterr() == ("", "")


def test_preparing_prints_nothing_where_nobody_watches(tmp_path, capfd):
    load_split("random_images", "train", data_dir=tmp_path, noise=NoiseConfig(count=3, size=4))
    assert capfd.readouterr() == ("", "")


def test_a_batch_that_fails_leaves_the_old_cache_and_no_litter(tmp_path):
    folder = tmp_path / "cached"
    images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.array([3, 1], np.int32)
    write_split(folder, [(images, labels)], np.array([0, 1], np.int32))

    def failing():
        yield images, labels
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_split(folder, failing(), np.arange(4, dtype=np.int32))
    assert [path.name for path in tmp_path.iterdir()] == ["cached"]
    kept = open_split(folder)
    assert kept is not None
    assert kept.labels.tolist() == [3, 1]


# Each kills its process on the 601st image: while TFDS writes its records, or while the cache is written.
KILLED_PREPARING = "from simsiam_jax.data.builders import digits as module; name = 'encode_png'"
KILLED_DECODING = "from simsiam_jax.data import prepared as module; name = 'decode_image'"


@pytest.mark.parametrize(
    ("victim", "prepares"), [(KILLED_PREPARING, False), (KILLED_DECODING, True)], ids=["preparing", "decoding"]
)
def test_a_kill_in_the_middle_is_followed_by_a_clean_run(prepared, tmp_path, victim, prepares):
    killed = python(
        f"""
import itertools, os, signal
{victim}
count, function = itertools.count(), getattr(module, name)
def deadly(*args):
    if next(count) == 600:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*args)
setattr(module, name, deadly)
from simsiam_jax.data import load_split
load_split("digits", "train", data_dir={str(tmp_path)!r})
"""
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (tmp_path / "digits/1.0.0").is_dir() == prepares
    assert not (tmp_path / "decoded/digits/1.0.0/train-native").exists()
    assert any("incomplete" in path.name for path in tmp_path.rglob("*"))  # It was in the middle.

    split = load_split("digits", "train", data_dir=tmp_path)
    assert split.fingerprint == load_split("digits", "train", data_dir=prepared).fingerprint
    assert [path for path in tmp_path.rglob("*") if "incomplete" in path.name] == []


def test_two_processes_at_once_load_the_same(prepared, tmp_path):
    code = f"""
from simsiam_jax.data import load_split
print(load_split("digits", "train", data_dir={str(tmp_path)!r}).fingerprint)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", code]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=PATIENCE) for process in both]
    expected = load_split("digits", "train", data_dir=prepared).fingerprint
    assert printed == [(f"{expected}\n", "")] * 2


def test_every_data_set_has_the_builder_of_its_name():
    assert {name: info.builder.name for name, info in DATASETS.items()} == {name: name for name in DATASETS}


def test_no_tensorflow_is_imported(tmp_path):
    # A stand-in for TensorFlow, so that an import is noticed where TensorFlow is not installed.
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('TensorFlow was imported')")
    finished = python(
        f"""
import sys
from simsiam_jax.data import load_split
for name in ("digits", "random_images"):
    load_split(name, "train", data_dir={str(tmp_path / "data")!r})
assert "tensorflow" not in sys.modules
""",
        PYTHONPATH=f"{tmp_path}:{REPOSITORY}",
    )
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


def folder_of(path, names, broken=()):
    """A folder of grey images of 12×10 pixels, and of files that are none."""
    for number, name in enumerate(names):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (12, 10), number).save(path / name)
    for name in broken:
        (path / name).write_bytes(b"no image")
    return f"folder:{path}"


def test_a_folder_is_a_data_set_of_its_class_folders(tmp_path):
    name = folder_of(tmp_path / "pets", [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(10)])
    info = dataset_info(name)
    assert (info.title, info.label_kind, info.class_names) == ("pets", "classes", ("cat", "dog"))
    splits = [load_split(name, split, data_dir=tmp_path / "data", size=8) for split in info.splits]
    # 2 of each class for test, then a fifth of 8, rounded, for validation.
    assert [len(split) for split in splits] == [12, 4, 4]
    assert_divides(splits)
    assert {split.images.shape[1:] for split in splits} == {(8, 8, 3)}
    # The grey level is the image's number: ten cats, then ten dogs.
    assert all((split.images[:, 0, 0, 0] >= 10).astype(int).tolist() == split.labels.tolist() for split in splits)
    # Without a size, a little more than the views have: 96 * 8 / 7.
    assert load_split(name, "test", data_dir=tmp_path / "data").images.shape[1:] == (110, 110, 3)


def test_a_folder_prepared_when_more_broken_files_were_allowed_is_checked_again(tmp_path):
    names = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(10)]
    name = folder_of(tmp_path / "pets", names, broken=[f"cat/{number}.jpg" for number in range(3)])
    arguments = {"data_dir": tmp_path / "data", "size": 8}
    assert len(load_split(name, "train", max_bad_images=0.2, **arguments)) in range(11, 15)
    with pytest.raises(InputError, match=r"--max_bad_images=0\.01") as error:
        load_split(name, "train", **arguments)
    assert "\n" not in str(error.value)
    assert "cat/0.jpg" in str(error.value)


@pytest.mark.parametrize(
    ("name", "title"),
    [("stl10", "stl10"), ("folder:/a/pets", "pets"), ("imagenet+folder:/a+b/pets", "imagenet+pets")],
)
def test_a_folder_is_called_by_its_own_name(name, title):
    assert dataset_title(name) == title
