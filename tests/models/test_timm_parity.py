"""Every backbone against timm's own, with random weights and randomised batch statistics (issue tolerances)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.models import BACKBONES, create_backbone
from simsiam_jax.weights import from_timm, timm_code, to_timm
from tests.support.timm_models import build_timm, import_timm

torch, timm = import_timm()

EVERY_BACKBONE = pytest.mark.parametrize("name", list(BACKBONES))

# Fields that reach every branch of `timm_code`, at sizes that keep compiling short.
VARIANTS = [
    ("resnet18", 32, {"stem": "paper32", "width": 0.25}),
    ("resnet18", 32, {"stem": "cifar", "width": 0.25}),
    ("resnet18", 64, {"width": 0.25}),
    ("efficientnet_b0", 32, {"stem": "paper32", "width": 0.25}),
    ("efficientnet_b0", 16, {"stem": "cifar", "width": 0.5}),
    ("vit_s", 32, {"patch_size": 4, "width": 0.25}),
    ("vit_s_2021", 32, {"patch_size": 8, "width": 0.125}),
    ("pit_ti", 32, {"patch_size": 4, "width": 0.5}),
]


def _images(batch, size):
    images = np.random.default_rng(size).normal(size=(batch, size, size, 3)).astype(np.float32)
    return images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _check_features(name, image_size, **fields):
    """Ours equal timm's after the way in, and timm's after the way out again into a model with other weights."""
    module = create_backbone(name, image_size, **fields)
    code = timm_code(module, image_size)
    model = build_timm(code)
    variables = from_timm(name, model.state_dict(), image_size, **fields)
    ours, theirs = _images(2, image_size)
    features = jax.jit(module.apply)(variables, ours)
    other = build_timm(code, seed=1)
    with torch.no_grad():
        expected, different = model(theirs).numpy(), other(theirs).numpy()
        other.load_state_dict(
            {key: torch.from_numpy(value) for key, value in to_timm(name, variables).items()}, strict=True
        )
        returned = other(theirs).numpy()
    assert np.abs(expected - different).max() > 0.1
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(returned, expected)


@pytest.mark.parametrize(
    ("name", "image_size"),
    [
        # The two ViTs differ in numbers only: one size of the older is enough for each commit.
        pytest.param(name, size, marks=[pytest.mark.slow] if name == "vit_s_2021" and size != 96 else [])
        for name in BACKBONES
        for size in (32, 96, 224)
    ],
)
def test_features_are_those_of_timm_which_loads_them_back_strictly(name, image_size):
    _check_features(name, image_size)


@pytest.mark.parametrize(("name", "image_size", "fields"), VARIANTS)
def test_small_stems_widths_and_patches_are_what_timm_builds_from_the_code_given(name, image_size, fields):
    _check_features(name, image_size, **fields)


# The parameter counts are timm's and torchvision's published ones; ViT-S of 2021: 8 blocks of width 768.
@pytest.mark.parametrize(
    ("name", "without_head", "with_head"),
    [
        ("resnet18", 11_176_512, 11_689_512),
        ("efficientnet_b0", 4_007_548, 5_288_548),
        ("vit_s", 21_665_664, 22_050_664),
        ("pit_ti", 4_590_272, 4_847_272),
    ],
)
def test_timm_has_the_same_number_of_parameters(name, without_head, with_head):
    code = timm_code(create_backbone(name, 224), 224)
    assert sum(p.numel() for p in build_timm(code).parameters()) == without_head
    with_classifier = build_timm(code.replace("num_classes=0", "num_classes=1000"))
    assert sum(p.numel() for p in with_classifier.parameters()) == with_head


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "resnet18" else pytest.mark.slow) for name in BACKBONES]
)
def test_training_mode_follows_timm_in_outputs_statistics_and_gradients(name):
    module = create_backbone(name, 96)
    model = build_timm(timm_code(module, 96)).train()
    variables = from_timm(name, model.state_dict(), 96)
    ours, theirs = _images(8, 96)
    weights = np.random.default_rng(0).normal(size=(8, model.num_features)).astype(np.float32)

    output = model(theirs)
    (output * torch.from_numpy(weights)).mean().backward()

    @jax.jit
    def train(params, images):
        def loss_of(params):
            tree = {**variables, "params": params}
            features, updated = module.apply(tree, images, train=True, mutable=["batch_stats"])
            return jnp.mean(features * weights), (features, updated.get("batch_stats", {}))

        return jax.grad(loss_of, has_aux=True)(params)

    gradients, (features, batch_stats) = train(variables["params"], ours)
    np.testing.assert_allclose(features, output.detach().numpy(), rtol=0, atol=1e-3)

    expected = model.state_dict()
    for key, value in to_timm(name, {"params": variables["params"], "batch_stats": batch_stats}).items():
        if key.endswith(("running_mean", "running_var")):
            np.testing.assert_allclose(value, expected[key].numpy(), rtol=0, atol=1e-3, err_msg=key)

    got = to_timm(name, {"params": gradients, "batch_stats": variables["batch_stats"]})
    wanted = {key: parameter.grad.numpy() for key, parameter in model.named_parameters()}
    # A bias that only reaches further batch norms has a gradient of exactly zero, of which both compute the rounding.
    zero = 1e-6 * np.sqrt(sum(np.sum(np.square(gradient)) for gradient in wanted.values()))
    compared = 0
    for key, gradient in wanted.items():
        norm = np.linalg.norm(gradient)
        compared += norm > zero
        assert np.linalg.norm(got[key] - gradient) <= max(1e-3 * norm, zero), key
    assert compared > 0.9 * len(wanted)


@EVERY_BACKBONE
def test_out_and_in_again_is_the_identity_bit_for_bit(name):
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    shapes = jax.eval_shape(create_backbone(name, 64).init, jax.random.key(0), image)
    draw = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), {"batch_stats": {}, **shapes}
    )
    back = from_timm(name, to_timm(name, variables), 64)
    assert jax.tree.structure(back) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_torchvisions_weights_are_read_too(name):
    import torchvision

    torch.manual_seed(0)
    model = getattr(torchvision.models, name)(weights=None).eval()
    with torch.no_grad():
        for key, buffer in model.named_buffers():
            if key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    variables = from_timm(name, model.state_dict(), 64)
    setattr(model, "fc" if name == "resnet18" else "classifier", torch.nn.Identity())
    ours, theirs = _images(2, 64)
    with torch.no_grad():
        expected = model(theirs).numpy()
    features = jax.jit(create_backbone(name, 64).apply)(variables, ours)
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("old", "new"), [(224, 96), (96, 224), (96, 32)])
def test_position_embeddings_of_another_size_are_resampled_as_timm_does(old, new):
    module = create_backbone("vit_s", old, width=0.25)
    state_dict = build_timm(timm_code(module, old)).state_dict()
    variables = from_timm("vit_s", state_dict, new, width=0.25)
    expected = timm.layers.resample_abs_pos_embed(state_dict["pos_embed"], [new // 16, new // 16])
    np.testing.assert_allclose(variables["params"]["pos_embed"], expected.numpy(), rtol=0, atol=1e-5)


def test_pits_position_embeddings_are_resampled_by_the_same_filter():
    module = create_backbone("pit_ti", 224)
    state_dict = build_timm(timm_code(module, 224)).state_dict()
    variables = from_timm("pit_ti", state_dict, 96)
    expected = torch.nn.functional.interpolate(state_dict["pos_embed"], (11, 11), mode="bicubic", antialias=True)
    ours = variables["params"]["pos_embed"]
    np.testing.assert_allclose(ours, expected.permute(0, 2, 3, 1).numpy(), rtol=0, atol=1e-5)


def test_variables_stay_as_read_when_the_torch_model_trains_on():
    model = build_timm(timm_code(create_backbone("resnet18", 32), 32))
    variables = from_timm("resnet18", model.state_dict(), 32)
    before = variables["batch_stats"]["bn1"]["mean"].copy()
    model.train()(torch.zeros(2, 3, 32, 32) + 5)
    np.testing.assert_array_equal(variables["batch_stats"]["bn1"]["mean"], before)


def _resnet(**changes):
    state_dict = dict(build_timm(timm_code(create_backbone("resnet18", 32), 32)).state_dict())
    for key, value in changes.items():
        key = key.replace("__", ".")
        if value is None:
            del state_dict[key]
        else:
            state_dict[key] = value
    return state_dict


@pytest.mark.parametrize(
    ("changes", "fields", "message"),
    [
        ({"layer2__0__conv1__weight": None}, {}, r"layer2\.0\.conv1\.weight is missing"),
        ({"extra__weight": torch.zeros(3)}, {}, r"extra\.weight is left over"),
        ({"bn1__bias": torch.zeros(3)}, {}, r"bn1\.bias has shape \(3,\) in the weights, and \(64,\) in resnet18"),
        ({}, {"width": 0.5}, r"conv1\.weight has shape \(64, 3, 7, 7\) .* \(32, 3, 7, 7\) in resnet18 width=0\.5"),
        ({}, {"stem": "cifar"}, r"conv1\.weight has shape \(64, 3, 7, 7\) .* \(64, 3, 3, 3\).*--stem=imagenet"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(changes, fields, message):
    with pytest.raises(InputError, match=message) as fault:
        from_timm("resnet18", _resnet(**changes), 32, **fields)
    assert "\n" not in str(fault.value)


def test_weights_of_another_architecture_are_refused():
    with pytest.raises(InputError, match=r"not those of vit_s: \S+ is missing, and it has conv1\.weight"):
        from_timm("vit_s", _resnet(), 32)


def test_a_distilled_pit_is_refused_by_its_two_class_tokens():
    model = timm.create_model("pit_ti_distilled_224", num_classes=0)
    with pytest.raises(InputError, match=r"cls_token has shape \(1, 2, 64\)"):
        from_timm("pit_ti", model.state_dict(), 224)


def test_variables_of_another_backbone_do_not_go_out():
    module = create_backbone("resnet18", 32, width=0.125)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(InputError, match=r"not vit_s's: params/.* is missing"):
        to_timm("vit_s", variables)
