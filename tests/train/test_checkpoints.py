import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.settings.schema import OptimizerConfig
from simsiam_jax.train.checkpoints import Checkpoints
from simsiam_jax.train.optimizer import accumulated, create_optimizer
from simsiam_jax.train.state import create_state


def _state(value):
    params = {"w": jnp.full((64, 32), value), "b": jnp.arange(3.0)}
    return create_state(
        {"params": params, "batch_stats": {"mean": jnp.ones(2)}},
        optax.adam(1e-3),
    )


def _saved(folder, *values):
    with Checkpoints(folder) as checkpoints:
        for epoch, value in enumerate(values, start=1):
            checkpoints.save(epoch, {"state": _state(value)}, {"history": [epoch], "seconds": 1.5})


def _restore(folder):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore_latest({"state": jax.eval_shape(lambda: _state(0.0))})


def _largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_state_comes_back_as_it_was(tmp_path):
    _saved(tmp_path / "c", 1.0, 2.0)
    epoch, tree, meta = _restore(tmp_path / "c")
    assert (epoch, meta) == (2, {"history": [2], "seconds": 1.5})
    expected = jax.device_get(_state(2.0))
    assert jax.tree.structure(tree["state"]) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, tree["state"], expected)


def test_an_empty_folder_has_nothing_to_restore(tmp_path):
    assert _restore(tmp_path / "c") is None


def test_the_last_two_are_kept(tmp_path):
    _saved(tmp_path / "c", 1.0, 2.0, 3.0)
    assert sorted(path.name for path in (tmp_path / "c").iterdir() if path.name.isdigit()) == ["2", "3"]


def test_saving_does_not_need_the_buffers_afterwards(tmp_path):
    state = _state(1.0)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"state": state}, {})
        jax.tree.map(lambda leaf: leaf.delete(), state)
    np.testing.assert_array_equal(_restore(tmp_path / "c")[1]["state"].params["w"], 1.0)


def test_one_flipped_byte_is_noticed_and_the_checkpoint_before_is_taken(tmp_path, caplog):
    _saved(tmp_path / "c", 1.0, 2.0)
    path = _largest_file(tmp_path / "c" / "2" / "state")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    epoch, tree, _ = _restore(tmp_path / "c")
    assert epoch == 1
    np.testing.assert_array_equal(tree["state"].params["w"], 1.0)
    assert "damaged" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("damage", ["truncated", "deleted", "metadata"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path, damage):
    _saved(tmp_path / "c", 1.0, 2.0)
    newest = tmp_path / "c" / "2" / "state"
    path = newest / "_METADATA" if damage == "metadata" else _largest_file(newest)
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert _restore(tmp_path / "c")[0] == 1


def test_one_clear_line_when_no_checkpoint_is_left(tmp_path):
    _saved(tmp_path / "c", 1.0)
    _largest_file(tmp_path / "c" / "1" / "state").unlink()
    with pytest.raises(InputError, match=r"no checkpoint can be restored .*updates 1.*delete this folder") as raised:
        _restore(tmp_path / "c")
    assert "\n" not in str(raised.value)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    _saved(tmp_path / "c", 1.0)
    other = {"state": _state(0.0).replace(params={"w": jnp.zeros((64, 33)), "b": jnp.arange(3.0)})}
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(InputError, match="of another network") as raised:
        checkpoints.restore_latest(other)
    # Whole files are never to be deleted for it.
    assert "state/params/w is [64, 32] there and [64, 33] here" in str(raised.value)
    assert "delete" not in str(raised.value)
    assert "damaged" not in str(raised.value)


def test_shapes_are_told_without_a_target(tmp_path):
    _saved(tmp_path / "c", 1.0)
    with Checkpoints(tmp_path / "c") as checkpoints:
        shapes = checkpoints.shapes()
    assert shapes["state/params/w"] == (64, 32)
    assert shapes["state/step"] == ()


def test_a_checkpoint_from_the_middle_of_an_accumulation_is_refused(tmp_path):
    # Until updates became functions of all their micro-batches, checkpoints held the sums of optax.MultiSteps.
    state = _state(0.0)
    optimizer = accumulated(optax.adam(1e-3), 2)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"state": state.replace(opt_state=optimizer.init(state.params))}, {})
        with pytest.raises(InputError, match=r"^[^\n]*of another network[^\n]*$"):
            checkpoints.restore_latest({"state": jax.eval_shape(lambda: state)})


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_the_state_of_an_optimiser_that_masks_parameters_comes_back(tmp_path, name):
    optimizer = create_optimizer(OptimizerConfig(name))
    params = {"w": jnp.ones((4, 3)), "b": jnp.arange(3.0)}
    state = create_state({"params": params}, optimizer)
    _, opt_state = optimizer.update(params, state.opt_state, params)
    state = state.replace(opt_state=opt_state)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"state": state}, {})
        found = checkpoints.restore_latest({"state": jax.eval_shape(lambda: state)})
    assert jax.tree.structure(found[1]["state"]) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found[1]["state"], state)
