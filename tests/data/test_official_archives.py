"""CIFAR-10, STL-10, CelebA and the solar cells, from archives written here byte by byte as their formats say."""

import gzip
import hashlib
import http.server
import importlib.util
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import shuffle
from tensorflow_datasets.core.download import checksums, downloader
from tensorflow_datasets.core.features import image_feature
from tensorflow_datasets.image_classification import cifar

from simsiam_jax.data import dataset_info, load_split
from simsiam_jax.data.builders import celeb_a, cifar10, solar_cells, stl10
from simsiam_jax.data.builders.png import encode_png
from simsiam_jax.data.builders.preparation import DiskShuffler, flat_memory
from simsiam_jax.data.decode import decode_image
from simsiam_jax.errors import InputError
from tests.support.archives import (
    ATTRIBUTE_NAMES,
    CIFAR_NAMES,
    LANDMARK_NAMES,
    STL_NAMES,
    celeb_files,
    cifar_members,
    publish,
    stl_members,
    tar_bytes,
    targz,
    write_cells,
    zip_bytes,
)
from tests.support.launchers import PATIENCE

REPOSITORY = Path(__file__).parents[2]
OFFICIAL = {"cifar10": cifar10.ARCHIVES, "stl10": stl10.ARCHIVES, "celeb_a": celeb_a.ARCHIVES}
BUILDERS = {"cifar10": cifar10.Cifar10, "stl10": stl10.Stl10, "celeb_a": celeb_a.CelebA}


@pytest.fixture(name="publish")
def publish_files(tmp_path, monkeypatch):
    """Writes files into a folder and has them expected in place of the official ones; returns the folder."""
    folder = tmp_path / "archives"
    folder.mkdir()

    def write(dataset, files, server="http://127.0.0.1:9/"):
        publish(dataset, files, folder, monkeypatch, server)
        return folder

    return write


def official_files(dataset, lists=None, images=None):
    """The small archives of a data set, as they are published."""
    if dataset == "cifar10":
        return {"cifar-10-binary.tar.gz": targz(cifar_members()[0])}
    if dataset == "stl10":
        return {"stl10_binary.tar.gz": targz(stl_members()[0])}
    whole_lists, whole_images, _ = celeb_files()
    encoded = {name: text.encode() for name, text in (whole_lists | (lists or {})).items()}
    return encoded | {"img_align_celeba.zip": zip_bytes(images or whole_images.items())}


def prepare(dataset, data_dir, manual_dir=None):
    """Prepares by our builder; returns it."""
    builder = BUILDERS[dataset](data_dir=data_dir)
    with flat_memory():
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False),
        )
    return builder


def refused(dataset, tmp_path, manual_dir=None):
    """The one line with which preparing fails, leaving nothing behind."""
    with pytest.raises(InputError) as error:
        prepare(dataset, tmp_path / "data", manual_dir)
    message = str(error.value)
    assert "\n" not in message
    assert list((tmp_path / "data" / dataset).iterdir()) == []
    return message


@pytest.fixture
def stock(tmp_path, monkeypatch):
    """Prepares by TFDS's stock builder, with stand-ins for what it asks of TensorFlow and of the network."""

    class Downloads:
        downloaded_size = 0

        def __init__(self, folder):
            self.folder = folder

        def download_and_extract(self, url):
            with tarfile.open(self.folder / Path(url).name) as tar:
                tar.extractall(tmp_path / "extracted", filter="data")
            return tmp_path / "extracted"

        def download(self, urls):
            names = {archive.url: name for name, archive in OFFICIAL["celeb_a"].items()}
            return {key: self.folder / names[url] for key, url in urls.items()}

        def iter_archive(self, path):
            archive = zipfile.ZipFile(path)
            return [(name, io.BytesIO(archive.read(name))) for name in archive.namelist()]

    def encode(self, image):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        return buffer.getvalue()

    def write(dataset, data_dir, folder):
        builder = tfds.builder(dataset, data_dir=data_dir)
        assert type(builder) not in BUILDERS.values()
        module: Any = cifar if dataset == "cifar10" else sys.modules[type(builder).__module__]
        files = SimpleNamespace(io=SimpleNamespace(gfile=SimpleNamespace(GFile=open)))
        with monkeypatch.context() as patch:
            patch.setattr(module, "tf", files, raising=False)
            patch.setattr(image_feature._ImageEncoder, "_encode_image", encode)
            patch.setattr(builder, "_make_download_manager", lambda **arguments: Downloads(folder))
            builder.download_and_prepare(file_format="array_record")
        return builder

    return write


