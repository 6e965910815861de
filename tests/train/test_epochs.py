"""The forms of an update train alike, and the one that needs the least memory is found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.feed import gather
from simsiam_jax.errors import InputError
from simsiam_jax.models import SimSiam, create_backbone
from simsiam_jax.settings.schema import HeadConfig, MethodConfig, OptimizerConfig, ScheduleConfig, ViewSpec
from simsiam_jax.train import epochs
from simsiam_jax.train.devices import AXIS, UnderWay
from simsiam_jax.train.epochs import choose_at_once, compile_scan, compile_update, epoch_runner, memory_of
from simsiam_jax.train.loop import make_plan
from simsiam_jax.train.optimizer import create_optimizer
from simsiam_jax.train.state import create_state
from simsiam_jax.train.steps import Hyper, pretraining, whole_update

SIZE, MICRO_BATCH, ACCUMULATION = 32, 8, 4
SPEC = ViewSpec(SIZE, saturation=0.0, hue=0.0, greyscale_probability=0.0, blur_probability=0.0)
# Few channels and blocks, and stochastic depth where there is any.
NETWORKS = {
    "resnet18": {"width": 1 / 16, "stem": "paper32"},
    "efficientnet_b0": {"width": 0.125, "stem": "cifar", "drop_path": 0.5},
    "vit_s": {"width": 0.125, "patch_size": 8, "depth": 2, "drop_path": 0.5},
    "pit_ti": {"width": 0.25, "patch_size": 8, "depths": (1, 1, 1), "drop_path": 0.5},
}
# CI runs one network of convolutions, and one of attention with stochastic depth in the first of two tests.
MARKS = dict.fromkeys(NETWORKS, pytest.mark.exhaustive) | {"resnet18": ()}


def training_of(name):
    """An update of SimSiam with SGD, and the network's variables.

    Adam would divide the gradients of some parameters, which are nothing but rounding, by their own size.
    """
    backbone = create_backbone(name, SIZE, **NETWORKS[name], axis_name=AXIS)
    model = SimSiam(backbone, HeadConfig(projector_dim=16, predictor_dim=4), axis_name=AXIS)
    variables = jax.jit(model.init)(jax.random.key(0), *2 * [jnp.zeros((1, SIZE, SIZE, 3))])
    optimizer = create_optimizer(OptimizerConfig("sgd"))
    return pretraining(model=model, optimizer=optimizer, views=SPEC, method=MethodConfig()), variables


@pytest.fixture(scope="module")
def split():
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3)).astype(np.uint8)
    ids = np.arange(64, dtype=np.int32)
    return ImageSplit(images.repeat(8, axis=1).repeat(8, axis=2), ids % 2, ids, "test")


def planned():
    return make_plan(
        64,
        schedule=ScheduleConfig(learning_rate=0.05),
        micro_batch_size=MICRO_BATCH,
        accumulation=ACCUMULATION,
        epochs=1,
        seed=0,
    )


def epoch_of(name, split, form):
    """The state and metrics after an epoch of two updates, and what was shown meanwhile."""
    update, variables = training_of(name)
    shown = []
    run = epoch_runner(compile_update(update, accumulation=ACCUMULATION, form=form, platform="cpu"))
    state = create_state(variables, update.optimizer)
    state, metrics, _ = jax.device_get(run(state, split, *planned().epoch(0), lambda *each: shown.append(each)))
    return state, metrics, shown


def assert_alike(got, expected, tolerance=2e-4):
    """Every leaf is the other's within rounding, relative to the largest number of the leaf."""

    def check(path, a, b):
        # Sums of gradients that cancel round by the size of what is summed: no leaf is judged finer than at 0.02.
        scale = max(float(np.abs(b).max()), 0.02)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(check, got, expected)


def networks(**marks):
    return [pytest.param(name, marks={**MARKS, **marks}[name]) for name in NETWORKS]


@pytest.mark.parametrize("name", networks(vit_s=pytest.mark.slow))
def test_one_pass_a_loop_and_multi_steps_end_an_epoch_alike_on_two_devices(name, split):
    assert jax.local_device_count() == 2
    results = {form: epoch_of(name, split, form) for form in ("one_pass", "loop", "multi_steps")}
    expected, metrics, _ = results["multi_steps"]
    assert expected.step == 2
    for form in ("one_pass", "loop"):
        state, measured, _ = results[form]
        assert_alike(state, expected)
        for metric in ("loss", "z_spread"):
            np.testing.assert_allclose(np.mean(measured[metric]), np.mean(metrics[metric]), rtol=1e-4, atol=1e-5)
    # A loop shows each micro-step, one pass all of them at once.
    assert [[steps for steps, _, _ in results[form][2]] for form in ("loop", "one_pass")] == [[1] * 8, [8]]


