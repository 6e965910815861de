"""The Python in the pages on backbones and weights runs as it stands."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import simsiam_jax
from simsiam_jax.export import CARD_FILE, PROGRAM_FILE, WEIGHTS_FILE, export_features
from simsiam_jax.models import BACKBONES, Classifier, SimSiam, create_backbone
from simsiam_jax.models.registry import Backbone
from simsiam_jax.settings.schema import HeadConfig, ViewSpec
from simsiam_jax.weights import timm_code, to_timm
from simsiam_jax.weights.state_dicts import write_safetensors
from tests.support.timm_models import import_timm

PACKAGE = Path(simsiam_jax.__file__).parent


def _run(page, number):
    """The names that a page's fenced Python block leaves, counted from 0."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (PACKAGE / page).read_text(), re.DOTALL | re.MULTILINE)
    names = {"__name__": "block"}
    exec(compile(blocks[number], page, "exec"), names)
    return names


def test_the_backbones_of_the_page_are_those_of_the_registry():
    text = (PACKAGE / "models/README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| (\d+) \| ([\d,]+) \|", text, re.MULTILINE)
    assert [name for name, *_ in rows] == list(BACKBONES)
    for name, features, parameters in rows:
        module = create_backbone(name, 224)
        output, variables = jax.eval_shape(
            module.init_with_output, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        )
        assert output.shape == (1, int(features)), name
        count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        assert count == int(parameters.replace(",", "")), name


def test_a_backbone_and_simsiam_on_it_are_made_as_shown():
    names = _run("models/README.md", 0)
    assert names["z1"].shape == names["p2"].shape == (8, 256)
    assert names["features"].shape == (8, 128)


def test_the_backbone_shown_takes_part_once_it_is_registered(monkeypatch):
    mine = _run("models/README.md", 1)["Mine"]
    monkeypatch.setitem(BACKBONES, "mine", Backbone(mine))
    backbone = create_backbone("mine", 16, width=0.25, axis_name=None)
    images = jnp.zeros((2, 16, 16, 3))
    model = SimSiam(backbone, HeadConfig(projector_dim=8, predictor_dim=2))
    (p1, *_), variables = jax.jit(model.init_with_output)(jax.random.key(0), images, images)
    assert p1.shape == (2, 8)
    logits, _ = jax.eval_shape(Classifier(backbone, 3).init_with_output, jax.random.key(0), images)
    assert logits.shape == (2, 3)
    tree = {name: leaves["backbone"] for name, leaves in variables.items()}
    assert set(to_timm("mine", tree)) >= {"conv1.weight", "bn1.running_mean"}
    with pytest.raises(ValueError, match="--image_size=4: mine needs"):
        create_backbone("mine", 4)
    with pytest.raises(ValueError, match="no code builds Mine in timm"):
        timm_code(backbone, 16)


def test_timms_weights_go_in_and_out_as_shown():
    import_timm()
    names = _run("weights/README.md", 0)
    assert names["features"].shape == (2, 512)
    for key, value in names["network"].state_dict().items():
        np.testing.assert_array_equal(names["state_dict"][key], value.numpy(), err_msg=key)


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """A folder `exported` in the current one, of a tiny ResNet-18 with random weights for images of 16 pixels."""
    module = create_backbone("resnet18", 16, stem="paper32", width=1 / 16)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    folder = tmp_path / "exported"
    write_safetensors(folder / WEIGHTS_FILE, to_timm("resnet18", variables), {"format": "pt"})
    (folder / PROGRAM_FILE).write_bytes(export_features(module, variables, ViewSpec(16)).serialize())
    card = {"input": {"image_size": 16}, "timm": {"build": timm_code(module, 16)}}
    (folder / CARD_FILE).write_text(json.dumps(card))
    monkeypatch.chdir(tmp_path)
    return variables


def test_the_exported_program_runs_as_shown(exported):
    features = _run("weights/README.md", 1)["features"]
    assert features.shape == (5, 32)
    assert features.dtype == np.float32


def test_timm_loads_the_exported_weights_as_shown(exported):
    import_timm()
    model = _run("weights/README.md", 2)["model"]
    kernel = np.asarray(exported["params"]["conv1"]["kernel"]).transpose(3, 2, 0, 1)
    np.testing.assert_array_equal(model.state_dict()["conv1.weight"].numpy(), kernel)