def same(first, second):
    """Whether two examples are equal, arrays within them too."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return np.array_equal(first, second)


@pytest.mark.parametrize("dataset", OFFICIAL)
def test_archives_are_expected_as_tfds_records_them(dataset):
    package = Path(tfds.__file__).parent
    legacy, modern = package / f"url_checksums/{dataset}.txt", package / f"datasets/{dataset}/checksums.tsv"
    recorded = checksums.load_url_infos(legacy if legacy.exists() else modern)
    assert {(file.url, file.size, file.sha256, name) for name, file in OFFICIAL[dataset].items()} == {
        (url, info.size, info.checksum, info.filename) for url, info in recorded.items()
    }


@pytest.mark.parametrize("dataset", OFFICIAL)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # The stock builders do not close their files.
def test_the_data_is_what_the_stock_builder_makes_and_each_reads_the_others(dataset, publish, stock, tmp_path):
    folder = publish(dataset, official_files(dataset))
    ours = prepare(dataset, tmp_path / "ours", folder)
    theirs = stock(dataset, tmp_path / "theirs", folder)
    assert (ours.name, str(ours.version)) == (theirs.name, str(theirs.version))
    features = [json.loads((Path(builder.data_dir) / "features.json").read_text()) for builder in (ours, theirs)]
    assert features[0] == features[1]
    assert list(ours.info.splits) == list(theirs.info.splits)
    for split in ours.info.splits:
        by_tfds = tfds.data_source(dataset, split=split, data_dir=tmp_path / "ours", download=False)
        by_us = BUILDERS[dataset](data_dir=tmp_path / "theirs").as_data_source(split)
        assert len(by_tfds) == len(by_us) > 0
        assert all(same(first, second) for first, second in zip(by_tfds, by_us, strict=True))
    if dataset != "celeb_a":
        plain: Any = tfds.builder(dataset, data_dir=tmp_path / "ours").info.features
        assert plain["label"].names == {"cifar10": CIFAR_NAMES, "stl10": STL_NAMES}[dataset]


def test_cifar10_is_what_its_records_hold(publish, tmp_path):
    members, content = cifar_members()
    folder = publish("cifar10", {"cifar-10-binary.tar.gz": targz(members)})
    builder = prepare("cifar10", tmp_path / "data", folder)
    batches = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    for split, names in batches.items():
        images, labels = (np.concatenate(arrays) for arrays in zip(*(content[name] for name in names), strict=True))
        examples = {example["id"].decode(): example for example in builder.as_data_source(split)}
        # Numbered over the batches in the order of their names, as the stock builder does.
        assert sorted(examples) == [f"{split}_{index:05d}" for index in range(len(labels))]
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            np.testing.assert_array_equal(examples[f"{split}_{index:05d}"]["image"], image)
            assert examples[f"{split}_{index:05d}"]["label"] == label


def test_stl10_is_what_its_records_hold(publish, tmp_path):
    members, content, _ = stl_members()
    folder = publish("stl10", {"stl10_binary.tar.gz": targz(members)})
    builder = prepare("stl10", tmp_path / "data", folder)
    for split, name in (("train", "train"), ("test", "test"), ("unlabelled", "unlabeled")):
        images, labels = content[name]
        if split == "unlabelled":
            labels = np.full(len(images), -1)
        found = [(example["image"].tobytes(), int(example["label"])) for example in builder.as_data_source(split)]
        expected = [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]
        assert sorted(found) == sorted(expected)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_ten_folds_name_the_images_of_the_folds_file(publish, stock, tmp_path):
    members, content, folds = stl_members()
    images = content["train"][0]
    expected = [[hashlib.sha256(images[index].tobytes()).hexdigest()[:16] for index in fold.tolist()] for fold in folds]
    folder = publish("stl10", {"stl10_binary.tar.gz": targz(members)})
    prepared = Path(prepare("stl10", tmp_path / "ours", folder).data_dir)
    assert stl10.fold_hashes(prepared, None) == expected
    found = {
        stl10.image_hash(example["image"])
        for example in stl10.Stl10(data_dir=tmp_path / "ours").as_data_source("train")
    }
    assert {name for fold in expected for name in fold} <= found

    theirs = Path(stock("stl10", tmp_path / "theirs", folder).data_dir)
    with pytest.raises(InputError, match=r"lacks folds\.json.*--manual_dir") as error:
        stl10.fold_hashes(theirs, None)
    assert "\n" not in str(error.value)
    assert stl10.fold_hashes(theirs, folder) == expected
    assert stl10.fold_hashes(theirs, None) == expected  # It was kept.
    whole = (theirs / "folds.json").read_bytes()
    (theirs / "folds.json").write_bytes(whole[:-10])
    assert stl10.fold_hashes(theirs, folder) == expected
    assert (theirs / "folds.json").read_bytes() == whole
    assert [path.name for path in theirs.iterdir() if path.name.startswith(".")] == []


def test_celeb_a_keeps_the_jpeg_files_and_the_official_partition(publish, tmp_path):
    _, images, content = celeb_files()
    folder = publish("celeb_a", official_files("celeb_a"))
    builder = prepare("celeb_a", tmp_path / "data", folder)
    for number, split in enumerate(("train", "validation", "test")):
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        found = {example["image"]: example for example in source}
        members = {name: attributes for name, (part, attributes) in content.items() if part == number}
        assert found.keys() == {images[name] for name in members}
        for name, attributes in members.items():
            example = found[images[name]]
            values = [bool(example["attributes"][column]) for column in ATTRIBUTE_NAMES.split()]
            assert values == [value == 1 for value in attributes]
            assert example["identity"]["Identity_No"] == 100 + int(name[:6]) - 1
            assert [example["landmarks"][column] for column in LANDMARK_NAMES.split()] == list(range(60, 70))


@pytest.mark.parametrize("dataset", OFFICIAL)
@pytest.mark.parametrize("damage", ["cut short", "altered"])
def test_a_file_that_is_not_the_official_one_is_named(dataset, damage, publish, tmp_path):
    files = official_files(dataset)
    folder = publish(dataset, files)
    path = folder / sorted(files)[0]
    data = bytearray(path.read_bytes())
    if damage == "altered":
        data[len(data) // 2] ^= 1
    path.write_bytes(data if damage == "altered" else data[:-10])
    message = refused(dataset, tmp_path, folder)
    assert message.startswith(f"{path} is truncated or altered")


@pytest.mark.parametrize("dataset", OFFICIAL)
def test_a_web_page_that_was_saved_as_an_archive_is_called_that(dataset, publish, tmp_path):
    folder = publish(dataset, official_files(dataset))
    path = min(folder.iterdir())
    path.write_text("\n<!DOCTYPE html><html>quota exceeded</html>")
    assert refused(dataset, tmp_path, folder).startswith(f"{path} is no archive, but a web page; remove it and fetch")


@pytest.mark.parametrize("dataset", ["cifar10", "stl10"])
@pytest.mark.parametrize("damage", ["gzip", "tar", "text"])
def test_an_archive_that_does_not_unpack_gives_one_line(dataset, damage, publish, tmp_path):
    members = cifar_members()[0] if dataset == "cifar10" else stl_members()[0]
    whole = targz(members)
    if damage == "tar":
        tar = tar_bytes(members)
        data = gzip.compress(tar[: len(tar) // 2], compresslevel=1)
    else:
        data = whole[: len(whole) // 2] if damage == "gzip" else b"<html>please log in</html>"
    name = next(iter(OFFICIAL[dataset]))
    folder = publish(dataset, {name: data})
    assert refused(dataset, tmp_path, folder).startswith(f"{folder / name} is damaged")


def without(members, name):
    return {key: data for key, data in members.items() if key != name}


CIFAR_3, CIFAR_META = "cifar-10-batches-bin/data_batch_3.bin", "cifar-10-batches-bin/batches.meta.txt"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: without(m, CIFAR_3), "lacks cifar-10-batches-bin/data_batch_3.bin"),
        (lambda m: without(m, CIFAR_META), "lacks cifar-10-batches-bin/batches.meta.txt"),
        (lambda m: m | {CIFAR_3: m[CIFAR_3][:-1]}, "data_batch_3.bin has 61,459 bytes, which are not images of 3,073"),
        (lambda m: m | {CIFAR_3: b""}, "data_batch_3.bin has 0 bytes"),
        (lambda m: m | {CIFAR_3: m[CIFAR_3][:3073] + b"\x0a" + m[CIFAR_3][3074:]}, "data_batch_3.bin has the label 10"),
        (lambda m: m | {CIFAR_META: b"cat\ndog\n"}, "batches.meta.txt does not hold ten class names"),
    ],
)
def test_cifar10_refuses_members_that_cannot_be(change, complaint, publish, tmp_path):
    folder = publish("cifar10", {"cifar-10-binary.tar.gz": targz(change(cifar_members()[0]))})
    message = refused("cifar10", tmp_path, folder)
    assert complaint in message
    assert message.startswith(str(folder / "cifar-10-binary.tar.gz"))


STL_Y, STL_FOLDS = "stl10_binary/train_y.bin", "stl10_binary/fold_indices.txt"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda m: without(m, "stl10_binary/unlabeled_X.bin"), "lacks stl10_binary/unlabeled_X.bin"),
        (lambda m: m | {STL_Y: m[STL_Y][:-1]}, "train_y.bin has 19 labels for 20 images"),
        (lambda m: m | {STL_Y: b"\x00" + m[STL_Y][1:]}, "train_y.bin has the label 0, not 1..10"),
        (lambda m: m | {STL_Y: b"\x0b" + m[STL_Y][1:]}, "train_y.bin has the label 11, not 1..10"),
        (lambda m: m | {"stl10_binary/test_X.bin": bytes(100)}, "test_X.bin has 100 bytes"),
        (lambda m: m | {STL_FOLDS: b"0 1\n" * 9}, "fold_indices.txt has 9 lines, not 10"),
        (lambda m: m | {STL_FOLDS: b"0 1\n" * 9 + b"0 20\n"}, "fold_indices.txt, line 10: not a list of numbers"),
        (lambda m: m | {STL_FOLDS: b"0 x\n" * 10}, "fold_indices.txt, line 1: not a list of numbers"),
        (lambda m: m | {STL_FOLDS: bytes(1_000_001)}, "fold_indices.txt is too large"),
    ],
)
def test_stl10_refuses_members_that_cannot_be(change, complaint, publish, tmp_path):
    folder = publish("stl10", {"stl10_binary.tar.gz": targz(change(stl_members()[0]))})
    message = refused("stl10", tmp_path, folder)
    assert complaint in message
    assert message.startswith(str(folder / "stl10_binary.tar.gz"))


def changed_line(number, change):
    """Changes one line, counted from 1, of a text; None removes it."""

    def apply(text):
        lines = text.splitlines()
        new = change(lines[number - 1])
        lines[number - 1 : number] = [] if new is None else [new]
        return "\n".join(lines) + "\n"

    return apply


ATTR, PART = "list_attr_celeba.txt", "list_eval_partition.txt"
LAND, IDENT = "list_landmarks_align_celeba.txt", "identity_CelebA.txt"


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        (ATTR, lambda text: text.replace("000007.jpg", "000077.jpg"), "lacks 000007.jpg"),
        (ATTR, changed_line(5, lambda line: None), "line 1: announces '12' images, not 11"),
        (ATTR, changed_line(2, lambda line: line.replace("Bald", "Hairy")), "line 2: does not name the 40 columns"),
        (ATTR, changed_line(4, lambda line: line.replace("-1", " 0", 1)), "line 4: [0] is none of (-1, 1)"),
        (ATTR, changed_line(4, lambda line: line.replace("-1", "no", 1)), "line 4: "),
        (ATTR, changed_line(4, lambda line: line + " 1"), "line 4: 41 numbers after the name, not 40"),
        (ATTR, changed_line(4, lambda line: line.replace("000002", "000001")), "line 4: 000001.jpg is there a second"),
        (ATTR, lambda text: "", "line 2: does not name the 40 columns"),
        (LAND, changed_line(3, lambda line: line.rsplit(" ", 1)[0]), "line 3: 9 numbers after the name, not 10"),
        (LAND, changed_line(3, lambda line: line + "9999999999"), "are not whole numbers"),
        (IDENT, changed_line(12, lambda line: None), "lacks 000012.jpg, which the partition lists"),
        (IDENT, lambda text: text + "000001.jpg 7\n", "line 13: 000001.jpg is there a second time"),
        (PART, changed_line(2, lambda line: "000002.jpg 3"), "line 2: [3] is none of range(0, 3)"),
        (PART, changed_line(2, lambda line: "000002.jpg"), "line 2: 0 numbers after the name, not 1"),
        (PART, changed_line(2, lambda line: ""), "line 2: 0 numbers after the name, not 1"),
        (PART, lambda text: text.replace(" 1\n", " 0\n"), "has no images of partition 1"),
        (PART, lambda text: "", "lists no images"),
        (PART, lambda text: text + "000099.jpg 0\n", "list_attr_celeba.txt lacks 000099.jpg"),
    ],
)
def test_celeb_a_refuses_lists_that_cannot_be(name, change, complaint, publish, tmp_path):
    lists, _, _ = celeb_files()
    folder = publish("celeb_a", official_files("celeb_a", lists={name: change(lists[name])}))
    message = refused("celeb_a", tmp_path, folder)
    assert complaint in message
    assert message.startswith(str(folder))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda files: files[:-1], "lacks img_align_celeba/000012.jpg, which the partition lists"),
        (lambda files: [*files, files[3]], "has img_align_celeba/000004.jpg twice"),
        (lambda files: [("000001.jpg", b""), *files[1:]], "img_align_celeba/000001.jpg has 0 bytes"),
        (lambda files: [("000001.jpg", bytes(116_413)), *files[1:]], "img_align_celeba/000001.jpg has 116,413 bytes"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_celeb_a_refuses_a_zip_file_that_cannot_be(change, complaint, publish, tmp_path):
    _, images, _ = celeb_files()
    folder = publish("celeb_a", official_files("celeb_a", images=change(list(images.items()))))
    message = refused("celeb_a", tmp_path, folder)
    assert message.startswith(str(folder / "img_align_celeba.zip"))
    assert complaint in message


@pytest.mark.parametrize("damage", ["cut short", "bits"])
def test_a_zip_file_that_does_not_unpack_gives_one_line(damage, publish, tmp_path):
    files = official_files("celeb_a")
    whole = files["img_align_celeba.zip"]
    # The checksum of an image fails in the midst of writing, long after the list of files was found whole.
    middle = len(whole) // 2
    files["img_align_celeba.zip"] = whole[:middle] + (
        b"" if damage == "cut short" else bytes(64) + whole[middle + 64 :]
    )
    folder = publish("celeb_a", files)
    assert refused("celeb_a", tmp_path, folder).startswith(f"{folder / 'img_align_celeba.zip'} is damaged")


def test_some_of_the_files_are_not_enough(publish, tmp_path):
    folder = publish("celeb_a", official_files("celeb_a"))
    (folder / ATTR).unlink()
    (folder / IDENT).unlink()
    message = refused("celeb_a", tmp_path, folder)
    assert message.startswith(f"{folder} lacks ")
    assert ATTR in message
    assert IDENT in message
    assert PART not in message


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the folder of archives; `answers` maps a name to what is sent in its place, a number being a status."""

    state = SimpleNamespace(answers={}, asked=[], url="")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "archives"))

        def do_HEAD(self):
            self.send_error(405)  # As servers do that have no use for the question.

        def do_GET(self):
            name = self.path.strip("/")
            state.asked.append(name)
            answer = state.answers.get(name)
            if answer is None:
                super().do_GET()
            elif isinstance(answer, int):
                self.send_error(answer)
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *args):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        state.url = f"http://127.0.0.1:{httpd.server_address[1]}/"
        yield state
        httpd.shutdown()
        thread.join()


