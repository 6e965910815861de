"""The audit of the GPU program: its files and table, compiled programs, and the bounds on our own."""

import importlib.util
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.benchmark.audit import table
from experiments.benchmark.audit.counts import count, divide
from experiments.benchmark.audit.launches import launches
from experiments.benchmark.audit.record import audit, compile_program
from experiments.benchmark.audit.target import topology
from simsiam_jax.errors import InputError
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.study.programs import CompiledNetwork
from tests.support.launchers import launch, refused

# Bounds on a micro-step of ResNet-18 with the stem paper32 at 32×32, 64×8, bfloat16, on one H100, and what was counted.
MOST_KERNELS = 70  # 67
MOST_BYTES = 1.1e9  # 1.07e9
MOST_SECONDS = 370e-6  # 362e-6
MOST_LAUNCHES = 20  # 18
# The same of ViT-S at 32×32 with patches of 4 and a quarter of its width.
MOST_KERNELS_OF_VIT = 155

has_plugin = all(importlib.util.find_spec(name) for name in ("jax_plugins", "jax_plugins.xla_cuda13"))
needs_plugin = pytest.mark.skipif(
    not has_plugin and "SIMSIAM_REQUIRE_AUDIT" not in os.environ,
    reason="jax's CUDA plugin is not installed: pip install -e .[audit]",
)


def record(**changes):
    values = {
        "backbone": "resnet18",
        "stem": "paper32",
        "width": 1.0,
        "image_size": 32,
        "dtype": "bfloat16",
        "stage": "pretrain",
        "devices": 1,
        "images_of_a_step": 64,
        "step": {
            "kernels": 554.0,
            "small_kernels": 215.0,
            "convolutions": {"forward bf16": 28.0, "weight gradient bf16": 16.0, "forward f32": 0.25},
            "float32_convolutions": 0.25,
            "layout_changes": 84.0,
            "bytes": 2.36682e9,
            "flop": 106.753e9,
            "seconds": 733.954e-6,
            "arithmetic_seconds": 108.6e-6,
            "collective_bytes": 52.6e6,
        },
        "launches": {"launches": 137.0, "buffers": 29.0, "conditionals": 8.0, "open_loops": 1.0},
        "memory": {"peak": 3e9, "temporary": 1e9},
    }
    return values | changes


def test_the_table_has_a_row_for_each_file(tmp_path):
    for values in (record(), record(width=0.25, devices=8)):
        (tmp_path / table.file_name(values)).write_text(json.dumps(values))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "audit-resnet18-paper32-32-bfloat16-pretrain-width0.25-8devices.json",
        "audit-resnet18-paper32-32-bfloat16-pretrain.json",
    ]
    head, _, *rows = table.markdown_table(table.read_records(tmp_path)).splitlines()
    assert len(rows) == 2
    cells = dict(zip(head.split(" | "), rows[1].split(" | "), strict=True))
    assert cells["| program"] == "| resnet18 paper32, 32×32, bfloat16, pretrain, 64 images"
    assert list(cells.values())[1:12] == ["554", "215", "44.2", "0.25", "84", "2,367", "107", "734", "109", "137", "29"]
    # The host waits at each conditional, and for a loop whose end it does not know.
    assert [cells[name] for name in ("host syncs", "all-reduced MB", "peak MB")] == ["9", "52.6", "3,000"]
    assert rows[1].endswith("| 3,000 | 1,000 |")


def test_a_damaged_record_is_named(tmp_path):
    with pytest.raises(InputError, match=r"holds no audit-\*\.json"):
        table.read_records(tmp_path)
    (tmp_path / "audit-x.json").write_text("{}")
    with pytest.raises(InputError, match=r"audit-x\.json is damaged"):
        table.read_records(tmp_path)


def test_a_missing_plugin_is_told_with_what_to_install(monkeypatch):
    def refuse(**_):
        raise RuntimeError("no platform cuda")

    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(InputError, match=r"pip install -e \"\.\[audit\]\""):
        topology(1)


def compiled_for(cards, function, *arguments):
    """A function of arrays with one row for each card, compiled for so many H100."""
    devices = topology(cards).devices
    shared = NamedSharding(Mesh(np.array(devices), ("card",)), PartitionSpec("card"))
    described = [jax.ShapeDtypeStruct((cards, *each.shape), each.dtype, sharding=shared) for each in arguments]
    return compile_program(jax.pmap(function, axis_name="card", devices=devices).lower(*described))


