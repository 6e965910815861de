"""Steps and loop on a tiny SimSiam: an ordinary ResNet-18 of width 1/16 on 16×16 noise with a bright square."""

import dataclasses
import json
import math
import re
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simsiam_jax import stopping
from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.feed import epoch_order, gather, in_batches
from simsiam_jax.errors import DivergenceError, InputError
from simsiam_jax.losses import classification_loss
from simsiam_jax.models import Classifier, SimSiam, create_backbone
from simsiam_jax.settings.schema import HeadConfig, MethodConfig, OptimizerConfig, ScheduleConfig, ViewSpec
from simsiam_jax.train.devices import AXIS
from simsiam_jax.train.epochs import compile_step, compile_update, epoch_runner
from simsiam_jax.train.loop import fit, make_plan
from simsiam_jax.train.optimizer import create_optimizer
from simsiam_jax.train.outputs import bind, clean_outputs, compile_outputs, over_split
from simsiam_jax.train.state import create_state
from simsiam_jax.train.steps import Hyper, finetuning, known_share, micro_step, pretraining
from tests.support.sharding import shard

SIZE = 16
# Grey images: nothing for saturation and hue to do, so the programs are smaller.
SPEC = ViewSpec(SIZE, saturation=0.0, hue=0.0, greyscale_probability=0.0, blur_probability=0.0)
OPTIMIZER = OptimizerConfig()
SCHEDULE = ScheduleConfig(warmup_epochs=1.0, schedule="cosine")


@pytest.fixture(scope="module")
def split():
    draw = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int32) % 2
    images = draw.integers(0, 100, (40, SIZE, SIZE, 1)).repeat(3, axis=3).astype(np.uint8)
    images[labels == 1, 4:12, 4:12] += 150
    return ImageSplit(images, labels, np.arange(40, dtype=np.int32), "test")


@pytest.fixture(scope="module")
def model():
    backbone = create_backbone("resnet18", SIZE, stem="paper32", width=1 / 16, axis_name=AXIS)
    return SimSiam(backbone, HeadConfig(projector_dim=16, predictor_dim=4), axis_name=AXIS)


@pytest.fixture(scope="module")
def variables(model):
    image = jnp.zeros((1, SIZE, SIZE, 3))
    return jax.jit(model.init)(jax.random.key(0), image, image)


def _update(model):
    return pretraining(model=model, optimizer=create_optimizer(OPTIMIZER), views=SPEC, method=MethodConfig())


@pytest.fixture(scope="module")
def run_epoch(model):
    return epoch_runner(compile_update(_update(model), platform="cpu"))


def _hyper(rate=1e-2, epoch=0):
    return Hyper(np.float32(rate), np.float32(rate), np.uint32(0), np.int32(epoch))


def _assert_close(got, expected, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, expected)


def _assert_equal(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.fixture(scope="module")
def on_devices(model, variables, split):
    """Two steps of SGD on one device, and on two with each device's copy, of which out_axes=None takes one unseen."""
    optimizer = create_optimizer(OptimizerConfig(name="sgd"))
    step = micro_step(pretraining(model=model, optimizer=optimizer, views=SPEC, method=MethodConfig()))
    one = compile_step(step, jax.local_devices()[:1])
    two = jax.pmap(step, axis_name=AXIS, in_axes=(None, 0, None), out_axes=(0, 0))
    states = []
    for devices, compiled in ((1, one), (2, two)):
        state = create_state(variables, optimizer)
        for number in range(2):
            rows = np.arange(8) + 8 * number
            state, metrics = compiled(state, shard(gather(split, rows), devices), _hyper())
            if devices == 2:
                copies = jax.device_get((state, metrics))
                state = jax.tree.map(lambda leaf: leaf[0], copies[0])
        states.append(jax.device_get((state, metrics)))
    return states[0], copies


def test_two_devices_give_the_parameters_of_one(on_devices):
    assert jax.local_device_count() == 2
    (one, one_metrics), copies = on_devices
    two, two_metrics = jax.tree.map(lambda leaf: leaf[0], copies)
    # Batch statistics over both devices: without the synchronisation they differ by about 1e-2.
    _assert_close(two.batch_stats, one.batch_stats, rtol=1e-3, atol=2e-4)
    _assert_close(two.params, one.params, rtol=1e-3, atol=2e-4)
    _assert_close(two_metrics["loss"], one_metrics["loss"], rtol=1e-3, atol=1e-4)


def test_the_state_is_equal_on_both_devices(on_devices):
    for leaf in jax.tree.leaves(on_devices[1]):
        np.testing.assert_array_equal(leaf[0], leaf[1])


def test_either_feed_compiles_the_step_once_and_ends_an_epoch_with_the_same_bits(model, variables, split):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: compiled.append(event))
    plan = make_plan(24, schedule=SCHEDULE, micro_batch_size=8, epochs=1, seed=0)
    ended = []
    # Three steps; a state that comes back in another layout than it went in would be compiled for again. The resident
    # feed has a program that picks a batch.
    for feed, programs in (("streamed", 1), ("resident", 2)):
        state = create_state(variables, create_optimizer(OPTIMIZER))
        run = epoch_runner(compile_update(_update(model), platform="cpu"), feed)
        compiled.clear()
        ended.append(jax.device_get(run(state, split, *plan.epoch(0), lambda *_: None)))
        assert compiled.count("/jax/core/compile/backend_compile_duration") == programs
    _assert_equal(*ended)


