"""The files behind the report's pictures, and the pictures."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.results import read_results
from simsiam_jax.report.exhibit_files import same_labels
from simsiam_jax.report.exhibits import augmented_pairs, exhibit_pictures
from simsiam_jax.report.style import INK, MUTED, RIGHT, WRONG, png, themed_svg
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


def test_queries_take_the_classes_in_turns(tmp_path):
    labels = np.array([0] * 30 + [1] * 2 + [2] * 8, np.int32)
    test = dataclasses.replace(made_up_split(40, "classes"), labels=labels)
    features = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    exhibits.save_neighbours(tmp_path, test, features, test, features)
    with np.load(tmp_path / "neighbours.npz") as found:
        assert found["query_labels"].tolist() == [0, 1, 2] * 2 + [0, 2] * 6 + [0] * 9


def test_of_attributes_an_image_is_wrong_where_a_known_one_is(tmp_path):
    test = dataclasses.replace(
        made_up_split(3, "attributes", attributes=2), labels=np.array([[1, 0], [-1, 1], [1, 1]], np.int32)
    )
    probabilities = np.array([[0.9, 0.4], [0.9, 0.3], [0.1, 0.9]], np.float32)
    exhibits.save_mistakes(tmp_path, test, probabilities, threshold=np.array([0.5, 0.35]))
    with np.load(tmp_path / "mistakes.npz") as found:
        # The last image misses by 0.9, the second by 0.7, the first by 0.4: there 0.4 is above the threshold.
        np.testing.assert_array_equal(found["images"], test.images[[2, 1, 0]])
        assert found["predicted"].tolist() == [[0, 1], [1, 0], [1, 1]]
        assert (found["wrong"], found["total"]) == (3, 3)


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


def neighbour_picture(workdir):
    pictures, _ = exhibit_pictures(workdir, read_experiment(workdir), read_results(workdir))
    return next(picture.figure for picture in pictures if picture.name == "neighbours")


@pytest.mark.parametrize(
    ("backbones", "starts"),
    [
        (("resnet18",), ("none",)),
        (("resnet18",), ("none", "in_domain")),
        (("resnet18", "vit_s"), ("none", "in_domain")),
    ],
)
def test_images_keep_their_shape_and_size_whatever_the_number_of_arms(tmp_path, backbones, starts):
    workdir = made_up_workdir(tmp_path / "run", backbones=backbones, starts=starts)
    pictures, _ = exhibit_pictures(workdir, read_experiment(workdir), read_results(workdir))
    for picture in pictures:
        if picture.name in ("samples", "pairs", "neighbours"):
            picture.figure.draw_without_rendering()
            boxes = [axes.get_window_extent() for axes in picture.figure.axes if axes.images]
            assert all(box.width == pytest.approx(box.height, rel=0.01) for box in boxes), picture.name
            if picture.name == "neighbours":
                # 12 images beside each other in a picture of 7.2 inches at 100 dots an inch.
                assert {round(box.width) for box in boxes} <= set(range(48, 60))


def test_oblong_images_keep_their_shape(tmp_path):
    workdir = made_up_workdir(tmp_path / "run", backbones=("resnet18",), starts=("none",))
    path = workdir / "resnet18-none" / "seed-0" / "knn" / "neighbours.npz"
    with np.load(path) as arrays:
        found = dict(arrays)
    np.savez(path, **{**found, **{name: found[name][..., :8, :, :] for name in ("queries", "neighbours")}})
    figure = neighbour_picture(workdir)
    figure.draw_without_rendering()
    boxes = [axes.get_window_extent() for axes in figure.axes if axes.images]
    assert all(box.width == pytest.approx(2 * box.height, rel=0.01) for box in boxes)


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (np.int32(1), np.int32(1), True),
        (np.int32(1), np.int32(2), False),
        (np.int32(-1), np.int32(2), None),
        (np.int32(-1), np.int32(-1), None),
        (np.array([1, 0, -1]), np.array([1, 0, 1]), True),
        (np.array([1, 0, -1]), np.array([0, 0, 1]), False),
        (np.array([-1, 0]), np.array([1, -1]), None),
    ],
)
def test_labels_differ_only_where_both_are_known(ours, theirs, same):
    assert same_labels(ours, theirs) is same


def test_a_missing_label_is_crossed_no_more_than_it_is_confirmed(tmp_path):
    workdir = made_up_workdir(tmp_path / "run", backbones=("resnet18",), starts=("none",))
    path = workdir / "resnet18-none" / "seed-0" / "knn" / "neighbours.npz"
    with np.load(path) as arrays:
        found = dict(arrays)
    labels = np.full_like(found["neighbour_labels"], -1)
    labels[:, 0] = found["query_labels"]
    labels[:, 1] = found["query_labels"] + 1
    np.savez(path, **{**found, "neighbour_labels": labels})
    shown = [axes for axes in neighbour_picture(workdir).axes if axes.images]
    # Of each line the test image, then its five neighbours.
    frames = [axes.spines["left"].get_edgecolor()[:3] for axes in shown]
    crosses = [[text.get_text() for text in axes.texts] for axes in shown]
    colours = [to_rgb(colour) for colour in (INK, RIGHT, WRONG, MUTED, MUTED, MUTED)]
    # Ten of the 24 test images.
    assert len(shown) == 10 * 6
    assert frames == colours * 10
    assert crosses == [[], [], ["×"], [], [], []] * 10
