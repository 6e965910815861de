"""The TFDS builders: prepared without TensorFlow, verified sources, errors of one line."""

import http.server
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import mnist

from simsiam_jax.data import DATASETS, load_split
from simsiam_jax.data.builders import digits, fashion_mnist, random_images
from simsiam_jax.data.builders.png import encode_png
from simsiam_jax.errors import InputError
from simsiam_jax.settings.schema import NoiseConfig
from tests.support.archives import fashion_arrays, fashion_files, publish

DEBIAN = fashion_mnist.DEBIAN_FOLDER
OFFICIAL = fashion_mnist.ARCHIVES
needs_debian = pytest.mark.skipif(
    not all((DEBIAN / name).is_file() for name in OFFICIAL),
    reason=f"Debian's package {fashion_mnist.DEBIAN_PACKAGE} is not installed",
)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder with four archives of 60 and 20 images, expected in place of the official ones; no Debian package."""
    folder = tmp_path / "archives"
    folder.mkdir()
    arrays = fashion_arrays(train=60, test=20)
    publish("fashion_mnist", fashion_files(arrays), folder, monkeypatch)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "not-installed")
    return folder, arrays


def one_line(error):
    """The message of a user's mistake, which must be one line."""
    message = str(error.value)
    assert "\n" not in message
    return message


def test_digits_are_scikit_learns_and_each_is_in_one_split(tmp_path):
    images, labels = digits.digit_images()
    assert images.shape == (1797, 8, 8, 1)
    # 17 grey levels: 0..16 times 255/16 = 15.9375.
    assert np.unique(images).tolist() == [round(level * 15.9375) for level in range(17)]
    found = []
    for split, size in (("train", 1197), ("validation", 200), ("test", 400)):
        loaded = load_split("digits", split, data_dir=tmp_path)
        assert len(loaded) == size
        # Stratified: every class is within one image of its share.
        share = np.bincount(labels) * size / 1797
        assert (np.abs(np.bincount(loaded.labels) - share) <= 1.5).all()
        found += [(image.tobytes(), int(label)) for image, label in zip(loaded.images, loaded.labels, strict=True)]
    original = [
        (np.repeat(image, 3, axis=2).tobytes(), int(label)) for image, label in zip(images, labels, strict=True)
    ]
    assert sorted(found) == sorted(original)


def test_class_names_of_the_registry_are_the_builders(tmp_path):
    for name, builder in (("digits", digits.Digits), ("fashion_mnist", fashion_mnist.FashionMNIST)):
        features: Any = builder(data_dir=tmp_path).info.features
        assert tuple(features["label"].names) == DATASETS[name].class_names
        assert features["image"].shape[0] == DATASETS[name].native_size


