"""Stratified choices among labelled images: few labels for fine-tuning, and held-out validation images."""

import numpy as np
from jaxtyping import Int

from simsiam_jax.config import InputError, require


def _shuffled_classes(labels: Int[np.ndarray, " n"], seed: int) -> list[Int[np.ndarray, " members"]]:
    """The positions of each class, classes ascending, each in an order drawn from seed and class."""
    require(seed >= 0, f"--seed must not be negative, got {seed}")
    require(len(labels) > 0, "there are no labelled images to choose from")
    require(bool(labels.min() >= 0), "some images have no label (-1): no stratified choice among them")
    classes = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # Sorting raw random bits, because NumPy promises this stream, but not a permutation's, for ever.
        bits = np.random.PCG64((seed, int(label))).random_raw(len(members))
        classes.append(members[np.argsort(bits, kind="stable")])
    return classes


def stratified_subset(
    labels: Int[np.ndarray, " n"],
    *,
    per_class: int | None = None,
    fraction: float | None = None,
    seed: int,
) -> Int[np.ndarray, " chosen"]:
    """The same number, or share, of images from every class: the labels that an evaluation may see.

    The choices of one seed are nested: more per class (or a larger fraction) contains all that fewer chose,
    so a curve over the number of labels compares like with like.

    Args:
        labels: of all images, 0 or more.
        per_class: images of each class; this or `fraction`.
        fraction: share of each class in 0..1, rounded to whole images, at least one.
        seed: of the choice.

    Returns:
        Sorted positions in `labels`.

    Raises:
        InputError: if a class has fewer than `per_class` images, or the fraction does not lie in 0..1.
    """
    if (per_class is None) == (fraction is None):
        raise TypeError("give one of per_class and fraction")
    classes = _shuffled_classes(labels, seed)
    if per_class is not None:
        require(per_class >= 1, f"--labels_per_class must be at least 1, not {per_class}")
        smallest = min(classes, key=len)
        require(
            len(smallest) >= per_class,
            f"--labels_per_class={per_class} is more than class {labels[smallest[0]]} has: {len(smallest)}",
        )
        chosen = [members[:per_class] for members in classes]
    else:
        assert fraction is not None
        require(0 < fraction <= 1, f"the fraction of labels must lie in 0..1, not {fraction}")
        chosen = [members[: max(1, round(fraction * len(members)))] for members in classes]
    return np.sort(np.concatenate(chosen))


def stratified_split(
    labels: Int[np.ndarray, " n"], fraction: float, seed: int
) -> tuple[Int[np.ndarray, " rest"], Int[np.ndarray, " held_out"]]:
    """Holds out a share of the images, every class in proportion (paper.md section 9: 20 % for validation).

    The held-out images number `fraction` of all, to the nearest whole; what the classes' shares leave over
    when rounded down goes to those with the largest remainders, of equal ones to the lower class.

    Args:
        labels: of all images, 0 or more.
        fraction: to hold out, strictly between 0 and 1.
        seed: of the choice.

    Returns:
        Sorted positions in `labels` of the rest and of the held-out images; disjoint, and together all.

    Raises:
        InputError: if one of the two would be empty.
    """
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise InputError(f"holding out {fraction} of {len(labels)} images leaves one part empty")
    classes = _shuffled_classes(labels, seed)
    shares = np.array([len(members) * total / len(labels) for members in classes])
    counts = np.floor(shares).astype(int)
    neediest = np.argsort(counts - shares, kind="stable")
    counts[neediest[: total - counts.sum()]] += 1
    held_out = np.zeros(len(labels), bool)
    for members, count in zip(classes, counts, strict=True):
        held_out[members[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
