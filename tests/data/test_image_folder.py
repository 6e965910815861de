"""A user's images through TFDS: mixed formats, labels, and unreadable files that are skipped by name."""

import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from simsiam_jax.data.builders import image_folder
from simsiam_jax.data.builders.image_folder import FolderConfig, ImageFolder, require_few_skipped, skipped_images
from simsiam_jax.data.decode import BadImage
from simsiam_jax.data.folders import list_folder
from simsiam_jax.errors import InputError
from tests.support.launchers import PATIENCE

REPOSITORY = Path(__file__).parents[2]


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def plain(path, level=0):
    """A small grey PNG."""
    save(path, Image.new("RGB", (4, 4), (level, level, level)))


def prepare(root, data_dir, *, labels=None, size=4, max_bad_images=0.01):
    config = FolderConfig(listing=list_folder(root, labels), size=size, max_bad_images=max_bad_images)
    builder = ImageFolder(config=config, data_dir=data_dir)
    builder.download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
    return builder


def read(builder):
    """Split to file name to example."""
    sources: Any = builder.as_data_source()
    return {split: {os.fsdecode(one["name"]): one for one in source} for split, source in sources.items()}


def mistake(*args, **options):
    with pytest.raises(InputError) as error:
        prepare(*args, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_folder_of_mixed_formats_is_prepared_with_its_pixels_and_labels(tmp_path):
    root, red, green = tmp_path / "My images!", (220, 30, 30), (30, 160, 60)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    striped = Image.new("RGB", (40, 60), green)
    striped.paste(red, (0, 0, 40, 30))  # Upright, that is after a quarter turn clockwise, red is on the right.
    transparent = Image.new("RGBA", (20, 20), (*red, 255))
    transparent.paste((0, 0, 0, 0), (10, 0, 20, 20))
    palette = transparent.convert("RGB").quantize(4)
    for name, image, options in (
        ("red/a.jpg", Image.new("RGB", (60, 40), red), {"quality": 95}),
        ("red/b.png", Image.new("RGB", (8, 8), red), {}),
        ("red/c.webp", Image.new("RGB", (30, 20), red), {"lossless": True}),
        ("red/d.bmp", Image.new("RGB", (20, 30), red), {}),
        ("red/e.png", transparent, {}),
        ("red/f.png", palette, {}),
        ("green/sub/a.jpeg", striped, {"quality": 95, "subsampling": 0, "exif": rotated}),
        ("green/b.JPG", Image.new("CMYK", (16, 16), (255, 0, 255, 0)), {"format": "JPEG"}),
        ("green/c.png", Image.new("L", (12, 12), 77), {}),
        ("green/d.jfif", Image.new("L", (32, 32), 77), {"format": "JPEG"}),
    ):
        save(root / name, image, **options)
    (root / "green/notes.txt").write_text("not an image")
    builder = prepare(root, tmp_path / "data", size=10)
    splits = read(builder)
    found = {name: example for examples in splits.values() for name, example in examples.items()}
    listing = list_folder(root, None)
    assert {split: set(examples) for split, examples in splits.items()} == {
        split: {listing.files[at] for at in positions} for split, positions in listing.splits.items()
    }
    assert builder.info.features["label"].names == ["green", "red"]
    assert all(example["label"] == (name.startswith("red")) for name, example in found.items())
    assert all(example["image"].shape == (10, 10, 3) for example in found.values())

    def middle(name, column):
        return found[name]["image"][5, column].astype(int)

    for name in ("red/a.jpg", "red/b.png", "red/c.webp", "red/d.bmp"):
        assert np.abs(middle(name, 5) - red).max() <= 2
    assert middle("red/e.png", 1).tolist() == [*red]
    assert middle("red/e.png", 8).tolist() == [255, 255, 255]
    assert middle("red/f.png", 1).tolist() == [*red]
    # The left and right quarters of the central square, before which it was 60 wide and 40 high.
    assert np.abs(middle("green/sub/a.jpeg", 1) - green).max() <= 3
    assert np.abs(middle("green/sub/a.jpeg", 8) - red).max() <= 3
    assert np.abs(middle("green/b.JPG", 5) - [0, 255, 0]).max() <= 3
    assert middle("green/c.png", 5).tolist() == [77, 77, 77]
    assert np.abs(middle("green/d.jfif", 5) - 77).max() <= 1

    assert skipped_images(builder.data_path) == {}
    assert builder.builder_config_name == f"My_images__{listing.digest[:12]}_10"
    assert len(repr(builder.builder_config)) < 300


def test_attributes_and_images_without_a_row_are_prepared(tmp_path):
    for index in range(8):
        plain(tmp_path / f"root/{index}.png", index)
    rows = [f"{index}.png,{index % 2},{'' if index < 4 else 1}" for index in range(7)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,odd,late", *rows]))
    splits = read(prepare(tmp_path / "root", tmp_path / "data", labels=str(tmp_path / "labels.csv")))
    for split, examples in splits.items():
        for name, example in examples.items():
            index = int(name[0])
            assert (example["image"] == index).all()
            expected = [index % 2, -1 if index < 4 else 1] if index < 7 else [-1, -1]
            assert (example["attributes"].tolist(), split == "unlabelled") == (expected, index == 7)


def test_classes_with_unlabelled_images_are_prepared(tmp_path):
    for name in ("train/a/1", "train/b/2", "test/a/3", "test/b/4", "val/a/5", "val/b/6", "unlabelled/deep/er/7"):
        plain(tmp_path / f"root/{name}.png")
    splits = read(prepare(tmp_path / "root", tmp_path / "data"))
    labels = {split: [int(one["label"]) for _, one in sorted(examples.items())] for split, examples in splits.items()}
    assert labels == {
        "train": [0, 1], "validation": [0, 1], "test": [0, 1], "unlabelled": [-1],
    }  # fmt: skip


def test_a_flat_folder_is_prepared_without_labels_whatever_its_files_are_called(tmp_path):
    strange = ["ünïcode 日本.png", os.fsdecode(b"latin-\xe9.png"), "line\nbreak.png", "plain.png"]
    for name in strange:
        plain(tmp_path / "root" / name)
    builder = prepare(tmp_path / "root", tmp_path / "data")
    splits = read(builder)
    assert set(splits["train"]) | set(splits["validation"]) == set(strange)
    assert set(builder.info.features) == {"image", "name"}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_zeros(width, height):
    """A PNG that is real: all its greyscale pixels are there, at about a thousandth of their size."""
    compressor = zlib.compressobj(9)
    rows = bytes((width + 1) * 1000)
    data = b"".join(compressor.compress(rows) for _ in range(height // 1000)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def fuzzed_files(seed):
    """40 files that are no images, by name: cut, with a bit flipped, bombs, empty, and of other kinds."""
    generator = random.Random(seed)
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 80, 3), np.uint8)

    def encoded(kind):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=kind)
        return buffer.getvalue()

    files = {}
    for kind, suffix in (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "bmp")):
        data = encoded(kind)
        for index in range(5):
            files[f"cut{index}.{suffix}"] = data[: generator.randrange(1, len(data) - 4)]
    for index in range(10):
        data = bytearray(encoded("PNG"))
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        files[f"flipped{index}.png"] = bytes(data)
    claimed = png_of_zeros(1000, 1000)
    files["claims50000.png"] = (
        claimed[:16] + chunk(b"IHDR", struct.pack(">II", 50_000, 50_000) + claimed[24:29])[4:] + claimed[33:]
    )
    files["bomb.png"] = png_of_zeros(20_000, 20_000)  # 400 MB of pixels in 400 kB.
    bitmap = bytearray(encoded("BMP"))
    bitmap[18:26] = struct.pack("<ii", 40_000, 40_000)
    files["claims40000.bmp"] = bytes(bitmap)
    jpeg = encoded("JPEG")
    start = jpeg.index(b"\xff\xc0") + 5
    files["claims65500.jpg"] = jpeg[:start] + struct.pack(">HH", 65_500, 65_500) + jpeg[start + 4 :]
    files |= {f"empty.{suffix}": b"" for suffix in ("jpg", "png")}
    files["text.jpg"] = b"This is a text.\n" * 100
    files["page.png"] = b"<html><body>404 Not found</body></html>"
    files["archive.jpeg"] = b"PK\x03\x04" + generator.randbytes(2000)
    files["noise.webp"] = generator.randbytes(3000)
    return files