def test_idx_files_are_parsed_as_their_format_says():
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    # Written out: magic 0 0 8 3, then 2, 3 and 4 as big-endian 32-bit numbers.
    header = bytes.fromhex("00000803 00000002 00000003 00000004")
    np.testing.assert_array_equal(fashion_mnist.parse_idx(header + bytes(range(24)), 3, "x"), images)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (bytes.fromhex("00000801 00000002 0102"), "not an IDX file"),
        (bytes.fromhex("00000d03 00000001 00000001 00000001 00"), "not an IDX file"),
        (bytes.fromhex("00000803 00000001"), "ends within its header"),
        (bytes.fromhex("00000803 00000001 00000001 00000002 00"), "holds 1 values, its header says 2"),
        (bytes.fromhex("00000803 00000001 00000001 00000001 0000"), "holds 2 values, its header says 1"),
    ],
)
def test_a_wrong_idx_file_is_named(data, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        fashion_mnist.parse_idx(data, 3, "some-file.gz")
    assert "some-file.gz" in one_line(error)


def test_archives_are_expected_as_tfds_records_them():
    recorded = checksums.load_url_infos(Path(tfds.__file__).parent / "url_checksums" / "fashion_mnist.txt")
    assert {archive.url: (archive.size, archive.sha256) for archive in OFFICIAL.values()} == {
        url: (info.size, info.checksum) for url, info in recorded.items()
    }


@needs_debian
def test_debians_files_are_the_originals_but_for_the_header():
    # Of the small files; read_archive verifies the sha256 of the original.
    labels = fashion_mnist.parse_idx(
        fashion_mnist.read_archive(DEBIAN / "t10k-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"), 1, "x"
    )
    # The test set has 1,000 images of each of the 10 classes.
    assert np.bincount(labels).tolist() == [1000] * 10


def test_fashion_mnist_from_a_folder_is_what_its_files_hold(tiny, tmp_path):
    folder, arrays = tiny
    load = {
        split: load_split("fashion_mnist", split, data_dir=tmp_path / "data", manual_dir=folder)
        for split in ("train", "validation", "test")
    }
    assert [len(load[split]) for split in load] == [48, 12, 20]
    for prefix, splits in (("train", ("train", "validation")), ("t10k", ("test",))):
        images, labels = arrays[f"{prefix}-images-idx3-ubyte.gz"], arrays[f"{prefix}-labels-idx1-ubyte.gz"]
        original = [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]
        found = [
            (image[:, :, 0].tobytes(), int(label))
            for split in splits
            for image, label in zip(load[split].images, load[split].labels, strict=True)
        ]
        assert sorted(found) == sorted(original)
    for split in load.values():
        assert (split.images == split.images[..., :1]).all()


def test_plain_tfds_reads_what_our_builder_prepared(tiny, tmp_path):
    folder, _ = tiny
    ours = load_split("fashion_mnist", "test", data_dir=tmp_path / "data", manual_dir=folder)
    source = tfds.data_source("fashion_mnist", split="test", data_dir=tmp_path / "data", download=False)
    assert len(source) == 20
    for example, image, label in zip(source, ours.images, ours.labels, strict=True):
        np.testing.assert_array_equal(example["image"][..., 0], image[..., 0])
        assert example["label"] == label
    stock = tfds.builder("fashion_mnist", data_dir=tmp_path / "data")
    assert type(stock) is mnist.FashionMNIST
    assert str(stock.version) == "3.0.1"
    assert {name: split.num_examples for name, split in stock.info.splits.items()} == {"train": 60, "test": 20}


def test_data_prepared_in_another_format_gives_one_line(tiny, tmp_path):
    folder, _ = tiny
    load_split("fashion_mnist", "test", data_dir=tmp_path / "data", manual_dir=folder)
    description = tmp_path / "data/fashion_mnist/3.0.1/dataset_info.json"
    description.write_text(description.read_text().replace("array_record", "tfrecord"))
    (description.parent / "checksums.json").unlink()  # which TFDS does not write
    with pytest.raises(InputError, match="as tfrecord, which needs TensorFlow") as error:
        load_split("fashion_mnist", "train", data_dir=tmp_path / "data", manual_dir=folder)
    assert "--data_dir" in one_line(error)


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_truncated_or_altered_file_is_named_and_nothing_is_left(tiny, tmp_path, damage):
    folder, _ = tiny
    path = folder / "t10k-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        data = data[:-100]
    else:
        data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="truncated or altered") as error:
        load_split("fashion_mnist", "test", data_dir=tmp_path / "data", manual_dir=folder)
    assert str(path) in one_line(error)
    assert list((tmp_path / "data/fashion_mnist").iterdir()) == []


def test_official_archives_are_told_from_others_of_the_same_form(tiny, monkeypatch):
    folder, _ = tiny
    monkeypatch.setattr(fashion_mnist, "ARCHIVES", OFFICIAL)
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz is truncated or altered"):
        fashion_mnist.read_archives({name: folder / name for name in OFFICIAL})


def test_a_missing_file_of_the_four_is_named(tiny, tmp_path):
    folder, _ = tiny
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"lacks train-labels-idx1-ubyte\.gz"):
        load_split("fashion_mnist", "test", data_dir=tmp_path / "data", manual_dir=folder)
    with pytest.raises(InputError, match=r"--manual_dir=.*nowhere is no folder"):
        load_split("fashion_mnist", "test", data_dir=tmp_path / "data", manual_dir=tmp_path / "nowhere")


def test_no_network_gives_one_line_that_names_package_flag_folder_and_files(tiny, tmp_path, monkeypatch):
    # Port 9 of this machine: nobody listens, the connection is refused at once.
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(InputError, match="refused") as error:
        load_split("fashion_mnist", "train", data_dir=tmp_path / "data")
    message = one_line(error)
    for hint in ("dataset-fashion-mnist", "--manual_dir", str(fashion_mnist.DEBIAN_FOLDER), *OFFICIAL):
        assert hint in message


