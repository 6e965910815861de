"""The surface in Python: ten names, from arrays to a pretrained backbone and what it is worth."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import simsiam_jax
from simsiam_jax import export_backbone, extract_features, fit_probe, knn_scores, pretrain
from simsiam_jax.data.views import evaluation_view
from simsiam_jax.eval import knn, linear
from tests.support.launchers import XLA_FLAGS, launch

ROOT = Path(__file__).parents[1]
SMALL = {
    "image_size": 16,
    "width": 0.125,
    "projector_dim": 16,
    "predictor_dim": 8,
    "micro_batch_size": 8,
    "warmup_epochs": 0.0,
}


def made_up_images(count=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 18, 20, 3), dtype=np.uint8)


def python(code, **environment):
    """What a program prints that is run as a person runs it, without the tests' type checks."""
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": XLA_FLAGS, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def seen():
    """What the callback of `pretrained` was called with."""
    return []


@pytest.fixture(scope="module")
def pretrained(seen):
    return pretrain(made_up_images(), epochs=3, callback=lambda epoch, numbers: seen.append((epoch, numbers)), **SMALL)


def test_the_surface_has_ten_names_that_the_readme_lists():
    readme = (ROOT / "README.md").read_text().partition("## In Python")[2].partition("\n## ")[0]
    assert len(simsiam_jax.__all__) == 10
    for name in simsiam_jax.__all__:
        assert getattr(simsiam_jax, name).__doc__
        assert name in dir(simsiam_jax)
        assert f"\n- `{name}` " in readme


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        simsiam_jax.pretrian  # noqa: B018


def test_importing_the_package_loads_neither_jax_nor_numpy():
    loaded = python("import sys, simsiam_jax; print([name for name in ('jax', 'numpy') if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_the_callback_sees_the_numbers_of_every_epoch(pretrained, seen):
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert [numbers for _, numbers in seen] == list(pretrained.history)
    assert [numbers["update"] for _, numbers in seen] == [3, 6, 9]  # 24 images in batches of 8
    assert all(-1 <= numbers["loss"] <= 1 for _, numbers in seen)


def test_a_callback_that_returns_false_ends_the_pretraining(pretrained):
    stopped = pretrain(made_up_images(), epochs=3, callback=lambda epoch, numbers: epoch < 2, **SMALL)
    assert len(stopped.history) == 2
    # The schedule is that of the three epochs which were planned.
    assert [each["loss"] for each in stopped.history] == [each["loss"] for each in pretrained.history[:2]]


def test_features_are_what_the_module_gives_of_the_plain_images(pretrained):
    images = made_up_images(5, seed=1)
    found = extract_features(pretrained, images)
    view = evaluation_view(images, spec=pretrained.config.program.views)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pretrained.module.apply(pretrained.variables, view), atol=1e-5)


def test_the_untrained_backbone_is_that_of_the_seed(pretrained):
    before = pretrained.untrained()
    assert before.history == ()
    assert jax.tree.structure(before.variables) == jax.tree.structure(pretrained.variables)
    other = pretrain(made_up_images(seed=2), epochs=1, **SMALL).untrained()
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before.variables, other.variables)
    assert all(jax.tree.leaves(same))
    images = made_up_images(4)
    assert not np.allclose(extract_features(before, images), extract_features(pretrained, images))


@pytest.mark.parametrize("kind", ["classes", "attributes"])
def test_probe_and_neighbours_are_those_of_the_evaluations(kind):
    rng = np.random.default_rng(0)
    features, queries = (rng.normal(size=(count, 4)).astype(np.float32) for count in (30, 12))
    shape = () if kind == "classes" else (3,)
    labels, held_out = (rng.integers(0, 3 if kind == "classes" else 2, (count, *shape)) for count in (30, 12))
    probe = fit_probe(features, labels, queries, held_out)
    theirs = linear.fit_probe(features, labels, queries, held_out, num_classes=3)
    np.testing.assert_array_equal(probe.weights, theirs.weights)
    np.testing.assert_array_equal(
        knn_scores(features, labels, queries, k=5), knn.knn_outputs(features, labels, queries, num_classes=3, k=5)
    )


