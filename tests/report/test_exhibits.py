"""The files behind the report's pictures, and the pictures."""

import json

import numpy as np
import pytest

from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.results import read_results
from simsiam_jax.report.exhibits import augmented_pairs, exhibit_pictures
from simsiam_jax.report.style import png, themed_svg
from simsiam_jax.study import exhibits
from tests.support.made_up import made_up_split, made_up_workdir


@pytest.fixture(scope="module", params=["classes", "attributes"])
def workdir(request, tmp_path_factory):
    return made_up_workdir(tmp_path_factory.mktemp("exhibits") / "run", label_kind=request.param)


def test_neighbours_are_the_nearest_by_cosine(tmp_path):
    bank, test = made_up_split(6, "classes"), made_up_split(3, "classes", 1)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 4)).astype(np.float32)
    # Each test image lies in the direction of one image of the bank, further out.
    exhibits.save_neighbours(tmp_path, bank, features, test, 3 * features[[4, 1, 2]])
    with np.load(tmp_path / "neighbours.npz") as found:
        np.testing.assert_array_equal(found["neighbours"][:, 0], bank.images[[4, 1, 2]])
        np.testing.assert_array_equal(found["neighbour_labels"][:, 0], bank.labels[[4, 1, 2]])


def test_the_same_features_give_the_same_bytes(tmp_path):
    split = made_up_split(60, "classes")
    features = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    for name in ("a", "b"):
        exhibits.save_map(tmp_path / name, features, split.labels)
        exhibits.save_samples(tmp_path / name, split, label_kind="classes")
    for file in ("map.npz", "samples.npz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_map_keeps_apart_what_is_apart(tmp_path):
    labels = np.arange(40, dtype=np.int32) % 2
    noise = np.random.default_rng(0).normal(size=(40, 8)) * 0.01
    exhibits.save_map(tmp_path, (noise + np.eye(8)[labels]).astype(np.float32), labels)
    with np.load(tmp_path / "map.npz") as found:
        positions = found["positions"]
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1) + 1e9 * np.eye(40)
    assert (labels[distance.argmin(axis=1)] == labels).all()


def test_a_network_that_collapsed_or_diverged_stops_no_map(tmp_path):
    labels = np.zeros(20, np.int32)
    exhibits.save_map(tmp_path, np.ones((20, 4), np.float32), labels)
    with np.load(tmp_path / "map.npz") as found:
        assert not found["positions"].any()
    exhibits.save_map(tmp_path / "diverged", np.full((20, 4), np.nan, np.float32), labels)
    assert not (tmp_path / "diverged").exists()


def test_confusions_count_every_image(tmp_path):
    labels = np.array([0, 0, 1, 2], np.int32)
    outputs = np.eye(3, dtype=np.float32)[[0, 1, 1, 0]]
    exhibits.save_confusion(tmp_path, outputs, labels, threshold=0.5, num_classes=3)
    assert json.loads((tmp_path / "confusion.json").read_text())["classes"] == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_attributes_are_counted_where_they_are_known(tmp_path):
    labels = np.array([[1, 0], [1, -1], [0, 0], [0, 1]], np.int32)
    outputs = np.array([[0.9, 0.1], [0.2, 0.9], [0.7, 0.8], [0.1, 0.4]], np.float32)
    exhibits.save_confusion(tmp_path, outputs, labels, threshold=0.5, num_classes=2)
    # found, false alarm, missed, rightly absent
    assert json.loads((tmp_path / "confusion.json").read_text())["attributes"] == [[1, 1, 1, 1], [0, 1, 1, 1]]


def test_every_exhibit_is_drawn_for_light_and_dark_pages(workdir):
    pictures, notes = exhibit_pictures(workdir, read_experiment(workdir), read_results(workdir))
    assert [picture.name for picture in pictures] == ["samples", "pairs", "neighbours", "map", "confusion"]
    assert notes == []
    for picture in pictures:
        drawing = themed_svg(picture.figure, picture.name)
        assert drawing.startswith("<svg")
        assert "#" not in drawing.replace("#" + picture.name, "")  # no colour of one theme alone
        assert png(picture.figure).startswith(b"\x89PNG")


def test_a_damaged_file_is_left_out_and_named(tmp_path):
    workdir = made_up_workdir(tmp_path / "run")
    (workdir / "samples.npz").write_bytes(b"PK nothing")
    (workdir / "vit_s-none" / "seed-1" / "finetune" / "confusion.json").write_text('{"classes": "many"}')
    pictures, notes = exhibit_pictures(workdir, read_experiment(workdir), read_results(workdir))
    assert [picture.name for picture in pictures] == ["pairs", "neighbours", "map", "confusion"]
    assert any("samples.npz" in note for note in notes)
    assert any("confusion.json" in note for note in notes)


def test_a_run_without_exhibits_has_none(tmp_path):
    workdir = made_up_workdir(tmp_path / "run")
    assert exhibit_pictures(tmp_path, read_experiment(workdir), read_results(workdir)) == ([], [])


def test_the_sheet_shows_the_pairs_themselves():
    images = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    view = np.linspace(0, 1, 3 * 2 * 2 * 3, dtype=np.float32).reshape(3, 2, 2, 3)
    figure = augmented_pairs(images, view, 1 - view, limit=2)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert len(shown) == 6
    np.testing.assert_array_equal(shown[0], images[0])
    np.testing.assert_allclose(shown[4], view[1])
    np.testing.assert_allclose(shown[5], 1 - view[1])