def test_scan_and_loop_train_alike_and_scans_from_either_feed_to_the_same_bits(model, variables, split, run_epoch):
    plan = make_plan(24, schedule=SCHEDULE, micro_batch_size=8, epochs=1, seed=0)
    indices, hypers = plan.epoch(0)
    shown = []
    results = []
    scans = [
        epoch_runner(compile_update(_update(model), form="one_pass", platform="cpu"), feed)
        for feed in ("resident", "streamed")
    ]
    for run in (run_epoch, *scans):
        state = create_state(variables, create_optimizer(OPTIMIZER))
        results.append(jax.device_get(run(state, split, indices, hypers, lambda *a: shown.append(a)))[:2])
    (looped, loop_metrics), (scanned, scan_metrics), streamed = results
    np.testing.assert_allclose(scan_metrics["loss"], loop_metrics["loss"], rtol=1e-3, atol=1e-4)
    _assert_close(scanned.batch_stats, looped.batch_stats, rtol=1e-2, atol=1e-3)
    _assert_equal((scanned, scan_metrics), streamed)
    assert [steps for steps, _, _ in shown] == [1, 1, 1, 3, 3]


def test_the_predictor_keeps_its_learning_rate(variables, split, run_epoch):
    hypers = Hyper(*(np.array([value]) for value in _hyper()))._replace(learning_rate=np.zeros(1, np.float32))
    start = create_state(variables, create_optimizer(OPTIMIZER))
    state = run_epoch(start, split, np.arange(8)[None, None], hypers, lambda *_: None).state
    _assert_equal(state.params["backbone"], variables["params"]["backbone"])
    before, after = (tree["predictor"]["fc2"]["kernel"] for tree in (variables["params"], state.params))
    assert float(jnp.abs(after - before).max()) > 1e-3


def test_an_epoch_shows_every_image_once_in_an_order_of_seed_and_epoch():
    orders = {(seed, epoch): epoch_order(50, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)}
    assert len({tuple(order) for order in orders.values()}) == 4
    for (seed, epoch), order in orders.items():
        assert sorted(order) == list(range(50))
        np.testing.assert_array_equal(order, epoch_order(50, seed=seed, epoch=epoch))


def test_accumulation_sees_the_images_of_one_large_batch():
    whole = make_plan(100, schedule=SCHEDULE, micro_batch_size=32, epochs=2, seed=3)
    parts = make_plan(100, schedule=SCHEDULE, micro_batch_size=8, accumulation=4, epochs=2, seed=3)
    for epoch in (0, 1):
        (a, a_hyper), (b, b_hyper) = whole.epoch(epoch), parts.epoch(epoch)
        np.testing.assert_array_equal(a.reshape(-1), b.reshape(-1))
        np.testing.assert_array_equal(a_hyper.learning_rate, b_hyper.learning_rate)