def test_an_export_holds_the_features_and_the_history(pretrained, tmp_path):
    card = export_backbone(pretrained, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "model.json").read_text()) == card
    assert (card["pretraining"]["images"], card["pretraining"]["epochs"]) == (24, 3)
    program = jax.export.deserialize(bytearray((tmp_path / "out" / "features.stablehlo").read_bytes()))
    images = made_up_images(3)[:, :16, :16]
    np.testing.assert_allclose(program.call(images), extract_features(pretrained, images), atol=1e-5)


MISTAKES = [
    ("pretrain(images.astype(np.float32))", "images must be uint8 in 0..255, not float32"),
    ("pretrain(images.transpose(0, 3, 1, 2))", "images has shape (10, 3, 8, 8): give [n, height, width, 3]; it looks "
     "like channels first: images.transpose(0, 2, 3, 1)"),
    ("pretrain(images[..., 0])", "images has shape (10, 8, 8): give [n, height, width, 3]; it looks like grey images: "
     "np.repeat(images[..., None], 3, axis=-1) gives them three channels"),
    ("pretrain(images[:, :, :, :1])", "np.repeat(images, 3, axis=-1)"),
    ("pretrain(images[0])", "images has shape (8, 8, 3): give [n, height, width, 3]; a single image is a batch of one"),
    ("pretrain(images[:0])", "images has shape (0, 8, 8, 3)"),
    ("pretrain([1, 2])", "images is a list: give an array uint8 [n, height, width, 3]"),
    ("pretrain(images, image_size=16)", "only 0 micro-batches of 64; lower accumulation or micro_batch_size"),
    ("pretrain(images, sample_ids=np.arange(9))", "sample_ids has shape (9,): give 10 whole numbers"),
    ("pretrain(images, sample_ids=np.ones(10))", "sample_ids is of type float64: give 10 whole numbers"),
    ("pretrain(images, sample_ids=list(range(10)))", "sample_ids is of type list: give 10 whole numbers"),
    ("pretrain(images, seed=-1)", "seed is -1"),
    ("pretrain(images, epochs=0)", "epochs=0: must be at least 1"),
    ("pretrain(images, epochs=2.5)", "epochs is 2.5: give a whole number"),
    ("pretrain(images, image_size=7, stem='cifar')", "image_size=7"),
    ("pretrain(images, backbone='resnet81')", "backbone=resnet81: unknown backbone; did you mean resnet18?"),
    ("pretrain(images, recipe='soup')", "recipe=soup: unknown recipe; known: paper, code, reference, practice"),
    ("pretrain(images, widht=0.5)", "pretrain has no setting 'widht'; did you mean width?"),
    ("pretrain(images, width='half')", "width is 'half': give a number"),
    ("pretrain(images, width=0.0)", "width=0: must be above 0"),
    ("pretrain(images, crop_scale=0.5)", "crop_scale is 0.5: give a tuple of 2 numbers"),
    ("pretrain(images, patch_size=4)", "patch_size=4: backbone=resnet18 has no patch_size; leave it out"),
    ("pretrain(images, dataset='digits')", "pretrain has no setting 'dataset'"),
    ("two_views(images[..., 0], np.arange(10), seed=0, epoch=0, spec=ViewSpec(8))", "images has shape (10, 8, 8)"),
    ("two_views(images, np.arange(9), seed=0, epoch=0, spec=ViewSpec(8))", "sample_ids has shape (9,)"),
    ("ViewSpec(8, flip_probability=2.0)", "flip_probability=2: must be at least 0 and at most 1"),
    ("simsiam_loss(features, features, features)", "simsiam_loss was given 3 arrays: give p of every view"),
    ("simsiam_loss(features, features, features, features[:, :2])", "simsiam_loss was given the shapes"),
    ("create_backbone('resnet81', 8)", "did you mean resnet18?"),
    ("fit_probe(features, labels[:9], features, labels)", "labels has 9 rows for 10 rows of features"),
    ("fit_probe(features, labels * 1.0, features, labels)", "labels is an array of float64: give an array of whole"),
    ("fit_probe(features, labels - 1, features, labels)", "labels lies in -1..1: give classes 0..2"),
    ("fit_probe(features, labels, features, labels, num_classes=2)", "labels lies in 0..2: give classes 0..1"),
    ("fit_probe(features, labels, features[:, :2], labels)", "validation_features has shape (10, 2): give [n, 3]"),
    ("fit_probe(features * np.nan, labels, features, labels)", "features has numbers that are not finite in 10 of 10"),
    ("knn_scores(images, labels, features)", "features is an array of uint8: give an array of float numbers [n, dim]"),
    ("knn_scores(features, labels, features, k=0)", "k is 0: give a whole number of neighbours"),
    ("knn_scores(features[0], labels, features)", "features has shape (3,): give [n, dim]"),
]  # fmt: skip


