"""Decoding what users' folders hold: right pixels from every format, one short reason for what is no image."""

import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam_jax.data import decode
from simsiam_jax.data.decode import BadImage, decode_file, decode_image

REPOSITORY = Path(__file__).parents[2]


def encoded(image, **options):
    """A Pillow image, or an array, in a format's bytes."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows, extra=b""):
    """A PNG written from its specification; `rows` are packed bytes, filter 0 is put before each."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return decode.PNG_SIGNATURE + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def photo(height=48, width=64):
    """Smooth colours with some texture, which lossy formats keep within a few grey levels."""
    y, x = np.mgrid[:height, :width]
    texture = 8 * np.sin(x / 2) * np.sin(y / 3)
    channels = (x * 200 / width + texture, y * 200 / height + texture, 200 - x * 100 / width - y * 90 / height)
    return np.clip(np.stack(channels, axis=-1) + 20, 0, 255).astype(np.uint8)


def difference(found, expected):
    """Mean absolute difference in grey levels."""
    return np.abs(found.astype(int) - expected.astype(int)).mean()


# A phone's MPO holds several pictures, of which the first is the one taken.
SECOND_VIEW = Image.new("RGB", (64, 48))


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"format": "PNG"}, 0),
        ({"format": "BMP"}, 0),
        ({"format": "WEBP", "lossless": True}, 0),
        ({"format": "WEBP", "quality": 95}, 3),
        ({"format": "JPEG", "quality": 95, "subsampling": 0}, 2),
        ({"format": "JPEG", "quality": 95, "subsampling": 0, "progressive": True}, 2),
        ({"format": "MPO", "quality": 95, "subsampling": 0, "save_all": True, "append_images": [SECOND_VIEW]}, 2),
    ],
    ids=["png", "bmp", "webp-lossless", "webp", "jpeg", "progressive", "mpo"],
)
def test_every_format_keeps_its_pixels(options, tolerance):
    assert difference(decode_image(encoded(photo(), **options), None), photo()) <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_greyscale_is_repeated_over_three_channels(kind):
    grey = photo()[..., 0]
    found = decode_image(encoded(grey, format=kind, **({"lossless": True} if kind == "WEBP" else {})), None)
    assert (found == found[..., :1]).all()
    assert difference(found[..., 0], grey) < 2


def test_a_palette_and_single_bits_become_colours():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    for kind in ("PNG", "BMP"):
        assert decode_image(encoded(palette, format=kind), None).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert decode_image(png(3, 1, 1, 0, [bytes([0b01000000])]), None)[0, :, 0].tolist() == [0, 255, 0]


def test_sixteen_bits_are_scaled_not_clipped():
    grey = struct.pack(">4H", 0, 0x1234, 0x8000, 0xFFFF)
    # The high byte of each.
    assert decode_image(png(4, 1, 16, 0, [grey]), None)[0, :, 0].tolist() == [0, 0x12, 0x80, 0xFF]
    colour = struct.pack(">3H", 0xFFFF, 0x8000, 0x0100)
    assert decode_image(png(1, 1, 16, 2, [colour]), None).tolist() == [[[0xFF, 0x80, 1]]]


HALF_RED = Image.fromarray(np.array([[[100, 0, 0, 255], [100, 0, 0, 128]]], np.uint8))


