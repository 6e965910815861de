"""The first layers of the convolutional backbones, by name.

`imagenet` is the published network's. `paper32` begins with stride 1 where that has stride 2, as the paper's code has
it for 32×32; `cifar` also leaves out the next halving (SimSiam, appendix D).
"""

# The smallest image, in pixels, that leaves the last stage a whole pixel: the product of all strides.
SMALLEST_IMAGE = {"imagenet": 32, "paper32": 16, "cifar": 8}


def stem_fault(stem: str, image_size: int) -> str | None:
    """What keeps a network with this stem from taking images of this side, with the flag to change, or None."""
    if stem not in SMALLEST_IMAGE:
        return f"--stem={stem}: unknown stem {stem!r}; known: {', '.join(SMALLEST_IMAGE)}"
    if image_size < SMALLEST_IMAGE[stem]:
        return f"--image_size={image_size}: the {stem} stem needs images of at least {SMALLEST_IMAGE[stem]} pixels"
    return None