def test_a_finished_download_is_not_repeated_nor_is_the_server_asked(publish, server, tmp_path, monkeypatch):
    publish("celeb_a", official_files("celeb_a"), server.url)
    prepare("celeb_a", tmp_path / "data")
    assert sorted(server.asked) == sorted(OFFICIAL["celeb_a"])
    (tmp_path / "data/celeb_a/2.1.0").rename(tmp_path / "first")
    server.answers = dict.fromkeys(OFFICIAL["celeb_a"], 500)
    monkeypatch.setattr(socket, "create_connection", None)
    builder = prepare("celeb_a", tmp_path / "data")
    assert len(server.asked) == 5
    assert builder.info.splits["train"].num_examples == 8


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(404, "404"), (b"<html>Google Drive - Quota exceeded</html>", "what the server sent is another file")],
)
def test_a_server_that_refuses_gives_one_line_on_what_to_fetch_by_hand(answer, reason, publish, server, tmp_path):
    publish("celeb_a", official_files("celeb_a"), server.url)
    server.answers = {ATTR: answer}
    message = refused("celeb_a", tmp_path)
    assert message.startswith("celeb_a cannot be downloaded (")
    assert reason in message
    for hint in (*OFFICIAL["celeb_a"], celeb_a.PAGE, "--manual_dir"):
        assert hint in message
    assert [path for path in (tmp_path / "data/downloads").rglob("*") if ".tmp." in path.name] == []
    # The images come last, so that a refused list is noticed before the gigabytes.
    assert "img_align_celeba.zip" not in server.asked
    server.answers = {}
    assert prepare("celeb_a", tmp_path / "data").info.splits["train"].num_examples == 8
    assert server.asked.count(PART) == 1