def test_alpha_is_composited_on_white():
    # 100·128/255 + 255·127/255 = 177.2 and 0 + 127 = 127.
    for options in ({"format": "PNG"}, {"format": "WEBP", "lossless": True, "exact": True}):
        found = decode_image(encoded(HALF_RED, **options), None)
        assert found.tolist() == [[[100, 0, 0], [177, 127, 127]]]
    assert decode_image(png(2, 1, 8, 4, [bytes([100, 255, 100, 128])]), None)[0, :, 0].tolist() == [100, 177]
    # A pixel without any opacity is white whatever its colour.
    assert decode_image(png(1, 1, 8, 6, [bytes([9, 9, 9, 0])]), None).tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "expected"),
    [
        # The second pixel is of the colour that tRNS names, at the depth of the file.
        (2, 0, bytes([0b01110000]), struct.pack(">H", 3), [85, 255]),
        (4, 0, bytes([0x35]), struct.pack(">H", 5), [51, 255]),
        (8, 0, bytes([7, 9]), struct.pack(">H", 9), [7, 255]),
        (16, 0, struct.pack(">2H", 0x1200, 0x1234), struct.pack(">H", 0x1234), [0x12, 255]),
        (8, 2, bytes([1, 1, 1, 2, 2, 2]), struct.pack(">3H", 2, 2, 2), [1, 255]),
        (16, 2, struct.pack(">6H", *[0x0100] * 3, *[0x0234] * 3), struct.pack(">3H", *[0x0234] * 3), [1, 255]),
        # Palettes have an alpha for each entry; entry 1 is half transparent grey 100.
        (8, 3, bytes([0, 1]), bytes([255, 128]), [100, 177]),
    ],
)
def test_a_transparent_colour_or_palette_becomes_white(depth, colour, row, transparent, expected):
    extra = chunk(b"PLTE", bytes([100] * 6)) if colour == 3 else b""
    found = decode_image(png(2, 1, depth, colour, [row], extra + chunk(b"tRNS", transparent)), None)
    assert found[0, :, 0].tolist() == expected


def test_cmyk_is_read_as_adobe_writes_it():
    # Pure cyan, then half black: Pillow writes Adobe's marker and inverted values.
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    image.paste((0, 0, 0, 128), (0, 0, 8, 16))
    data = encoded(image, format="JPEG", quality=100)
    assert b"Adobe" in data
    found = decode_image(data, None)
    assert np.abs(found[8, 15].astype(int) - [0, 255, 255]).max() <= 3
    assert np.abs(found[8, 0].astype(int) - 127).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(kind, orientation):
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16], upright[:8, 16:], upright[8:, :16] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    # How a camera stores an upright image, from the table of the EXIF standard: where row 0 and column 0 are.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "WEBP": {"lossless": True}}[kind]
    data = encoded(np.ascontiguousarray(stored), format=kind, exif=exif, **options)
    assert difference(decode_image(data, None), upright) < 2
    assert difference(decode_image(data, 8), decode_image(encoded(upright, format="PNG"), 8)) < 3


def test_damaged_exif_leaves_the_image_as_it_is_without_a_warning():
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 500) + struct.pack("<HHII", 0x0112, 2, 9999, 12345) * 3
    for kind in ("JPEG", "PNG"):
        found = decode_image(encoded(photo(), format=kind, exif=exif), None)
        assert difference(found, photo()) < 4


def test_large_jpegs_are_decoded_small_and_hardly_differ():
    image = photo(480, 640)
    data = encoded(image, format="JPEG", quality=95, subsampling=0)
    assert difference(decode_image(data, 60), decode_image(encoded(image, format="PNG"), 60)) < 1
    assert decode_image(data, 60).shape == (60, 60, 3)
    assert decode_image(data, 700).shape == (700, 700, 3)


LFS = "a Git LFS pointer in place of the file, which git lfs pull fetches"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"hello, I am a text", "not a JPEG, PNG, WebP or BMP file"),
        (b"<!DOCTYPE html><html>not found</html>", "no image, but a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", f"no image, but {LFS}"),
        (b"PK\3\4" + bytes(100), "not a JPEG, PNG, WebP or BMP file"),
        (b"GIF89a" + bytes(100), "not a JPEG, PNG, WebP or BMP file"),
        (decode.PNG_SIGNATURE, "the file is cut short"),
        (b"RIFF\xff\0\0\0WEBPVP8 " + bytes(100), "the file is cut short"),
    ],
)
def test_what_is_no_image_is_told_with_a_reason(data, reason):
    with pytest.raises(BadImage) as error:
        decode_image(data, 8)
    assert str(error.value) == reason


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_file_cut_anywhere_is_refused(kind, size):
    data = encoded(photo(), format=kind)
    # Of BMP's 48 rows of 192 bytes all are needed.
    for length in [*range(0, len(data), 37), len(data) - 3]:
        with pytest.raises(BadImage):
            decode_image(data[:length], size)


def test_every_flipped_bit_of_a_png_is_noticed():
    data = encoded(photo(8, 8), format="PNG")
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1 << position % 8
        with pytest.raises(BadImage):
            decode_image(bytes(flipped), None)


