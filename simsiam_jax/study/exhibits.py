"""The files behind a report's pictures: samples, augmented pairs, neighbours, a map of features, confusions, mistakes.

Each function writes one small file that `report.exhibits` draws from. Equal arrays give equal bytes.
"""

import contextlib
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from simsiam_jax.data import two_views
from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.views import unnormalise
from simsiam_jax.files import read_arrays, write_arrays, write_sealed_lines
from simsiam_jax.metrics import Threshold
from simsiam_jax.settings.schema import ViewSpec

PAIRS, QUERIES, NEIGHBOURS, MISTAKES, SAMPLES_A_CLASS, SAMPLES, POINTS = 8, 27, 6, 36, 4, 24, 500
_LARGEST = 64  # pixels of a thumbnail's side


def save_samples(workdir: Path, split: ImageSplit, *, label_kind: str) -> None:
    """Writes samples.npz: some training images, a few of each class where there are classes (the paper's Figure 1).

    Args:
      workdir: The study's folder.
      split: The training images.
      label_kind: `classes`, `attributes` or `none`.
    """
    if label_kind == "classes":
        classes = np.unique(split.labels)[: SAMPLES // 2]
        rows = np.concatenate([np.flatnonzero(split.labels == label)[:SAMPLES_A_CLASS] for label in classes])
    else:
        rows = _spread(len(split), SAMPLES)
    write_arrays(workdir / "samples.npz", {"images": _thumbnails(split.images[rows]), "labels": split.labels[rows]})


def save_pairs(workdir: Path, split: ImageSplit, spec: ViewSpec) -> None:
    """Writes pairs.npz: some images, uint8 0..255, and two views of each, float32 0..1. A whole file is kept.

    Args:
      workdir: The study's folder.
      split: The images that are pretrained on.
      spec: How views are drawn.
    """
    path = workdir / "pairs.npz"
    with contextlib.suppress(OSError, ValueError):
        read_arrays(path)
        return
    some = split.take(np.arange(min(PAIRS, len(split))))
    views = jax.jit(two_views, static_argnames="spec")(some.images, some.sample_ids, seed=0, epoch=0, spec=spec)
    view1, view2 = (np.asarray(unnormalise(view, spec)) for view in views)
    write_arrays(path, {"originals": some.images, "view1": view1, "view2": view2})


def save_neighbours(
    folder: Path,
    bank: ImageSplit,
    bank_features: Float[np.ndarray, "bank dim"],
    test: ImageSplit,
    test_features: Float[np.ndarray, "test dim"],
) -> None:
    """Writes neighbours.npz: the same few test images for every arm, and the labelled images nearest by cosine.

    Of classes one image of each comes first, then a second of each, and so on.

    Args:
      folder: The folder of the stage `knn`.
      bank: The labelled images.
      bank_features: The features of the labelled images.
      test: The test images.
      test_features: The features of the test images.
    """
    queries = _in_turns(test.labels, QUERIES) if test.labels.ndim == 1 else _spread(len(test), QUERIES)
    similarity = _directions(test_features[queries]) @ _directions(bank_features).T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS]
    write_arrays(
        folder / "neighbours.npz",
        {
            "queries": _thumbnails(test.images[queries]),
            "query_labels": test.labels[queries],
            "neighbours": np.stack([_thumbnails(bank.images[row]) for row in nearest]),
            "neighbour_labels": bank.labels[nearest],
        },
    )


def save_map(folder: Path, features: Float[np.ndarray, "n dim"], labels: Int[np.ndarray, "n *attributes"]) -> None:
    """Writes map.npz: a two-dimensional map (t-SNE) of the directions of some features, and their labels.

    Features that are not finite have no map, nor have fewer than five of them.

    Args:
      folder: The folder of the stage `knn`.
      features: The features of the test images.
      labels: The labels of the test images.
    """
    rows = _spread(len(features), POINTS)
    points = _directions(features[rows])
    if not np.isfinite(points).all() or len(points) < 5:
        return
    if np.ptp(points, axis=0).max() < 1e-6:
        positions = np.zeros((len(points), 2), np.float32)  # t-SNE fails where all points are one
    else:
        from sklearn.manifold import TSNE  # here, because it takes seconds

        # The exact method on one thread gives the same positions every time.
        mapped = TSNE(
            init="random", method="exact", perplexity=min(30.0, (len(points) - 1) / 3), random_state=0, max_iter=500
        )
        positions = mapped.fit_transform(points.astype(np.float64)).astype(np.float32)
    write_arrays(folder / "map.npz", {"positions": positions, "labels": labels[rows]})