@pytest.fixture(scope="module")
def messages():
    """What each of the `MISTAKES` raises."""
    code = f"""
import json, numpy as np
from simsiam_jax import *
images = np.zeros((10, 8, 8, 3), np.uint8)
features, labels = np.eye(10, 3, dtype=np.float32), np.arange(10) % 3
found = []
for call in json.loads({json.dumps(json.dumps([call for call, _ in MISTAKES]))}):
    try:
        eval(call)
        found.append("no mistake")
    except ValueError as mistake:
        found.append(f"{{type(mistake).__name__}}: {{mistake}}")
print(json.dumps(found))
"""
    return dict(zip([call for call, _ in MISTAKES], json.loads(python(code)), strict=True))


@pytest.mark.parametrize(("call", "words"), MISTAKES)
def test_a_mistake_is_one_line_that_names_the_argument(messages, call, words):
    message = messages[call]
    assert message.startswith("InputError: ")
    assert "\n" not in message
    assert words in message
    assert "--" not in message or call.startswith("create_backbone")


@pytest.mark.slow
def test_pretraining_on_arrays_gives_the_launcher_s_numbers(tmp_path):
    flags = {**SMALL, "epochs": 2, "micro_batch_size": 64, "seed": 1}
    given = [f"--{name}={value}" for name, value in flags.items() if name != "seed"]
    folders = [f"--workdir={tmp_path / 'run'}", f"--data_dir={tmp_path / 'data'}"]
    result = launch(
        "pretrain", "--preset=full", "--dataset=digits", "--min_updates=1", "--first_seed=1", *given, *folders
    )
    assert result.returncode == 0, result.stderr
    stage = tmp_path / "run" / "in_domain" / "seed-1" / "pretrain"
    code = f"""
from pathlib import Path
import dataclasses, jax
from simsiam_jax import pretrain, runtime
from simsiam_jax.inference import open_model
from simsiam_jax.data import dataset_info, load_split
runtime.configure()
split = load_split("digits", "train", data_dir={str(tmp_path / "data")!r})
model = pretrain(split.images, sample_ids=split.sample_ids, **dataset_info("digits").views, **{flags!r})
trained = open_model(Path({str(stage)!r}))
config = trained.trained.config
views = model.config.program.finetune_views  # the launcher has the data set's for fine-tuning, too
assert model.config.program == dataclasses.replace(config.program, finetune_views=views)
same = jax.tree.map(lambda a, b: bool((a == b).all()), model.variables, trained.backbone)
print(trained.epoch, len(jax.tree.leaves(same)), all(jax.tree.leaves(same)))
"""
    epochs, leaves, same = python(code, JAX_PLATFORMS="cpu").split()
    assert (epochs, same) == ("2", "True")
    assert int(leaves) > 50
