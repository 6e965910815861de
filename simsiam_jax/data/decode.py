"""Decodes whatever image a user's folder holds into an RGB array, or says in one short reason why not."""

import io
import os
import stat
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import BmpImagePlugin, ExifTags, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from simsiam_jax.files import foreign_content, one_line

# Phones take pictures of 108 megapixels; at 4 bytes a pixel this bounds what decoding one image allocates.
MAX_PIXELS = 120_000_000
# The largest image as an uncompressed file.
MAX_FILE_BYTES = 4 * MAX_PIXELS + 2**20
MAX_REASON = 120

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_quiet = threading.Lock()


class BadImage(ValueError):
    """An image that cannot be decoded; the message is a short reason without the file's name."""


def decode_file(path: Path, size: int | None) -> UInt8[np.ndarray, "height width 3"]:
    """The image in a file, decoded as by `decode_image`.

    Args:
      path: Path of a JPEG, PNG, WebP or BMP file.
      size: Side of the result in pixels; None means the image's own size.

    Returns:
      RGB values 0..255.

    Raises:
      BadImage: If the file cannot be read or decoded, is no regular file, or is larger than any image allowed.
    """
    try:
        # Before opening: a pipe would block until somebody writes to it.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise BadImage(f"{status.st_size / 1e6:,.0f} MB; at most {MAX_FILE_BYTES // 10**6} are allowed")
        encoded = path.read_bytes()
    except OSError as error:
        raise BadImage(error.strerror or type(error).__name__) from error
    return decode_image(encoded, size)


def decode_image(encoded: bytes, size: int | None) -> UInt8[np.ndarray, "height width 3"]:
    """An encoded image as RGB 0..255, turned upright, greyscale repeated to three channels, on white if transparent.

    Args:
      encoded: Content of a JPEG, PNG, WebP or BMP file.
      size: Side in pixels to which the largest central square is resized, bilinearly with antialiasing; None leaves the
        image as it is.

    Returns:
      RGB values 0..255.

    Raises:
      BadImage: If it is no such file, is cut short or damaged, or has more than `MAX_PIXELS` pixels.
    """
    try:
        return np.asarray(_decode(encoded, size))
    except BadImage:
        raise
    # Pillow's parsers raise any kind of exception for damaged bytes.
    except Exception as error:
        raise BadImage(one_line(error)[:MAX_REASON]) from error


def _decode(encoded: bytes, size: int | None) -> Image.Image:
    image: Image.Image = _open(encoded)
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(_too_large(image.width, image.height))
    if size is not None:
        # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size. The result is at least twice as large as wanted.
        image.draft(None, (2 * size, 2 * size))
    image.load()
    _correct_transparency(image, encoded)
    image = _upright(image)
    if size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # The image is cropped before resizing: with resize's `box` the filter would reach over the edge.
        image = image.crop((left, top, left + side, top + side))
    image = _on_white(image)
    return image if size in (None, image.width) else image.resize((size, size), Image.Resampling.BILINEAR)


def _open(encoded: bytes) -> ImageFile:
    """The image with its header read and its pixels not yet decoded."""
    if not encoded:
        raise BadImage("the file is empty")
    # `Image.open` would warn of images that are large but allowed; Pillow's readers do not.
    reader: type[ImageFile]
    if encoded.startswith(b"\xff\xd8\xff"):
        reader = JpegImagePlugin.JpegImageFile
    elif encoded.startswith(PNG_SIGNATURE):
        _check_png(encoded)
        reader = PngImagePlugin.PngImageFile
    elif encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        _check_webp(encoded)
        reader = WebPImagePlugin.WebPImageFile
    elif encoded.startswith(b"BM"):
        reader = BmpImagePlugin.BmpImageFile
    else:
        kind = foreign_content(encoded[:1024])
        raise BadImage(f"no image, but {kind}" if kind else "not a JPEG, PNG, WebP or BMP file")
    # Pillow warns of odd metadata, which does not matter here. All threads share the filters of warnings.
    with _quiet, warnings.catch_warnings(action="ignore"):
        return reader(io.BytesIO(encoded))


def _too_large(width: int, height: int) -> str:
    return f"{width:,} × {height:,} pixels; at most {MAX_PIXELS // 10**6} megapixels are allowed"


def _check_png(encoded: bytes) -> None:
    """Raises `BadImage` unless all chunks are whole, because Pillow does not check the pixels' checksums."""
    view, position, kind = memoryview(encoded), len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if len(encoded) < position + 12:
            raise BadImage("the file is cut short")
        length, kind = struct.unpack_from(">I4s", encoded, position)
        end = position + 8 + length
        if len(encoded) < end + 4:
            raise BadImage("the file is cut short")
        if zlib.crc32(view[position + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise BadImage(f"wrong checksum of the part at byte {position:,}")
        position = end + 4


def _check_webp(encoded: bytes) -> None:
    """Raises `BadImage` if the file is cut short, or if its canvas, which Pillow allocates at once, is too large."""
    if len(encoded) < max(30, 8 + int.from_bytes(encoded[4:8], "little")):
        raise BadImage("the file is cut short")
    match encoded[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(encoded[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L":
            bits = int.from_bytes(encoded[21:25], "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case _:
            width, height = (int.from_bytes(encoded[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    if width * height > MAX_PIXELS:
        raise BadImage(_too_large(width, height))


def _correct_transparency(image: Image.Image, encoded: bytes) -> None:
    """Brings a PNG's transparent colour to 8 bits where Pillow has done so with the pixels alone."""
    colour: Any = image.info.get("transparency")
    if image.format != "PNG" or colour is None:
        return
    depth = encoded[24]
    if image.mode == "L":
        image.info["transparency"] = colour * 255 // (2**depth - 1)
    elif image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; unreadable metadata is ignored."""
    if not {"exif", "Raw profile type exif"} & image.info.keys():
        return image
    with _quiet, warnings.catch_warnings(action="ignore"):
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        except Exception:
            return image
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _on_white(image: Image.Image) -> Image.Image:
    """The image as RGB, with white where it is transparent."""
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits. Taking the high byte is what it does with 16-bit colours.
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        if "transparency" in image.info:
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return canvas