def test_40_fuzzed_files_are_skipped_by_name_in_bounded_memory(tmp_path):
    root, files = tmp_path / "root", fuzzed_files(0)
    assert len(files) == 40
    for index in range(20):
        plain(root / f"{'ab'[index % 2]}/good{index}.png", index)
    for index, (name, data) in enumerate(files.items()):
        (root / "ab"[index % 2] / name).write_bytes(data)
    finished = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            f"""
import resource
from pathlib import Path
import tensorflow_datasets as tfds
from simsiam_jax.data.builders.image_folder import FolderConfig, ImageFolder
from simsiam_jax.data.decode import decode_image
from simsiam_jax.data.folders import list_folder
decode_image(next(Path({str(root)!r}).glob("a/good*")).read_bytes(), 8)
tfds.disable_progress_bar()
builder = ImageFolder(config=FolderConfig(listing=list_folder(Path({str(root)!r}), None), size=8, max_bad_images=0.7),
                      data_dir={str(tmp_path / "data")!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
builder.download_and_prepare(file_format="array_record")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, builder.data_path)
""",
        ],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    megabytes, folder = finished.stdout.splitlines()[-1].split(maxsplit=1)
    # The real bomb alone would be 400 MB.
    assert int(megabytes) < 100
    skipped = skipped_images(Path(folder))
    assert {Path(name).name for name in skipped} == set(files)
    assert all(reason and "\n" not in reason for reason in skipped.values())
    by_name = {Path(name).name: reason for name, reason in skipped.items()}
    assert by_name["bomb.png"] == "20,000 × 20,000 pixels; at most 120 megapixels are allowed"
    assert by_name["empty.jpg"] == "the file is empty"
    assert by_name["text.jpg"] == "not a JPEG, PNG, WebP or BMP file"
    # One line a file as far as 20 of them, then the number.
    lines = [line for line in finished.stderr.splitlines() if "Skipping" in line]
    assert len(lines) == image_folder.MAX_NAMED
    assert all(any(name in line for name in files) for line in lines)
    assert "40 images skipped so far" in finished.stderr
    assert len(finished.stderr.splitlines()) < 40


