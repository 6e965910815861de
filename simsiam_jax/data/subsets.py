"""Choices among labelled images: few labels for evaluations, and held-out validation images.

With classes the choices are stratified. With attributes they are not, because an image cannot be drawn for one of its
attributes and not for the others: images are then taken in a random order and keep their natural frequencies.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from simsiam_jax.data.names import shown
from simsiam_jax.errors import InputError, require

# Labels are classes, 0 or more; or attributes, which are 1, 0, or -1 where not known.
Labels = Int[np.ndarray, " n"] | Int[np.ndarray, "n attributes"]


def _random_order(count: int, seed: int, *key: int) -> Int[np.ndarray, " count"]:
    require(seed >= 0, f"--seed must not be negative, got {seed}")
    # Sorting raw random bits, because NumPy promises this stream, but not a permutation's, for ever.
    return np.argsort(np.random.PCG64((seed, *key)).random_raw(count), kind="stable")


def _shuffled_classes(labels: Int[np.ndarray, " n"], seed: int, draw: int = 0) -> list[Int[np.ndarray, " members"]]:
    """The positions of each class, in ascending order of classes, each shuffled by seed, class and draw."""
    require(len(labels) > 0, "there are no labelled images to choose from")
    require(bool(labels.min() >= 0), "some images have no label (-1): no stratified choice among them")
    classes = [(int(label), np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return [members[_random_order(len(members), seed, label, draw)] for label, members in classes]


def _shuffled_images(labels: Int[np.ndarray, "n attributes"], seed: int, draw: int) -> Int[np.ndarray, " labelled"]:
    """The positions of the images with a known attribute, shuffled by seed and draw."""
    order = _random_order(len(labels), seed, 0, draw)
    order = order[(labels[order] >= 0).any(axis=1)]
    require(len(order) > 0, "there are no labelled images to choose from")
    return order


def _enough_of_each(labels: Int[np.ndarray, "n attributes"], count: int) -> int:
    """How many of the first images it takes to see every attribute present and absent `count` times each.

    A value that has fewer images than that takes all of its own.
    """
    places = [np.flatnonzero(values == value) for values in labels.T for value in (1, 0)]
    return 1 + max(int(rows[min(count, len(rows)) - 1]) for rows in places if len(rows))


def label_counts(labels: Labels, names: Sequence[str] = ()) -> dict[str, int]:
    """How many images have each label that an evaluation learns from, by the label's name.

    Args:
      labels: Labels of all images: classes, 0 or more, and -1 where there is none; or attributes.
      names: Names of the classes or attributes; where one is missing, its number stands for it.

    Returns:
      Numbers of images by `NAME`, for the classes that occur; or by `NAME present` and `NAME absent`, for attributes.
    """

    def name(number: int) -> str:
        return names[number] if number < len(names) else str(number)

    if labels.ndim == 1:
        found, counts = np.unique(labels[labels >= 0], return_counts=True)
        return {name(label): count for label, count in zip(found.tolist(), counts.tolist(), strict=True)}
    return {
        f"{name(column)} {word}": int(np.sum(values == value))
        for column, values in enumerate(labels.T)
        for word, value in (("present", 1), ("absent", 0))
    }


def stratified_subset(
    labels: Labels,
    *,
    per_class: int | None = None,
    fraction: float | None = None,
    seed: int,
    draw: int = 0,
    names: Sequence[str] = (),
) -> Int[np.ndarray, " chosen"]:
    """Chooses the labelled images that an evaluation may see.

    With classes, each class gives the same number, or the same share, of its images. With attributes, the first images
    of a random order are chosen: a fraction of them, or as many as it takes until each attribute was present in
    `per_class` images and absent in as many. Images without a known attribute are left out. A class, or a value of an
    attribute, that has fewer than `per_class` images gives all that it has.

    The choices of one seed and draw are nested: a larger number or fraction contains all images of a smaller one. So a
    curve over the number of labels compares like with like.

    Args:
      labels: Labels of all images: classes, 0 or more; or attributes, which are 1, 0, or -1 where not known.
      per_class: Number of images of each class, or of each value of each attribute. Give this or `fraction`.
      fraction: Share of each class, or of all images, in 0..1, rounded to whole images, at least one.
      seed: Seed of the choice, not negative.
      draw: Number of the draw, 0 or more: the choices of one seed are independent of each other.
      names: Names of the classes or attributes, for the error.

    Returns:
      Sorted positions in `labels`.

    Raises:
      InputError: If no class and no attribute's value has `per_class` images, or the fraction does not lie in 0..1.
    """
    if (per_class is None) == (fraction is None):
        raise TypeError("give one of per_class and fraction")
    require(draw >= 0, f"a draw of labels must not be negative, got {draw}")
    groups = _shuffled_classes(labels, seed, draw) if labels.ndim == 1 else [_shuffled_images(labels, seed, draw)]
    if per_class is None:
        assert fraction is not None
        require(0 < fraction <= 1, f"the fraction of labels must lie in 0..1, not {fraction}")
        counts = [max(1, round(fraction * len(members))) for members in groups]
    else:
        require(per_class >= 1, f"--labels_per_class must be at least 1, not {per_class}")
        have = label_counts(labels, names)
        most = max(have, key=lambda name: have[name])
        require(
            have[most] >= per_class,
            f"--labels_per_class={per_class} is more than any "
            f"{'class' if labels.ndim == 1 else 'attribute'} has: at most {have[most]}, of {shown(most)}",
        )
        counts = [per_class] * len(groups) if labels.ndim == 1 else [_enough_of_each(labels[groups[0]], per_class)]
    return np.sort(np.concatenate([members[:count] for members, count in zip(groups, counts, strict=True)]))


def stratified_split(
    labels: Labels, fraction: float, seed: int
) -> tuple[Int[np.ndarray, " rest"], Int[np.ndarray, " held_out"]]:
    """Holds out a share of the images, every class in proportion (PAPER.md, "Splits": 20 %).

    The number of held-out images is `fraction` of all, to the nearest whole number. The classes' shares are rounded
    down, and what is left over goes to those with the largest remainders, among equals to the lower class. With
    attributes the images are drawn from all alike.

    Args:
      labels: Labels of all images: classes, 0 or more; or attributes, which are 1, 0, or -1 where not known.
      fraction: Share of the images to hold out, strictly between 0 and 1.
      seed: Seed of the choice, not negative.

    Returns:
      Sorted positions in `labels` of the rest and of the held-out images. The two are disjoint and cover all images.

    Raises:
      InputError: If one of the two would be empty.
    """
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise InputError(f"holding out {fraction} of {len(labels)} images leaves one part empty")
    held_out = np.zeros(len(labels), bool)
    if labels.ndim == 2:
        held_out[_random_order(len(labels), seed)[:total]] = True
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)
    classes = _shuffled_classes(labels, seed)
    shares = np.array([len(members) * total / len(labels) for members in classes])
    counts = np.floor(shares).astype(int)
    neediest = np.argsort(counts - shares, kind="stable")
    counts[neediest[: total - counts.sum()]] += 1
    for members, count in zip(classes, counts, strict=True):
        held_out[members[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