def test_accumulation_longer_than_an_epoch_is_refused():
    with pytest.raises(InputError, match=r"--accumulation=5: an epoch of 64 images has only 4 micro-batches of 16"):
        make_plan(64, schedule=SCHEDULE, micro_batch_size=16, accumulation=5, epochs=1, seed=0)


def test_batches_of_an_evaluation_cover_every_image_once():
    batches = in_batches(10, 4)
    assert batches.shape == (3, 4)
    assert list(batches.reshape(-1)[:10]) == list(range(10))
    assert set(batches.reshape(-1)[10:]) == {9}


def test_outputs_come_back_in_order_whatever_the_batch_size(model, variables, split):
    compiled = compile_outputs(bind(clean_outputs, model=model.backbone, views=SPEC))
    backbone = {name: tree["backbone"] for name, tree in variables.items()}
    whole = over_split(compiled, backbone, split, batch_size=40)["outputs"]
    parts = over_split(compiled, backbone, split, batch_size=6)["outputs"]
    assert whole.shape == (40, 32)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)
    assert np.linalg.norm(whole[0] - whole[1]) > 1e-3


class _Stopped(Exception):
    pass


def _fit(model, variables, split, run_epoch, folder, stop_after=None, epochs=3, schedule=SCHEDULE, **options):
    folder.mkdir(exist_ok=True)

    def measure(state, epoch):
        if epoch == stop_after:
            raise _Stopped
        return {"sum": float(jnp.sum(state.params["predictor"]["fc2"]["bias"]))}

    plan = make_plan(len(split), schedule=schedule, micro_batch_size=8, epochs=epochs, seed=0)
    state = create_state(variables, create_optimizer(OPTIMIZER))
    return fit(state, split, plan, run_epoch, measure=measure, folder=folder, title="test", **options)


def _without_speed(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in ("images_per_second", "digest")} for line in lines
    ]


def test_an_interrupted_run_ends_with_the_numbers_of_an_undisturbed_one(
    model, variables, split, run_epoch, tmp_path, monkeypatch
):
    monkeypatch.setattr("simsiam_jax.train.loop._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    whole = _fit(model, variables, split, run_epoch, tmp_path / "whole")
    with pytest.raises(_Stopped):
        _fit(model, variables, split, run_epoch, tmp_path / "parts", stop_after=3)
    # What a killed process leaves behind: a line of an epoch that no checkpoint has, cut in the middle.
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')
    parts = _fit(model, variables, split, run_epoch, tmp_path / "parts")
    _assert_equal(jax.device_get(parts.state), jax.device_get(whole.state))
    logged = _without_speed(tmp_path / "parts" / "metrics.jsonl")
    assert logged == _without_speed(tmp_path / "whole" / "metrics.jsonl")
    assert [line["epoch"] for line in logged] == [1, 2, 3]
    assert [line["update"] for line in logged] == [5, 10, 15]


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_a_loss_that_is_not_finite_ends_the_stage_and_names_step_rate_and_checkpoint(
    model, variables, split, run_epoch, tmp_path, monkeypatch
):
    monkeypatch.setattr("simsiam_jax.train.loop._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    plan = make_plan(len(split), schedule=SCHEDULE, micro_batch_size=8, epochs=2, seed=0)
    # The third of five updates throws the parameters away, and the fourth loss says so.
    plan = dataclasses.replace(plan, rates=np.where(np.arange(10) == 2, np.float32(1e38), plan.rates))
    with pytest.raises(DivergenceError) as raised:
        fit(
            create_state(variables, create_optimizer(OPTIMIZER)),
            split,
            plan,
            run_epoch,
            measure=lambda *_: {},
            folder=tmp_path,
            title="test",
        )
    message = str(raised.value)
    pattern = r"^diverged at update 4: the loss is (nan|-?inf) in epoch 1 of test, at a learning rate of "
    assert re.search(pattern, message)
    assert "the last checkpoint is of update 3" in message
    assert not (tmp_path / "metrics.jsonl").read_text()


def test_a_parameter_that_is_not_finite_ends_the_stage_though_every_loss_is(
    model, variables, split, run_epoch, tmp_path
):
    def broken(*arguments, **options):
        part = run_epoch(*arguments, **{**options, "pause": lambda: False})
        params = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), part.state.params)
        return part._replace(state=dataclasses.replace(part.state, params=params))

    with pytest.raises(DivergenceError, match=r"^diverged at update 5: a parameter .*; there is no checkpoint"):
        _fit(model, variables, split, broken, tmp_path / "w", epochs=1)