def test_too_many_unreadable_files_give_one_line_and_leave_nothing(tmp_path):
    for index in range(20):
        plain(tmp_path / f"root/{'ab'[index % 2]}/{index}.png")
    for index in range(5):
        (tmp_path / f"root/a/bad{index}.jpg").write_bytes(b"text")
    message = mistake(tmp_path / "root", tmp_path / "data", max_bad_images=0.1)
    # A tenth of 25, rounded down, is 2: the third ends it.
    assert "--max_bad_images=0.1 allows, 2 of 25" in message
    assert message.count("a/bad") == 3
    assert "(not a JPEG, PNG, WebP or BMP file)" in message
    assert [path for path in (tmp_path / "data").rglob("*") if path.is_file() or "incomplete" in path.name] == []
    builder = prepare(tmp_path / "root", tmp_path / "data", max_bad_images=0.2)
    assert set(skipped_images(builder.data_path)) == {f"a/bad{index}.jpg" for index in range(5)}
    # Prepared under one limit, refused under another.
    strict = FolderConfig(listing=list_folder(tmp_path / "root", None), size=4, max_bad_images=0.1)
    with pytest.raises(InputError, match="and 2 more; repair or remove them"):
        require_few_skipped(strict, skipped_images(builder.data_path))


@pytest.mark.parametrize(
    ("share", "files", "allowed"), [(0.0, 1000, 0), (0.01, 50, 1), (0.01, 1000, 10), (0.29, 100, 29), (1.0, 7, 7)]
)
def test_a_share_of_the_files_may_be_unreadable_and_one_always_unless_none(tmp_path, share, files, allowed):
    (tmp_path / "root").mkdir()
    for index in range(files):
        (tmp_path / f"root/{index}.jpg").touch()
    assert FolderConfig(listing=list_folder(tmp_path / "root", None), size=4, max_bad_images=share).allowed == allowed


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_out_of_range_names_the_flag(tmp_path, share):
    plain(tmp_path / "a.png")
    plain(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"--max_bad_images must lie in 0\.\.1"):
        FolderConfig(listing=list_folder(tmp_path, None), size=4, max_bad_images=share)


