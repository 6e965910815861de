"""What `--init` may name, and what its weights are recorded as."""

import jax
import numpy as np
import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.files import sha256
from simsiam_jax.models import create_backbone
from simsiam_jax.settings.schema import BackboneConfig
from simsiam_jax.weights import IMAGENET, hub, load_initial, to_timm
from simsiam_jax.weights.hub import HubFile
from simsiam_jax.weights.state_dicts import write_safetensors

TINY = BackboneConfig(name="resnet18", stem="paper32", width=1 / 16)


@pytest.fixture
def saved(tmp_path):
    """A weights file of a tiny ResNet-18, and its variables."""
    module = create_backbone(TINY.name, 16, **TINY.fields())
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes)
    path = tmp_path / "tiny.safetensors"
    write_safetensors(path, to_timm(TINY.name, variables), {})
    return path, variables


def test_random_weights_are_not_loaded():
    assert load_initial("random", TINY, 16) is None


def test_a_files_weights_are_recorded_with_its_path_and_sha256(saved):
    path, variables = saved
    weights = load_initial(str(path), TINY, 16)
    assert weights is not None
    assert weights.origin == {"source": str(path), "sha256": sha256(path)}
    jax.tree.map(np.testing.assert_array_equal, weights.variables, variables)


def test_weights_of_the_hub_are_recorded_with_their_revision_and_sha256(saved, monkeypatch):
    path, variables = saved
    revision, asked = "0123456789abcdef0123456789abcdef01234567", []
    monkeypatch.setattr(hub, "fetch", lambda file: asked.append(file) or (path, sha256(path)))
    weights = load_initial(f"hf:owner/tiny@{revision}", TINY, 16)
    assert asked == [HubFile("owner/tiny", revision)]
    assert weights is not None
    assert weights.origin == {
        "source": "hf:owner/tiny/model.safetensors",
        "revision": revision,
        "sha256": sha256(path),
    }
    jax.tree.map(np.testing.assert_array_equal, weights.variables, variables)


def test_weights_that_do_not_fit_name_the_flag(saved):
    path, _ = saved
    with pytest.raises(InputError, match=r"^--init=.*tiny\.safetensors: .*has shape") as fault:
        load_initial(str(path), BackboneConfig(name="resnet18", stem="paper32", width=1 / 8), 16)
    assert "\n" not in str(fault.value)


def test_imagenet_weights_are_pinned_by_commit_size_and_sha256():
    for file in IMAGENET.values():
        assert len(file.revision) == 40
        assert file.size is not None
        assert len(file.sha256 or "") == 64


@pytest.mark.parametrize(
    ("name", "repo"), [("vit_s", "timm/deit_small_patch16_224.fb_in1k"), ("pit_ti", "timm/pit_ti_224.in1k")]
)
def test_imagenet_without_a_known_digest_names_the_repository_to_ask_for(name, repo):
    with pytest.raises(InputError) as fault:
        load_initial("imagenet", BackboneConfig(name=name), 224)
    message = str(fault.value)
    assert message.startswith(f"--init=imagenet: no pinned ImageNet weights are known for {name}; ")
    assert f"give --init=hf:{repo}@REVISION" in message
    assert "\n" not in message


def test_a_backbone_without_imagenet_weights_is_asked_for_a_file():
    with pytest.raises(InputError, match=r"^--init=imagenet: no ImageNet weights are known for vit_s_2021; .*PATH$"):
        load_initial("imagenet", BackboneConfig(name="vit_s_2021"), 224)