def test_a_page_of_google_drive_that_asks_back_gives_one_line(publish, server, tmp_path, monkeypatch):
    publish("celeb_a", official_files("celeb_a"), server.url)
    monkeypatch.setattr(downloader, "_DRIVE_URL", re.compile(re.escape(server.url)))
    server.answers = dict.fromkeys(OFFICIAL["celeb_a"], b"<html>Try again later</html>")
    message = refused("celeb_a", tmp_path)
    assert message.startswith("celeb_a cannot be downloaded (")
    assert celeb_a.PAGE in message


def test_without_a_network_there_is_one_line_at_once(publish, tmp_path, monkeypatch):
    publish("celeb_a", official_files("celeb_a"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert "refused" in refused("celeb_a", tmp_path)  # Port 9 of this machine: nobody listens.


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_kill_in_the_middle_of_preparing_is_followed_by_a_clean_run(publish, tmp_path):
    folder = publish("cifar10", official_files("cifar10"))
    expected = {
        split: load_split("cifar10", split, data_dir=tmp_path / "whole", manual_dir=folder).fingerprint
        for split in ("train", "validation", "test")
    }
    data = folder / "cifar-10-binary.tar.gz"
    killed = python(
        f"""
import itertools, os, signal
from pathlib import Path
from simsiam_jax.data.builders import archives, cifar10
count, function = itertools.count(), cifar10.encode_png
def deadly(*args):
    if next(count) == 70:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*args)
cifar10.encode_png = deadly
cifar10.ARCHIVES = {{{data.name!r}: archives.Archive({data.stat().st_size}, \
{hashlib.sha256(data.read_bytes()).hexdigest()!r}, "")}}
from simsiam_jax.data import load_split
load_split("cifar10", "train", data_dir={str(tmp_path / "data")!r}, manual_dir={str(folder)!r})
"""
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name.startswith("incomplete") for path in (tmp_path / "data/cifar10").iterdir()] == [True]
    found = {
        split: load_split("cifar10", split, data_dir=tmp_path / "data", manual_dir=folder).fingerprint
        for split in ("train", "validation", "test")
    }
    assert found == expected
    assert [path for path in (tmp_path / "data").rglob("*") if "incomplete" in path.name] == []


def test_records_come_from_disk_in_the_order_that_tfds_gives_them(tmp_path):
    generator = np.random.default_rng(0)
    records = {f"image {index}": generator.bytes(int(generator.integers(0, 50))) for index in range(500)}
    order = []
    for shuffler in (shuffle.Shuffler(tmp_path, "train"), DiskShuffler(tmp_path, "train")):
        for key, data in records.items():
            shuffler.add(key, data)
        assert (shuffler.num_examples, sum(shuffler.bucket_lengths)) == (500, 500)
        assert shuffler.size == sum(map(len, records.values()))
        order.append(list(shuffler))
    assert order[0] == order[1]
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_comes_twice_is_noticed_on_disk_as_well(tmp_path):
    shuffler = DiskShuffler(tmp_path, "train")
    for key, data in ((1, b"a"), (2, b"b"), (1, b"c")):
        shuffler.add(key, data)
    with pytest.raises(shuffle.DuplicatedKeysError):
        list(shuffler)


def test_memory_does_not_grow_with_the_images(tmp_path):
    tracemalloc.start()
    try:
        shuffler = DiskShuffler(tmp_path, "train")
        for key in range(2000):
            shuffler.add(key, bytes(20_000))
        assert sum(len(record) for _, record in shuffler) == 40_000_000
        # 48 kB of keys and positions, as much for sorting, the buffer of a file, and a record at a time.
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_split_beyond_tfds_memory_is_prepared_without_tensorflow(publish, tmp_path, monkeypatch):
    folder = publish("cifar10", official_files("cifar10"))
    expected = prepare("cifar10", tmp_path / "small", folder)
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)  # For STL-10 and CelebA it is one gigabyte.
    found = prepare("cifar10", tmp_path / "large", folder)
    for file in ("cifar10-train.array_record-00000-of-00001", "cifar10-test.array_record-00000-of-00001"):
        assert (Path(found.data_dir) / file).read_bytes() == (Path(expected.data_dir) / file).read_bytes()


@pytest.fixture
def cells(tmp_path, monkeypatch):
    folder = tmp_path / "packages"
    monkeypatch.syspath_prepend(folder)
    return write_cells(folder)


def prepare_cells(data_dir):
    builder: Any = solar_cells.SolarCells(data_dir=data_dir)
    builder.download_and_prepare(file_format="array_record")
    return builder


def test_solar_cells_are_the_packages_files_each_in_one_split(cells, tmp_path):
    builder = prepare_cells(tmp_path / "data")
    seen = []
    for split, size in (("train", 38), ("validation", 10), ("test", 12)):
        source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        assert len(source) == size  # A fifth of 60, a fifth of 48 to the nearest whole, the rest.
        strata = np.zeros(4)
        for example in source:
            name = example["name"].decode()
            number = int(name[4:8])
            assert example["image"] == (cells / "images" / name).read_bytes()
            assert example["probability"] == np.float32((0, 1 / 3, 2 / 3, 1)[number % 4])
            assert example["label"] == (number % 4 >= 2)  # Over one half.
            assert example["type"] == number // 4 % 2
            strata[2 * example["label"] + example["type"]] += 1
            seen.append(name)
        # Of 16, 16, 14 and 14 cells in the four strata, each split has its share to one cell.
        assert (np.abs(strata - np.array([16, 14, 16, 14]) * size / 60) <= 1).all()
    assert sorted(seen) == [f"cell{number:04d}.png" for number in range(60)]


def test_the_conditions_of_solar_cells_are_cut_from_kind_and_probability(cells, tmp_path):
    prepare_cells(tmp_path / "data")
    conditions, types, defects = (
        load_split(name, "test", data_dir=tmp_path / "data")
        for name in ("solar_cells:conditions", "solar_cells:type", "solar_cells")
    )
    monocrystalline, any_defect, likely, certain = conditions.labels.T
    np.testing.assert_array_equal(monocrystalline, types.labels == 0)
    np.testing.assert_array_equal(likely, defects.labels)
    # Probabilities 0, 1/3, 2/3 and 1 by the images' grey level modulo 4.
    level = conditions.images[:, 0, 0, 0] % 4
    np.testing.assert_array_equal(any_defect, level >= 1)
    np.testing.assert_array_equal(likely, level >= 2)
    np.testing.assert_array_equal(certain, level == 3)


def test_without_the_package_of_the_solar_cells_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(solar_cells, "MODULE", "elpv_dataset_is_not_here")
    with pytest.raises(InputError, match="pip install elpv-dataset") as error:
        prepare_cells(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "change", "complaint"),
    [
        ("labels.csv", lambda data: b"", "labels.csv lists no images"),
        ("labels.csv", lambda data: data.replace(b"mono", b"thin", 1), "labels.csv, line 1: no probability in 0..1"),
        ("labels.csv", lambda data: data.replace(b"0.0", b"nan", 1), "labels.csv, line 1: no probability in 0..1"),
        ("labels.csv", lambda data: data.replace(b" mono", b"", 2), "labels.csv, line 1: not path, probability"),
        ("labels.csv", lambda data: data.replace(b"cell0002", b"cell0001"), "line 3: images/cell0001.png is there a"),
        ("labels.csv", None, "labels.csv cannot be read (No such file"),
        ("images/cell0005.png", None, "cell0005.png cannot be read (No such file"),
        ("images/cell0005.png", lambda data: b"GIF89a", "cell0005.png is no grey PNG image of 300×300 pixels"),
        (
            "images/cell0005.png",
            lambda data: encode_png(np.zeros((300, 299, 1), np.uint8)),
            "cell0005.png is no grey PNG image of 300×300 pixels",
        ),
    ],
)
def test_a_damaged_package_of_the_solar_cells_gives_one_line(file, change, complaint, cells, tmp_path):
    path = cells / file
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as error:
        prepare_cells(tmp_path / "data")
    message = str(error.value)
    assert complaint in message
    assert message.startswith(str(path))
    assert "\n" not in message
    assert list((tmp_path / "data/solar_cells").iterdir()) == []


@pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="the package elpv-dataset is not installed"
)
def test_the_real_solar_cells_number_what_their_authors_say():
    listed = solar_cells.read_cells(solar_cells.data_folder())
    # The data set's README: 2,624 images; probabilities 0, 1/3, 2/3 and 1; defective over one half.
    assert len(listed) == 2624
    assert sorted({round(cell.probability * 3) for cell in listed}) == [0, 1, 2, 3]
    assert sum(cell.label == "defective" for cell in listed) == 821
    indices = solar_cells.split_indices(listed)
    assert [len(part) for part in indices.values()] == [1679, 420, 525]
    for part in indices.values():
        share = np.mean([listed[index].label == "defective" for index in part])
        assert abs(share - 821 / 2624) < 0.002
    assert solar_cells.read_image(listed[0].path).startswith(b"\x89PNG")


def ours(dataset, tmp_path, folder):
    """All our splits of a data set by name, through the registry and the cache."""
    info = dataset_info(dataset)
    return {split: load_split(dataset, split, data_dir=tmp_path / "data", manual_dir=folder) for split in info.splits}


def test_cifar10s_train_is_divided_into_80_and_20_percent_by_class(publish, tmp_path):
    folder = publish("cifar10", official_files("cifar10"))
    splits = ours("cifar10", tmp_path, folder)
    # 100 and 20 images of 10 classes.
    assert {name: np.bincount(split.labels).tolist() for name, split in splits.items()} == {
        "train": [8] * 10,
        "validation": [2] * 10,
        "test": [2] * 10,
    }
    assert sorted(np.concatenate([split.sample_ids for split in splits.values()]).tolist()) == list(range(120))