def convolved(images, kernel):
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@needs_plugin
@pytest.mark.parametrize(("dtype", "caught"), [(jnp.float32, 1), (jnp.bfloat16, 0)])
def test_a_float32_convolution_of_a_compiled_program_is_caught(dtype, caught):
    images, kernel = jnp.zeros((8, 16, 16, 32), dtype), jnp.zeros((3, 3, 32, 64), dtype)
    compiled = compiled_for(1, convolved, images, kernel)
    found = count(divide(compiled.program, steps=1).step)
    assert found.float32_convolutions == caught
    assert found.flop == 2 * (8 * 16 * 16 * 64) * (3 * 3 * 32)
    assert launches(compiled.thunks, {}).launches == found.kernels
    # Images, kernel and result at least.
    assert compiled.memory["peak"] >= images.nbytes + kernel.nbytes + images.nbytes * 2


@needs_plugin
def test_the_bytes_that_cards_exchange_are_those_of_the_array():
    compiled = compiled_for(2, lambda x: lax.pmean(x, "card"), jnp.zeros(1000))
    found = count(divide(compiled.program, steps=1).step)
    assert (found.collectives, found.collective_bytes) == ({"all-reduce": 1}, 4000)


@needs_plugin
def test_the_command_writes_a_record_and_prints_the_table(tmp_path):
    flags = ("--width=0.125", "--stage=features", f"--out={tmp_path}", "--top=3")
    printed = launch("benchmark.audit", *flags)
    assert printed.returncode == 0, printed.stderr
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    # ResNet-18's twenty convolutions, in bfloat16 without being asked.
    assert found["step"]["convolutions"] == {"forward bf16": 20}
    assert table.markdown_table([found]) in printed.stdout
    again = launch("benchmark.audit", f"--summarise={tmp_path}")
    assert again.stdout.strip() == table.markdown_table([found])


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--stage=train", ("--stage=train", "pretrain, finetune, features")),
        ("--xla_flags=gpu_x=1", ("--xla_flags", "'gpu_x=1'")),
        ("--devices=3", ("--devices=3", "64 images", "--stage=pretrain")),
    ],
)
def test_a_flag_that_cannot_be_followed_is_refused(flag, words):
    refused(launch("benchmark.audit", flag), *words)


def assert_nothing_waits(found):
    host = found["launches"]
    assert host["conditionals"] == host["open_loops"] == found["step"]["endless_loops"] == 0
    assert found["step"]["float32_convolutions"] == 0


def pretraining(**changes):
    config = recipe_config("paper", dataset="digits", image_size=32)
    return with_settings(config, {"dtype": "bfloat16", "patch_size": None, **changes})


@needs_plugin
@pytest.mark.slow
def test_resnet18s_pretraining_keeps_within_its_bounds():
    found, _ = audit(pretraining(), "pretrain", devices=1)
    step = found["step"]
    assert step["kernels"] <= MOST_KERNELS
    assert step["bytes"] <= MOST_BYTES
    assert step["seconds"] <= MOST_SECONDS
    assert found["launches"]["launches"] <= MOST_LAUNCHES
    assert_nothing_waits(found)
    # Twenty convolutions forwards, their gradients by the weights, and all but the first one's by the images, once in
    # eight micro-batches.
    assert 8 * sum(step["convolutions"].values()) == 20 + 20 + 19


@needs_plugin
@pytest.mark.slow
def test_a_transformers_pretraining_keeps_within_its_bounds():
    config = pretraining(backbone="vit_s", stem=None, patch_size=4, width=0.25)
    found, _ = audit(config, "pretrain", devices=1)
    assert found["step"]["kernels"] <= MOST_KERNELS_OF_VIT
    assert_nothing_waits(found)


@needs_plugin
@pytest.mark.slow
def test_passing_micro_batches_one_by_one_would_break_the_bounds():
    found, _ = audit(pretraining(width=0.25), "pretrain", devices=1, at_once=1)
    assert found["step"]["kernels"] > 4 * MOST_KERNELS


@needs_plugin
@pytest.mark.slow
def test_eight_cards_exchange_the_gradients_once_an_update():
    config = pretraining(width=0.25)
    found, _ = audit(config, "pretrain", devices=8)
    network = CompiledNetwork(config.program)
    params = jax.eval_shape(lambda: network.initial_simsiam(0))["params"]
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    # Eight micro-steps of an update: the gradients once, and the statistics of batch norms.
    assert gradients <= 8 * found["step"]["collective_bytes"] <= 1.2 * gradients