def test_a_class_or_split_without_a_readable_image_is_one_line(tmp_path):
    for split in ("train", "val", "test"):
        for name in ("a/1", "b/2"):
            plain(tmp_path / f"root/{split}/{name}.png")
    (tmp_path / "root/val/b/2.png").write_bytes(b"")
    message = mistake(tmp_path / "root", tmp_path / "data", max_bad_images=0.5)
    assert "no image of class 'b' in split validation is readable" in message
    (tmp_path / "root/val/a/1.png").write_bytes(b"")
    message = mistake(tmp_path / "root", tmp_path / "data", max_bad_images=0.5)
    assert "no image of split validation is readable" in message
    assert str(tmp_path / "root") in message


def test_files_that_vanish_or_lead_nowhere_are_skipped(tmp_path):
    for index in range(10):
        plain(tmp_path / f"root/{index}.png")
    (tmp_path / "root/link.png").symlink_to(tmp_path / "missing.png")
    builder = prepare(tmp_path / "root", tmp_path / "data")
    assert skipped_images(builder.data_path) == {"link.png": "No such file or directory"}


def test_few_images_are_decoded_ahead_and_order_is_kept(tmp_path, monkeypatch):
    for index in range(100):
        plain(tmp_path / f"{index:03d}.png")
    listing = list_folder(tmp_path, None)
    started = []

    def prepare_file(path, size):
        started.append(path)
        return BadImage(path.name)

    monkeypatch.setattr(image_folder, "_prepare_file", prepare_file)
    ahead = []
    for count, (position, result) in enumerate(image_folder._prepare_files(listing, np.arange(100), 4)):
        assert (position, str(result)) == (count, f"{count:03d}.png")
        ahead.append(len(started) - count)
    assert max(ahead) <= 2 * image_folder.MAX_THREADS + 1


@pytest.mark.parametrize("content", [None, "", "[1]", '{"a": '])
def test_a_missing_or_damaged_record_of_skipped_images_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "skipped_images.json").write_text(content)
    with pytest.raises(InputError, match="damaged; remove that folder") as error:
        skipped_images(tmp_path)
    assert str(tmp_path) in str(error.value)
    (tmp_path / "skipped_images.json").write_text(json.dumps({"a.jpg": "cut"}))
    assert skipped_images(tmp_path) == {"a.jpg": "cut"}


def test_a_kill_in_the_middle_is_followed_by_a_clean_run(tmp_path):
    for index in range(60):
        plain(tmp_path / f"root/{'ab'[index % 2]}/{index}.png", index)
    code = f"""
import os, signal
from pathlib import Path
from simsiam_jax.data.builders import image_folder
from simsiam_jax.data.folders import list_folder
function = image_folder.encode_png
def deadly(image):
    if image[0, 0, 0] == 40:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(image)
image_folder.encode_png = deadly
config = image_folder.FolderConfig(listing=list_folder(Path({str(tmp_path / "root")!r}), None), size=4)
image_folder.ImageFolder(config=config, data_dir={str(tmp_path / "data")!r}).download_and_prepare(
    file_format="array_record")
"""
    killed = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, timeout=PATIENCE, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert any("incomplete" in path.name for path in (tmp_path / "data").rglob("*"))  # It was in the middle.
    splits = read(prepare(tmp_path / "root", tmp_path / "data"))
    found = {name: int(one["image"][0, 0, 0]) for examples in splits.values() for name, one in examples.items()}
    assert found == {f"{'ab'[index % 2]}/{index}.png": index for index in range(60)}
