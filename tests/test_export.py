"""What goes out runs elsewhere: the weights in timm, the features in jax without this package, the card says what."""

import dataclasses
import datetime
import hashlib
import json
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from simsiam_jax.data.views import evaluation_view
from simsiam_jax.export import CARD_FILE, PLATFORMS, PROGRAM_FILE, WEIGHTS_FILE, export_features, export_model
from simsiam_jax.inference import open_model
from simsiam_jax.models import BACKBONES, create_backbone
from simsiam_jax.records.results import read_results
from simsiam_jax.settings.recipes import PRESETS, recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.settings.schema import ViewSpec
from simsiam_jax.study import run as studies
from simsiam_jax.study.definition import Arm, Study
from simsiam_jax.weights import from_timm, timm_code, to_timm
from simsiam_jax.weights.state_dicts import read_state_dict
from tests.support.launchers import launch, launch_in_one_process, refused
from tests.support.timm_models import import_timm


def _images(count, size):
    return np.random.default_rng(size).integers(0, 256, (count, size, size, 3), np.uint8)


def _tiny_config():
    """Pretraining of seconds, in bfloat16: what goes out has to be float32 all the same."""
    settings = {name: value for name, value in PRESETS["smoke"].items() if name != "seeds"}
    changes = {"width": 1 / 16, "epochs": 1, "pretrain_images": 64, "dtype": "bfloat16"}
    config = recipe_config("paper", dataset="digits", image_size=16)
    return with_settings(config, {**settings, **changes, "patch_size": None})


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The folder of a pretraining on digits, with kNN recorded in its workdir and beside it."""
    base = tmp_path_factory.mktemp("export")
    study = Study(
        experiment="pretrain",
        title="",
        question="",
        arms={"in_domain": Arm("in_domain", "digits")},
        config=_tiny_config(),
        seeds=(0,),
        evaluations=(),
        workdir=base / "runs",
        data_dir=base / "data",
        manual_dir=None,
        command="",
    )
    studies.run(study)
    folder = study.workdir / "in_domain" / "seed-0" / "pretrain"
    model = open_model(folder)
    evaluation = dataclasses.replace(
        study,
        experiment="evaluate",
        arms={"none": Arm("none", "no pretraining"), model.arm_name: Arm("digits", "digits")},
        evaluations=("knn",),
        workdir=folder.parent / "evaluate" / "digits-0",
    )
    studies.run_evaluations(evaluation, {("none", 0): None, (model.arm_name, 0): model.backbone})
    return folder


@pytest.fixture(scope="module")
def exported(pretrained, tmp_path_factory):
    """What the launcher wrote and printed."""
    out = tmp_path_factory.mktemp("exported") / "new" / "folder"
    result = launch("export", f"--checkpoint={pretrained}", f"--out={out}")
    assert result.returncode == 0, result.stderr
    return out, result.stdout


@pytest.fixture(scope="module")
def restored(pretrained):
    """The checkpoint's variables as the study restores them."""
    model = open_model(pretrained)
    assert (model.epoch, model.epochs_planned, model.ended) == (1, 1, True)
    return model.backbone


@pytest.fixture(scope="module")
def expected(restored):
    """Our own features of five images, in float32."""
    config = _tiny_config()
    module = create_backbone(config.program.backbone.name, config.image_size, **config.program.backbone.fields())
    return jax.jit(module.apply)(restored, evaluation_view(_images(5, 16), spec=config.program.views))


