import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.models import Classifier, SimSiam, create_backbone, train_on_batches
from simsiam_jax.models.simsiam import Projector
from simsiam_jax.settings.schema import HeadConfig


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _simsiam(**head):
    """SimSiam with a tiny ResNet-18 for images of 16 pixels."""
    return SimSiam(create_backbone("resnet18", 16, stem="paper32", width=1 / 16), HeadConfig(**head))


def _shapes(module, *inputs):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))


def test_resnet18_has_the_parameters_of_the_published_network():
    # torchvision's resnet18: 11,689,512 with its 1000-way layer of 513,000.
    image = jnp.zeros((1, 224, 224, 3))
    backbone = create_backbone("resnet18", 224, stem="imagenet")
    assert _count(_shapes(backbone, image)["params"]) == 11_176_512
    assert _count(_shapes(Classifier(backbone, 1000), image)["params"]) == 11_689_512


@pytest.mark.parametrize(("stem", "smallest"), [("imagenet", 32), ("paper32", 16), ("cifar", 8)])
def test_stems_reduce_the_image_by_their_strides(stem, smallest):
    # At twice the smallest size the last stage has a 2×2 map.
    backbone = create_backbone("resnet18", smallest * 2, stem=stem, width=1 / 16)
    image = jnp.zeros((2, smallest * 2, smallest * 2, 3))
    _, state = jax.eval_shape(lambda: backbone.init_with_output(jax.random.key(0), image, capture_intermediates=True))
    assert state["intermediates"]["layer4_1"]["__call__"][0].shape == (2, 2, 2, 32)
    assert state["intermediates"]["__call__"][0].shape == (2, 32)
    with pytest.raises(InputError, match=rf"--image_size={smallest - 1}: the {stem} stem needs .* {smallest} pixels"):
        create_backbone("resnet18", smallest - 1, stem=stem)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("resnet81", {}, "--backbone=resnet81: unknown backbone; did you mean resnet18"),
        ("alexnet", {}, "unknown backbone; known: resnet18, efficientnet_b0, vit_s, vit_s_2021, pit_ti"),
        ("resnet18", {"depth": 3}, "no field 'depth'"),
        ("resnet18", {"stem": "vgg"}, "unknown stem 'vgg'"),
        ("resnet18", {"width": 0.0}, "--width=0 must be positive"),
    ],
)
def test_unknown_backbones_and_fields_are_named(name, fields, message):
    with pytest.raises(InputError, match=message):
        create_backbone(name, 32, **fields)


def test_simsiam_returns_two_predictions_and_two_projections_of_equation_1():
    model = _simsiam(projector_dim=24, predictor_dim=6)
    view1, view2 = jax.random.normal(jax.random.key(0), (2, 3, 16, 16, 3))
    variables = jax.jit(model.init)(jax.random.key(1), view1, view2)
    apply = jax.jit(model.apply)
    p1, p2, z1, z2 = apply(variables, view1, view2)
    assert p1.shape == p2.shape == z1.shape == z2.shape == (3, 24)
    # The same weights serve both views: swapping the views swaps the outputs.
    q1, q2, y1, y2 = apply(variables, view2, view1)
    for got, expected in zip((q2, q1, y2, y1), (p1, p2, z1, z2), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert variables["params"]["predictor"]["fc1"]["kernel"].shape == (24, 6)


@pytest.mark.parametrize(
    ("output_norm", "last_layer"),
    [("none", {"fc3": ["bias", "kernel"]}), ("plain", {"fc3": ["kernel"]}), ("affine", {"fc3": ["kernel"], "bn3": []})],
)
def test_projector_output_follows_the_paper_the_reference_or_the_code(output_norm, last_layer):
    projector = Projector(dim=8, output_norm=output_norm)
    params = _shapes(projector, jnp.zeros((4, 5)))["params"]
    assert sorted(params["fc3"]) == last_layer["fc3"]
    assert ("bn3" in params) == ("bn3" in last_layer)
    # Hidden layers: no bias before a batch norm, which has scale and bias.
    assert sorted(params["fc1"]) == ["kernel"]
    assert sorted(params["bn1"]) == ["bias", "scale"]


@pytest.mark.parametrize(
    ("changes", "projector", "predictor"),
    [
        ({}, "fc1 bn1 fc2 bn2 fc3 bn3", "fc1 bn1 fc2"),
        ({"hidden_norm": False, "projector_output_norm": "none"}, "fc1 fc2 fc3", "fc1 fc2"),
        ({"projector_output_norm": "none"}, "fc1 bn1 fc2 bn2 fc3", "fc1 bn1 fc2"),
        ({"predictor_output_norm": "affine"}, "fc1 bn1 fc2 bn2 fc3 bn3", "fc1 bn1 fc2 bn2"),
        ({"projector_layers": 1}, "fc1 bn1", "fc1 bn1 fc2"),
        ({"predictor": False}, "fc1 bn1 fc2 bn2 fc3 bn3", None),
    ],
)
def test_the_heads_have_the_layers_that_an_ablation_leaves_them(changes, projector, predictor):
    model = _simsiam(projector_dim=24, predictor_dim=6, **changes)
    params = _shapes(model, *2 * [jnp.zeros((2, 16, 16, 3))])["params"]
    assert sorted(params["projector"]) == sorted(projector.split())
    assert sorted(params.get("predictor", ())) == sorted((predictor or "").split())


def test_without_a_predictor_the_projection_is_the_prediction():
    model = _simsiam(projector_dim=24, predictor=False)
    view1, view2 = jax.random.normal(jax.random.key(0), (2, 3, 16, 16, 3))
    variables = jax.jit(model.init)(jax.random.key(1), view1, view2)
    p1, p2, z1, z2 = jax.jit(model.apply)(variables, view1, view2)
    np.testing.assert_array_equal(p1, z1)
    np.testing.assert_array_equal(p2, z2)


@pytest.mark.parametrize("count", [2, 3])
def test_folding_the_views_changes_neither_outputs_nor_statistics(count):
    model = _simsiam(projector_dim=16, predictor_dim=4)
    views = jax.random.normal(jax.random.key(0), (count, 8, 16, 16, 3)) + 3 * jnp.arange(count).reshape(-1, 1, 1, 1, 1)
    variables = jax.jit(model.init)(jax.random.key(1), *views)
    plain, updated = jax.jit(lambda: model.apply(variables, *views, train=True, mutable=["batch_stats"]))()
    (p, z), batch_stats = jax.jit(lambda: train_on_batches(model, variables, views))()
    for got, expected in zip((*p, *z), plain, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        lambda got, expected: np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5),
        batch_stats,
        updated["batch_stats"],
    )


def test_bfloat16_compute_keeps_float32_parameters_and_statistics():
    backbone = create_backbone("resnet18", 16, stem="paper32", width=1 / 8, dtype=jnp.bfloat16)
    reference = create_backbone("resnet18", 16, stem="paper32", width=1 / 8)
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    variables = jax.jit(backbone.init)(jax.random.key(1), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    features = jax.jit(backbone.apply)(variables, images)
    assert features.dtype == jnp.bfloat16
    expected = jax.jit(reference.apply)(variables, images)
    # bfloat16 keeps 8 bits of a number, a relative error of 0.4 % a rounding.
    assert float(jnp.linalg.norm(features - expected) / jnp.linalg.norm(expected)) < 0.02