@pytest.fixture
def server(tiny, monkeypatch):
    """Serves the tiny archives; its `broken` set holds the names that are answered with 404, save to HEAD."""
    folder, _ = tiny

    class Handler(http.server.SimpleHTTPRequestHandler):
        broken = frozenset()

        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def do_GET(self):
            if self.path.strip("/") in self.broken:
                self.send_error(404)
            else:
                super().do_GET()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{httpd.server_address[1]}/"
        served = {name: archive._replace(url=url + name) for name, archive in fashion_mnist.ARCHIVES.items()}
        monkeypatch.setattr(fashion_mnist, "ARCHIVES", served)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield Handler
        httpd.shutdown()
        thread.join()


def test_fashion_mnist_is_downloaded_where_it_is_not_installed(server, tiny, tmp_path):
    _, arrays = tiny
    loaded = load_split("fashion_mnist", "test", data_dir=tmp_path / "data")
    labels = arrays["t10k-labels-idx1-ubyte.gz"]
    assert np.bincount(loaded.labels).tolist() == np.bincount(labels).tolist()


def test_a_download_that_fails_half_way_gives_one_line(server, tmp_path, monkeypatch):
    monkeypatch.setattr(server, "broken", {"t10k-labels-idx1-ubyte.gz"})
    with pytest.raises(InputError, match=r"404.*--manual_dir") as error:
        load_split("fashion_mnist", "test", data_dir=tmp_path / "data")
    one_line(error)


def test_a_download_that_is_not_the_file_is_refused_and_not_kept(server, tiny, tmp_path):
    folder, _ = tiny
    whole = (folder / "t10k-labels-idx1-ubyte.gz").read_bytes()
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"<html>please log in</html>")
    with pytest.raises(InputError, match="what the server sent is another file") as error:
        load_split("fashion_mnist", "test", data_dir=tmp_path / "data")
    one_line(error)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(whole)
    assert len(load_split("fashion_mnist", "test", data_dir=tmp_path / "data")) == 20


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (5, 3, 1), (3, 5, 3), (32, 32, 3), (96, 96, 3), (300, 300, 1)])
def test_png_files_hold_the_pixels_to_the_bit(shape):
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for image in (noise, np.zeros(shape, np.uint8), np.sort(noise, axis=0)):
        with Image.open(io.BytesIO(encode_png(image))) as file:
            assert (file.format, file.mode) == ("PNG", "L" if shape[2] == 1 else "RGB")
            np.testing.assert_array_equal(np.asarray(file).reshape(shape), image)


def test_noise_is_a_function_of_seed_and_index_whatever_the_count():
    image = random_images.noise_image("uniform", 8, 3, 5)
    np.testing.assert_array_equal(image, random_images.noise_image("uniform", 8, 3, 5))
    assert (image != random_images.noise_image("uniform", 8, 3, 6)).mean() > 0.9
    assert (image != random_images.noise_image("uniform", 8, 4, 5)).mean() > 0.9


def test_noise_has_its_distribution():
    uniform = np.stack([random_images.noise_image("uniform", 64, 0, i) for i in range(16)])
    # 196,608 values: each of the 256 is expected 768 times, and a count's standard deviation is 28.
    counts = np.bincount(uniform.ravel(), minlength=256)
    assert counts.min() > 768 - 6 * 28
    assert counts.max() < 768 + 6 * 28
    gaussian = np.stack([random_images.noise_image("gaussian", 64, 0, i) for i in range(16)])
    # Beyond two standard deviations lie 4.55 % of a normal distribution, half of it at each end.
    assert abs((gaussian == 0).mean() - 0.0228) < 0.002
    assert abs((gaussian == 255).mean() - 0.0228) < 0.002
    assert abs(gaussian.mean() - 127.5) < 0.5


def test_random_images_are_prepared_as_configured(tmp_path):
    noise = NoiseConfig(distribution="gaussian", count=5, size=6)
    loaded = load_split("random_images", "train", data_dir=tmp_path, noise=noise, seed=2)
    assert loaded.images.shape == (5, 6, 6, 3)
    assert (loaded.labels == -1).all()
    expected = {random_images.noise_image("gaussian", 6, 2, index).tobytes() for index in range(5)}
    assert {image.tobytes() for image in loaded.images} == expected
    assert (tmp_path / "random_images" / "gaussian_5x6_seed2" / "1.0.0").is_dir()
    other = load_split("random_images", "train", data_dir=tmp_path, noise=noise, seed=3)
    assert other.fingerprint != loaded.fingerprint