def save_confusion(
    folder: Path,
    outputs: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, "n *attributes"],
    *,
    threshold: Threshold,
    num_classes: int,
) -> None:
    """Writes confusion.json: how often each class was taken for which, or how often each attribute was told right.

    An attribute's line counts the images in which it was found, a false alarm, missed, and rightly absent. Unknown
    attributes (-1) are not counted.

    Args:
      folder: The folder of the stage `finetune`.
      outputs: The scores of classes, or the probabilities of attributes.
      labels: The classes, or the attributes.
      threshold: The probability from which on an attribute counts as predicted.
      num_classes: The number of classes. It is not used for attributes.
    """
    if labels.ndim == 1:
        counts = np.zeros((num_classes, num_classes), int)
        np.add.at(counts, (labels, outputs.argmax(axis=1)), 1)
        values = {"classes": counts.tolist()}
    else:
        predicted, present, absent = outputs >= threshold, labels == 1, labels == 0
        cells = [(predicted & present), (predicted & absent), (~predicted & present), (~predicted & absent)]
        values = {"attributes": np.stack([cell.sum(axis=0) for cell in cells], axis=1).tolist()}
    write_sealed_lines(folder / "confusion.json", [values])


def save_mistakes(
    folder: Path, test: ImageSplit, probabilities: Float[np.ndarray, "n k"], *, threshold: Threshold
) -> None:
    """Writes mistakes.npz: the test images that were told wrong, the surest first, at most `MISTAKES` of them.

    An image with attributes is wrong where any known one is. `certainty`, 0..1, is the probability of the wrong class,
    or how far that of the worst attribute is from the truth. `total` and `wrong` count test images.

    Args:
      folder: The folder of the evaluation's stage.
      test: The test images.
      probabilities: The probabilities, 0..1, of the classes or attributes.
      threshold: The probability from which on an attribute counts as predicted.
    """
    labels = test.labels
    if labels.ndim == 1:
        predicted = probabilities.argmax(axis=1).astype(np.int32)
        wrong = (predicted != labels) & (labels >= 0)
        certainty = probabilities.max(axis=1)
    else:
        predicted = (probabilities >= threshold).astype(np.int32)
        of_each = (predicted != labels) & (labels >= 0)
        wrong = of_each.any(axis=1)
        certainty = np.where(of_each, np.abs(probabilities - labels), 0.0).max(axis=1)
    rows = np.flatnonzero(wrong)
    chosen = rows[np.argsort(-np.nan_to_num(certainty[rows]), kind="stable")][:MISTAKES]
    write_arrays(
        folder / "mistakes.npz",
        {
            "images": _thumbnails(test.images[chosen]),
            "labels": labels[chosen],
            "predicted": predicted[chosen],
            "certainty": certainty[chosen].astype(np.float32),
            "wrong": np.array(len(rows)),
            "total": np.array(len(test)),
        },
    )


def _in_turns(labels: Int[np.ndarray, " n"], limit: int) -> Int[np.ndarray, " chosen"]:
    """Positions of at most `limit` images: one of each class, or of classes evenly, then a second of each, ..."""
    classes = np.unique(labels)
    classes = classes[_spread(len(classes), limit)]
    by_class = [np.flatnonzero(labels == label)[:limit] for label in classes]
    turns = [(turn, place, row) for place, rows in enumerate(by_class) for turn, row in enumerate(rows)]
    return np.array([row for *_, row in sorted(turns)[:limit]])


def _spread(count: int, limit: int) -> Int[np.ndarray, " chosen"]:
    """At most `limit` positions of 0..count - 1, evenly from the first to the last."""
    return np.unique(np.linspace(0, count - 1, min(count, limit)).round().astype(int))


def _directions(features: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _thumbnails(images: UInt8[np.ndarray, "n height width 3"]) -> UInt8[np.ndarray, "n small_height small_width 3"]:
    """Images whose longer side is at most `_LARGEST` pixels."""
    height, width = images.shape[1:3]
    if max(height, width) <= _LARGEST or not len(images):
        return np.asarray(images)
    size = round(width * _LARGEST / max(height, width)), round(height * _LARGEST / max(height, width))
    return np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)) for image in images])