def test_stl10_holds_validation_out_of_train_and_offers_unlabelled_images_with_and_without_train(publish, tmp_path):
    members, content, _ = stl_members()
    folder = publish("stl10", {"stl10_binary.tar.gz": targz(members)})
    splits = ours("stl10", tmp_path, folder)
    sizes = {"train": 16, "validation": 4, "test": 10, "unlabelled": 5, "train+unlabelled": 21}
    assert {name: len(split) for name, split in splits.items()} == sizes
    both = splits["train+unlabelled"]
    assert both.labels.tolist() == [*splits["train"].labels.tolist(), *[-1] * 5]
    np.testing.assert_array_equal(both.images[16:], splits["unlabelled"].images)
    np.testing.assert_array_equal(both.sample_ids[:16], splits["train"].sample_ids)
    apart = [splits[name].sample_ids for name in ("train", "validation", "test", "unlabelled")]
    assert sorted(np.concatenate(apart).tolist()) == list(range(35))
    assert {image.tobytes() for image in splits["test"].images} == {image.tobytes() for image in content["test"][0]}
    # The paper's text pretrains on the unlabelled images alone, its code and SimSiam's custom on both.
    assert dict(dataset_info("stl10").pretrain_splits)["paper"] == "unlabelled"


def test_a_predefined_fold_of_stl10_is_train_and_the_rest_validation(publish, tmp_path):
    members, content, folds = stl_members()
    folder = publish("stl10", {"stl10_binary.tar.gz": targz(members)})
    splits = ours("stl10:fold3", tmp_path, folder)
    inside = {content["train"][0][index].tobytes() for index in folds[3]}
    outside = {image.tobytes() for image in content["train"][0]} - inside
    assert {image.tobytes() for image in splits["train"].images} == inside
    assert {image.tobytes() for image in splits["validation"].images} == outside
    assert (len(splits["train"]), len(splits["train+unlabelled"])) == (4, 9)


def test_celeb_a_has_its_40_attributes_in_the_order_of_the_registry(publish, tmp_path):
    _, images, content = celeb_files()
    folder = publish("celeb_a", official_files("celeb_a"))
    assert dataset_info("celeb_a").class_names == tuple(ATTRIBUTE_NAMES.split())
    for number, (name, split) in enumerate(ours("celeb_a", tmp_path, folder).items()):
        expected = {
            decode_image(images[file], None).tobytes(): [int(value > 0) for value in attributes]
            for file, (part, attributes) in content.items()
            if part == number
        }
        assert split.images.shape[1:] == (218, 178, 3)
        found = {image.tobytes(): row.tolist() for image, row in zip(split.images, split.labels, strict=True)}
        assert found == expected, name


def test_class_names_of_the_registry_are_those_of_the_archives():
    assert list(dataset_info("cifar10").class_names) == CIFAR_NAMES
    assert list(dataset_info("stl10").class_names) == STL_NAMES
