"""The first layers of the convolutional backbones, by name.

The stem `imagenet` is that of the published network. `paper32` begins with stride 1 where `imagenet` has stride 2, as
the paper's code does for images of 32×32 pixels. `cifar` also leaves out the next halving (SimSiam, appendix D).
"""

# The smallest image, in pixels, that leaves the last stage a whole pixel: the product of all strides.
SMALLEST_IMAGE = {"imagenet": 32, "paper32": 16, "cifar": 8}


def stem_fault(stem: str, image_size: int) -> str | None:
    """The reason why a network with this stem cannot take images of this side, or None.

    Args:
      stem: Name of the stem.
      image_size: Side of the images in pixels.

    Returns:
      One line that names the flag to change, or None for a network that works.
    """
    if stem not in SMALLEST_IMAGE:
        return f"--stem={stem}: unknown stem {stem!r}; known: {', '.join(SMALLEST_IMAGE)}"
    if image_size < SMALLEST_IMAGE[stem]:
        return f"--image_size={image_size}: the {stem} stem needs images of at least {SMALLEST_IMAGE[stem]} pixels"
    return None