@pytest.mark.parametrize("name", networks())
def test_on_one_device_as_on_two_a_scan_over_parts_of_a_group_makes_the_update_of_one_pass(name, split):
    update, variables = training_of(name)
    indices, hypers = planned().epoch(0)
    group = gather(split, indices[0])
    hyper = Hyper(*(values[0] for values in hypers))
    found = {}
    for devices in (1, 2):
        shares = jax.tree.map(lambda part, n=devices: np.stack(np.split(part, n, axis=1)), group)
        for at_once in (1, 2, ACCUMULATION):
            if devices == 2 and at_once == 2:
                continue
            step = epochs.compile_step(whole_update(update, at_once=at_once), jax.local_devices()[:devices])
            state = create_state(variables, update.optimizer)
            found[devices, at_once] = jax.device_get(step(state, shares, hyper))
    whole, measured = found[1, ACCUMULATION]
    for state, metrics in found.values():
        assert_alike(state, whole)
        assert metrics["loss"] == pytest.approx(float(measured["loss"]), abs=1e-5)
    # Something was learned that could differ.
    moved = (
        found[1, ACCUMULATION][0].params["projector"]["fc1"]["kernel"]
        - variables["params"]["projector"]["fc1"]["kernel"]
    )
    assert float(np.abs(moved).max()) > 1e-4


@pytest.mark.parametrize(
    ("memory", "at_once"), [(1000, 8), (900, 8), (899, 4), (500, 4), (499, 2), (300, 2), (200, 1), (10, 1)]
)
def test_as_many_micro_batches_pass_at_once_as_have_room(memory, at_once):
    # 100 bytes for whatever the number, and 100 for each micro-batch.
    assert choose_at_once(8, temporary=800, fixed=100, memory=memory) == at_once


def test_where_memory_is_short_a_group_is_a_scan_and_ends_alike(split, monkeypatch):
    whole, _, _ = epoch_of("resnet18", split, "one_pass")
    update, variables = training_of("resnet18")
    indices, hypers = planned().epoch(0)
    groups = jax.tree.map(lambda part: np.stack(np.split(part, 2, axis=2)), gather(split, indices))
    state = jax.eval_shape(lambda: create_state(variables, update.optimizer))
    needed = sum(memory_of(compile_scan(whole_update(update)).lower(state, groups, hypers).compile()))
    passes = []

    def counted(update, *, at_once=None):
        passes.append(at_once)
        return whole_update(update, at_once=at_once)

    monkeypatch.setattr(epochs, "whole_update", counted)
    for memory, expected in ((2 * needed, [None]), (needed, [None, 2])):
        passes.clear()
        monkeypatch.setattr(epochs, "device_memory", lambda memory=memory: memory)
        state, _, _ = epoch_of("resnet18", split, "scan")
        assert passes == expected
        assert_alike(state, whole)


def test_arms_with_other_micro_batches_share_an_update(split):
    update, variables = training_of("resnet18")
    run = epoch_runner(compile_update(update, form="one_pass", platform="cpu"))
    for size in (8, 16):
        plan = make_plan(32, schedule=ScheduleConfig(learning_rate=0.05), micro_batch_size=size, epochs=1, seed=0)
        part = run(create_state(variables, update.optimizer), split, *plan.epoch(0), lambda *_: None)
        assert (int(part.state.step), len(part.metrics["loss"]), part.updates) == (32 // size,) * 3


def test_an_unknown_form_is_refused():
    update, _ = training_of("resnet18")
    with pytest.raises(InputError, match=r"^--accumulate_by=pairs: unknown form; known: auto, one_pass, scan"):
        compile_update(update, form="pairs", platform="cpu")


def test_auto_is_a_loop_on_a_cpu_and_many_updates_a_call_elsewhere():
    update, _ = training_of("resnet18")
    indices = np.zeros((6, ACCUMULATION, MICRO_BATCH), np.int32)
    calls = {
        platform: compile_update(update, accumulation=ACCUMULATION, platform=platform).calls_of(indices, 100)
        for platform in ("cpu", "gpu", "tpu")
    }
    assert [len(each) for each in calls.values()] == [6 * ACCUMULATION, 1, 1]


def test_a_cpu_waits_for_calls_that_take_long_and_for_no_quick_ones(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("simsiam_jax.train.devices.time.monotonic", lambda: now[0])

    def waited(frugal, seconds, calls=6):
        under_way, found = UnderWay(frugal), []
        for call in range(calls):
            now[0] += seconds
            found.append(under_way.add(call))
        return [*found, under_way.rest()]

    long = [[0], [1], [2], [3], [4], [5], []]
    quick = [[0], [], [], [1], [2], [3], [4, 5]]
    assert waited(True, 1.0) == long
    assert waited(True, 0.01) == quick
    # An accelerator's queue is never left empty.
    assert waited(False, 1.0) == [[], [], [0], [1], [2], [3], [4, 5]]