def test_the_card_tells_what_was_pretrained_how_and_how_well(exported, pretrained):
    out, printed = exported
    card = json.loads((out / CARD_FILE).read_text())
    # 64 × 1/16 channels in the first stage, eight times as many in the last.
    assert card["backbone"] | {"parameters": 0} == {
        "name": "resnet18",
        "fields": {"stem": "paper32", "width": 1 / 16},
        "features": 32,
        "parameters": 0,
    }
    assert card["input"]["image_size"] == 16
    assert card["input"]["mean"] == [0.485, 0.456, 0.406]  # ImageNet's
    assert card["input"]["std"] == [0.229, 0.224, 0.225]
    assert "16×16" in card["input"]["preprocessing"]

    evaluated = read_results(pretrained.parent / "evaluate" / "digits-0")
    # The card tells of this network alone, not of the untrained one beside it.
    results = read_results(pretrained.parents[2]) + [result for result in evaluated if result.arm != "none"]
    assert len(results) < len(read_results(pretrained.parents[2]) + evaluated)
    pretraining = card["pretraining"]
    told = ("data", "images", "recipe", "epochs", "epochs_planned", "seed", "arm", "experiment")
    assert [pretraining[name] for name in told] == ["digits", 64, "paper", 1, 1, 0, "in_domain", "pretrain"]
    assert pretraining["git_revision"] == results[0].git_revision
    assert pretraining["versions"] == results[0].versions
    assert pretraining["config"]["program"]["dtype"] == "bfloat16"
    assert card["export"]["versions"]["jax"] == jax.__version__

    measured = {(line["eval"], line["split"]): line["values"] for line in card["metrics"]}
    assert measured == {(result.eval, result.split): result.metrics for result in results}
    assert set(measured) == {(name, s) for name, s in [("pretrain", "train"), ("knn", "test")]} | {
        (name, "validation") for name in ("pretrain", "knn")
    }
    assert {line["labels_per_class"] for line in card["metrics"] if line["eval"] == "knn"} == {5}

    for name in (WEIGHTS_FILE, PROGRAM_FILE):
        content = (out / name).read_bytes()
        assert card["files"][name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert str(out / name) in printed
    assert sorted(path.name for path in out.iterdir()) == sorted([WEIGHTS_FILE, PROGRAM_FILE, CARD_FILE])


def test_the_card_says_which_jax_wrote_the_program_and_how_long_its_promise_lasts(exported):
    program = json.loads((exported[0] / CARD_FILE).read_text())["jax"]
    assert program["version"] == jax.__version__
    assert program["needs"] == "jax and flatbuffers"
    # Six months, of a test that may run over midnight.
    left = datetime.date.fromisoformat(program["promised_until"]) - datetime.date.today()
    assert left.days in (181, 182)


def test_the_weights_come_back_bit_for_bit(exported, restored):
    config, path = _tiny_config(), exported[0] / WEIGHTS_FILE
    back = from_timm("resnet18", read_state_dict(path), config.image_size, **config.program.backbone.fields())
    assert jax.tree.structure(back) == jax.tree.structure(restored)
    jax.tree.map(np.testing.assert_array_equal, back, restored)
    with safetensors.safe_open(path, framework="numpy") as file:
        header = file.metadata()
    assert (header["format"], header["pretrained_on"], header["epochs"]) == ("pt", "digits", "1")


def test_timm_loads_the_weights_as_the_card_says_and_gives_the_same_features(exported, expected, monkeypatch):
    torch, _ = import_timm()
    out, printed = exported
    card = json.loads((out / CARD_FILE).read_text())
    assert "strict=True" in card["timm"]["load"]
    assert all(line in printed for line in card["timm"]["build"].splitlines())
    monkeypatch.chdir(out)
    namespace = {}
    exec(card["timm"]["build"] + card["timm"]["load"], namespace)
    mean, std = (torch.tensor(card["input"][name]) for name in ("mean", "std"))
    images = ((torch.from_numpy(_images(5, 16)) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = namespace["model"](images).numpy()
    assert np.abs(features).max() > 0.1
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4)


def test_the_program_runs_on_batches_of_any_size_without_this_package(exported, expected, tmp_path):
    out, _ = exported
    np.save(tmp_path / "images.npy", _images(5, 16))
    load = json.loads((out / CARD_FILE).read_text())["jax"]["load"]
    code = f"""
import sys
for name in ("simsiam_jax", "flax", "orbax", "torch"):
    sys.modules[name] = None  # an import of it would fail
{load}
import numpy as np
images = np.load({str(tmp_path / "images.npy")!r})
np.savez({str(tmp_path / "features.npz")!r}, five=features(images), two=features(images[:2]))
"""
    result = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=out, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    with np.load(tmp_path / "features.npz") as features:
        assert features["five"].dtype == np.float32
        np.testing.assert_allclose(features["five"], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(features["two"], expected[:2], rtol=0, atol=1e-5)


def test_a_checkpoint_without_its_workdir_goes_out_with_what_is_known(pretrained, tmp_path):
    folder = tmp_path / "moved"
    folder.symlink_to(pretrained)
    card = export_model(folder, tmp_path / "out")
    assert card["metrics"] == []
    assert card["pretraining"]["images"] is None
    assert card["pretraining"]["git_revision"] is None
    assert card["pretraining"]["epochs"] == 1
    assert json.loads((tmp_path / "out" / CARD_FILE).read_text()) == card


def test_nothing_that_was_exported_is_overwritten(exported, pretrained):
    out, _ = exported
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    refused(launch("export", f"--checkpoint={pretrained}", f"--out={out}"), f"--out={out}", "new folder", CARD_FILE)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_mistakes_are_one_line(pretrained, tmp_path):
    (tmp_path / "file").write_text("")
    there = f"--checkpoint={pretrained}"
    mistakes = {
        (f"--out={tmp_path / 'new'}",): ("--checkpoint=WORKDIR/ARM/seed-K/pretrain or finetune is needed",),
        (f"--checkpoint={tmp_path}", "--out=x"): (f"--checkpoint={tmp_path}", "no folder of a pretraining"),
        (f"--checkpoint={pretrained.parents[2] / 'report'}", "--out=x"): ("does not exist", "seed-K/pretrain"),
        (there,): ("--out",),
        (there, f"--out={tmp_path / 'file'}"): ("--out", "is a file"),
        (there, f"--out={tmp_path / 'file' / 'new'}"): ("--out", "cannot be written"),
    }
    results = launch_in_one_process([["export", *flags] for flags in mistakes])
    for result, words in zip(results, mistakes.values(), strict=True):
        refused(result, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _drawn(path, leaf):
    """A variable away from the zero or one that it begins with."""
    drawn = np.random.default_rng(leaf.size).normal(size=leaf.shape).astype(np.float32)
    if path[-1].key == "kernel":
        return drawn / np.sqrt(leaf.size / leaf.shape[-1], dtype=np.float32)
    return 1 + 0.5 * np.tanh(drawn) if path[-1].key in ("scale", "var") else 0.1 * drawn


# Few channels and blocks: the program is longer with more of them, but no other.
SMALL = {
    "vit_s": {"patch_size": 8, "depth": 2},
    "vit_s_2021": {"patch_size": 8, "depth": 2},
    "pit_ti": {"patch_size": 8, "depths": (1, 1, 1)},
}


@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_backbones_classifier_loads_strictly_in_timm(name):
    torch, _ = import_timm()
    # timm's names are those of the published depths.
    patches = {"patch_size": 8} if name in SMALL else {}
    module = create_backbone(name, 32, width=0.125, **patches)
    shapes = jax.eval_shape(
        module.init_with_output, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    )
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes[1])
    # Weights of no effect, so that the outputs are the classifier's bias.
    head = {"kernel": np.zeros((shapes[0].shape[1], 3), np.float32), "bias": np.array([1, 2, 3], np.float32)}
    tensors = {key: torch.from_numpy(value) for key, value in to_timm(name, variables, head).items()}
    namespace = {}
    exec(timm_code(module, 32, num_classes=3), namespace)
    namespace["model"].load_state_dict(tensors, strict=True)
    with torch.no_grad():
        outputs = namespace["model"].eval()(torch.zeros(2, 3, 32, 32))
    np.testing.assert_array_equal(outputs.numpy(), [[1, 2, 3]] * 2)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_every_backbones_program_gives_its_features_for_any_batch_on_any_platform(name):
    fields = {"width": 0.125, **SMALL.get(name, {})}
    module = create_backbone(name, 32, **fields)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    variables, spec = jax.tree_util.tree_map_with_path(_drawn, shapes), ViewSpec(32)
    program = jax.export.deserialize(export_features(module, variables, spec).serialize())
    assert program.platforms == PLATFORMS
    # What a CPU computes otherwise is still there as the convolution that others want.
    convolutions = [line for line in program.mlir_module().splitlines() if "stablehlo.convolution" in line]
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        if path[-1].key == "kernel" and leaf.ndim == 4:
            kernel = f"tensor<{'x'.join(map(str, leaf.shape))}xf32>"
            assert any(kernel in line for line in convolutions), kernel
    images = _images(3, 32)
    expected = jax.jit(module.apply)(variables, evaluation_view(images, spec=spec))
    assert np.abs(expected).max() > 0.02
    np.testing.assert_allclose(program.call(images), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(program.call(images[:1]), expected[:1], rtol=0, atol=1e-5)