def test_a_measured_number_that_is_not_finite_ends_the_stage_and_is_in_no_file(
    model, variables, split, run_epoch, tmp_path
):
    with pytest.raises(DivergenceError, match=r"^diverged at update 5: accuracy is nan in epoch 1 of test"):
        fit(
            create_state(variables, create_optimizer(OPTIMIZER)),
            split,
            make_plan(len(split), schedule=SCHEDULE, micro_batch_size=8, epochs=1, seed=0),
            run_epoch,
            measure=lambda *_: {"accuracy": math.nan},
            folder=tmp_path,
            title="test",
        )
    assert not (tmp_path / "metrics.jsonl").read_text()


def test_outputs_that_are_not_finite_are_no_outputs(split):
    def compiled(variables, batch, seed):
        return {"outputs": np.where(batch.sample_ids < 3, np.float32(np.nan), np.float32(1))[..., None]}

    with pytest.raises(DivergenceError, match=r"^diverged: outputs of 3 of 40 images are not finite$"):
        over_split(compiled, {}, split, batch_size=8)


@pytest.mark.parametrize("form", ["loop", pytest.param("multi_steps", marks=pytest.mark.exhaustive), "one_pass"])
def test_an_epoch_in_parts_ends_with_the_bits_of_a_whole_one(model, variables, split, form):
    plan = make_plan(32, schedule=SCHEDULE, micro_batch_size=4, accumulation=2, epochs=1, seed=0)
    indices, hypers = plan.epoch(0)
    run = epoch_runner(compile_update(_update(model), accumulation=2, form=form, platform="cpu"))

    def begin():
        return create_state(variables, create_optimizer(OPTIMIZER))

    def never(*_):
        pass

    whole = run(begin(), split, indices, hypers, never)
    assert whole.updates == 4
    state, losses, done = begin(), [], 0
    # The third question is answered with yes: where many updates are one call there is none to ask.
    while done < 4:
        questions = iter([False, True, True, True])
        state, metrics, done = run(state, split, indices, hypers, never, start=done, pause=lambda q=questions: next(q))
        losses.append(metrics["loss"])
    assert len(losses) == (1 if form == "one_pass" else 2)
    np.testing.assert_array_equal(np.concatenate(losses), whole.metrics["loss"])
    _assert_equal(jax.device_get(state), jax.device_get(whole.state))


@pytest.mark.parametrize("questions", [1, 2, 4, 7])
def test_a_signal_within_an_epoch_saves_there_and_loses_nothing(
    model, variables, split, run_epoch, tmp_path, monkeypatch, questions
):
    whole = _fit(model, variables, split, run_epoch, tmp_path / "whole", select="sum")
    left = iter(range(questions))
    monkeypatch.setattr(stopping, "asked", lambda: next(left, None) is None)
    monkeypatch.setattr(stopping._Wish, "number", signal.SIGTERM)
    with pytest.raises(stopping.Stopped):
        _fit(model, variables, split, run_epoch, tmp_path / "parts", select="sum")
    saved = max(int(path.name) for path in (tmp_path / "parts" / "checkpoints").iterdir())
    # Four questions within each epoch of five updates, and one at its end.
    assert saved == questions + 1
    monkeypatch.undo()
    seen = []

    def counting(state, split, indices, hypers, show, **options):
        part = run_epoch(state, split, indices, hypers, show, **options)
        seen.append(part.updates - options["start"])
        return part

    parts = _fit(model, variables, split, counting, tmp_path / "parts", select="sum")
    assert sum(seen) == 15 - saved
    _assert_equal(jax.device_get(parts.state), jax.device_get(whole.state))
    _assert_equal(parts.best, whole.best)
    assert _without_speed(tmp_path / "parts" / "metrics.jsonl") == _without_speed(tmp_path / "whole" / "metrics.jsonl")