def claims_50000(kind):
    """A small file whose header claims 50,000 × 50,000 pixels."""
    if kind == "PNG":
        return png(50_000, 50_000, 8, 2, [bytes(30)])
    if kind == "BMP":
        data = bytearray(encoded(photo(), format="BMP"))
        data[18:26] = struct.pack("<ii", 50_000, 50_000)
        return bytes(data)
    if kind == "JPEG":
        data = encoded(photo(), format="JPEG")
        start = data.index(b"\xff\xc0") + 5  # Behind marker, length and depth: height and width.
        return data[:start] + struct.pack(">HH", 50_000, 50_000) + data[start + 4 :]
    data = encoded(HALF_RED, format="WEBP", exif=b"Exif\0\0")  # Extended: it has the size of its canvas.
    assert data[12:16] == b"VP8X"
    return data[:24] + 2 * (50_000 - 1).to_bytes(3, "little") + data[30:]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_bomb_is_refused_by_its_header(kind):
    with pytest.raises(BadImage, match="50,000 × 50,000 pixels; at most 120 megapixels are allowed"):
        decode_image(claims_50000(kind), 8)


def test_an_image_that_is_large_but_allowed_is_decoded_without_pillows_warning():
    # 100 megapixels of one bit; Pillow warns above 89.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_image(png(20_000, 5_000, 1, 0, [bytes(2500)] * 5_000), 4)
    assert (found == 0).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "palette", "16-bit"])
def test_whatever_bytes_are_altered_only_bad_image_escapes(kind):
    grey16 = png(16, 16, 16, 0, [bytes(range(32))] * 16)
    data = {
        "palette": lambda: encoded(Image.fromarray(photo()).quantize(16), format="PNG", transparency=3),
        "16-bit": lambda: grey16,
    }.get(
        kind, lambda: encoded(photo(), format=kind, **({} if kind == "BMP" else {"exif": b"Exif\0\0MM\0*\0\0\0\x08"}))
    )()
    generator = random.Random(kind)
    outcomes = set()
    for _ in range(400):
        altered = bytearray(data)
        # Headers are where parsers stumble.
        reach = len(altered) if generator.random() < 0.5 else 80
        for _ in range(generator.choice((1, 2, 8))):
            altered[generator.randrange(reach)] = generator.randrange(256)
        altered = bytes(altered) if data[:4] != decode.PNG_SIGNATURE[:4] else with_right_checksums(bytes(altered))
        outcomes.add(outcome(altered, generator.choice((None, 8))))
    reasons = outcomes - {"decoded"}
    assert "decoded" in outcomes
    assert reasons
    assert all("\n" not in reason and 0 < len(reason) <= decode.MAX_REASON for reason in reasons)


def outcome(data, size):
    """`decoded`, or the reason why not; any exception other than BadImage fails the test."""
    try:
        assert decode_image(data, size).shape[2] == 3
    except BadImage as error:
        return str(error)
    return "decoded"


def with_right_checksums(data):
    """The same PNG with valid checksums, so that Pillow's parsers get to see what was altered."""
    position, parts = len(decode.PNG_SIGNATURE), [data[: len(decode.PNG_SIGNATURE)]]
    while len(data) >= position + 12:
        length = int.from_bytes(data[position : position + 4], "big")
        parts.append(chunk(data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    return b"".join(parts) + data[position:]


def test_files_that_cannot_be_read_are_bad_images(tmp_path, monkeypatch):
    with pytest.raises(BadImage, match="No such file or directory"):
        decode_file(tmp_path / "missing.png", 8)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadImage, match="not a regular file"):
        decode_file(tmp_path / "pipe.png", 8)
    monkeypatch.setattr(decode, "MAX_FILE_BYTES", 2_000_000)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(5_000_000)
    with pytest.raises(BadImage, match="5 MB; at most 2 are allowed"):
        decode_file(tmp_path / "large.png", 8)
    (tmp_path / "good.png").write_bytes(encoded(photo(), format="PNG"))
    np.testing.assert_array_equal(decode_file(tmp_path / "good.png", None), photo())
