"""Images as PNG bytes: the one form that TFDS's image feature stores without TensorFlow."""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def encode_png(image: UInt8[np.ndarray, "height width channels"]) -> bytes:
    """An image of one channel (greyscale) or three (RGB), losslessly.

    Args:
        image: values 0..255.

    Returns:
        The bytes of a PNG file.
    """
    pixels = image[:, :, 0] if image.shape[2] == 1 else image
    buffer = io.BytesIO()
    # Small images gain nothing from more effort, and it is what preparing spends its time on.
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