def test_a_finished_stage_is_restored_and_not_trained_again(model, variables, split, run_epoch, tmp_path):
    first = _fit(model, variables, split, run_epoch, tmp_path / "stage", epochs=1)

    def never(*_):
        raise AssertionError("trained again")

    again = _fit(model, variables, split, never, tmp_path / "stage", epochs=1)
    _assert_equal(jax.device_get(again.state), jax.device_get(first.state))
    assert again.history == first.history


def test_the_untrained_network_is_measured_as_epoch_0_and_training_is_the_same(
    model, variables, split, run_epoch, tmp_path, monkeypatch
):
    monkeypatch.setattr("simsiam_jax.train.loop._SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    plainly = _fit(model, variables, split, run_epoch, tmp_path / "plainly")
    with pytest.raises(_Stopped):
        _fit(model, variables, split, run_epoch, tmp_path / "stage", stop_after=3, measure_untrained=True)
    trained = _fit(model, variables, split, run_epoch, tmp_path / "stage", measure_untrained=True)
    first, *others = trained.history
    assert first == {"epoch": 0, "update": 0, "sum": float(jnp.sum(variables["params"]["predictor"]["fc2"]["bias"]))}
    assert [line["epoch"] for line in others] == [1, 2, 3]
    assert _without_speed(tmp_path / "stage" / "metrics.jsonl")[1:] == _without_speed(
        tmp_path / "plainly" / "metrics.jsonl"
    )
    _assert_equal(jax.device_get(trained.state), jax.device_get(plainly.state))


def test_pretraining_lowers_the_loss_without_collapsing(model, variables, split, run_epoch, tmp_path):
    fast = dataclasses.replace(SCHEDULE, learning_rate=2e-2)
    trained = _fit(model, variables, split, run_epoch, tmp_path / "stage", epochs=20, schedule=fast)
    losses = [line["loss"] for line in trained.history]
    assert losses[-1] < losses[0] - 0.2
    assert trained.history[-1]["z_spread"] > 0.3


def test_fine_tuning_keeps_the_best_epoch_and_learns_the_square(model, variables, split, tmp_path):
    classifier = Classifier(model.backbone, 2)
    optimizer = create_optimizer(OptimizerConfig())
    head = jax.jit(classifier.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    start = {name: {**tree, "backbone": variables[name]["backbone"]} for name, tree in head.items()}
    plan = make_plan(len(split), schedule=ScheduleConfig(learning_rate=3e-3), micro_batch_size=8, epochs=4, seed=0)
    planned = iter([0.5, 0.9, 0.7, 0.9])
    seen = {}

    def measure(state, epoch):
        seen[epoch] = jax.device_get(state.variables)
        return {"validation_top1": next(planned)}

    update = finetuning(model=classifier, optimizer=optimizer, views=SPEC)
    trained = fit(
        create_state(start, optimizer),
        split,
        plan,
        epoch_runner(compile_update(update, platform="cpu")),
        measure=measure,
        folder=tmp_path,
        title="test",
        select="validation_top1",
    )
    # The first of the two best, as they were then.
    assert trained.best_epoch == 2
    _assert_equal(trained.best, seen[2])
    # Chance is 0.5, and four epochs are 20 steps.
    assert trained.history[-1]["top1"] > 0.75


def test_devices_with_unequally_many_known_attributes_count_every_label_alike():
    # Two known labels on one device, 12 on the other.
    labels = np.full((2, 4, 3), -1, np.int32)
    labels[0, 0, :2] = 0, 1
    labels[1] = np.arange(12).reshape(4, 3) % 2
    logits = np.random.default_rng(0).normal(0, 2, labels.shape).astype(np.float32)

    def loss(logits, labels):
        return known_share(labels) * classification_loss(logits, labels)

    losses = jax.pmap(loss, axis_name=AXIS)(logits, labels)
    whole = classification_loss(jnp.asarray(logits.reshape(8, 3)), jnp.asarray(labels.reshape(8, 3)))
    np.testing.assert_allclose(np.mean(losses), whole, rtol=1e-6)
    # Of classes every label is known: nothing changes, to the bit.
    assert jax.pmap(known_share, axis_name=AXIS)(labels[:, :, 0] * 0).tolist() == [1.0, 1.0]
