"""Several processes as one run, each with two CPU devices of this machine, that talk over 127.0.0.1."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from simsiam_jax import hosts
from simsiam_jax.errors import InputError
from tests.support.launchers import PATIENCE, ROOT, XLA_FLAGS, finish, free_address, json_lines, numbers, start

# Few updates at a small rate of SGD: each update multiplies what rounding makes of the order of a sum, and Adam divides
# by what is near 0.
SIZE = (
    *("--preset=smoke", "--arms=in_domain", "--evals=finetune", "--epochs=5", "--knn_every=5", "--warmup_epochs=0"),
    *("--image_size=8", "--width=0.125", "--stem=cifar", "--projector_dim=16", "--predictor_dim=8"),
    *("--optimizer=sgd", "--learning_rate=2e-5", "--pretrain_images=128", "--labels_per_class=4"),
    *("--finetune_optimizer=sgd", "--finetune_learning_rate=2e-5", "--finetune_warmup_epochs=0"),
)
STAGE = ("in_domain", "seed-0", "pretrain")


def _start(base, name, *changes, processes, devices):
    """Starts the processes of a run that writes into base/name."""
    flags = f"{XLA_FLAGS} --xla_force_host_platform_device_count={devices}"
    command = ("demo", *SIZE, *changes, f"--data_dir={base / 'data'}")
    if processes == 1:
        return [start(*command, f"--workdir={base / name}", XLA_FLAGS=flags)]
    address = f"--coordinator={free_address()}"
    return [
        start(
            *command,
            # The workdir is that of process 0 alone.
            f"--workdir={base / name if process == 0 else base / f'{name}-of-{process}'}",
            *(address, f"--num_processes={processes}", f"--process_id={process}"),
            XLA_FLAGS=flags,
        )
        for process in range(processes)
    ]


def _run(base, name, **size):
    """Runs it to its end, and returns what was measured and trained."""
    results = [finish(process) for process in _start(base, name, **size)]
    assert [result.returncode for result in results] == [0] * len(results), results[0].stderr + results[-1].stderr
    return _outcome(base / name)


def _outcome(workdir):
    """The numbers of a finished run, and the parameters before and after each stage, each as one vector."""
    found = {}
    for stage in ("pretrain", "finetune"):
        folder = workdir.joinpath(*STAGE[:2], stage, "checkpoints")
        last = max(folder.iterdir(), key=lambda each: int(each.name))
        params = ocp.StandardCheckpointer().restore(last / "state")["state"]["params"]
        found[stage] = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    return numbers(workdir), found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def two(base):
    """What two processes of two devices each find, undisturbed."""
    return _run(base, "two", processes=2, devices=2)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [4, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_two_processes_train_and_measure_as_one_does(base, two, devices):
    measured, trained = two
    alone, trained_alone = _run(base, f"one-{devices}", processes=1, devices=devices)
    for stage, params in trained.items():
        assert np.linalg.norm(params - trained_alone[stage]) <= 1e-6 * np.linalg.norm(params), stage
    assert measured.keys() == alone.keys()
    for key, (metrics, config_hash) in measured.items():
        assert metrics == pytest.approx(alone[key][0], rel=1e-3, abs=1e-4), key
        assert config_hash == alone[key][1]
    # The workdir of the other process is none.
    assert not (base / "two-of-1").exists()


def _epochs_done(workdir):
    path = workdir.joinpath(*STAGE, "metrics.jsonl")
    return len(json_lines(path)) - 1 if path.exists() else -1


def _after_an_epoch(workdir, processes, number):
    """Sends the second process a signal once another epoch is done."""
    before = max(_epochs_done(workdir), 0)
    until = time.monotonic() + PATIENCE
    while _epochs_done(workdir) <= before:
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < until
        time.sleep(0.02)
    processes[1].send_signal(number)
    return [finish(process) for process in processes]


@pytest.mark.slow
def test_stopped_by_one_and_killed_one_the_same_commands_end_as_if_undisturbed(base, two):
    size = {"processes": 2, "devices": 2}
    stopped = _after_an_epoch(base / "disturbed", _start(base, "disturbed", **size), signal.SIGTERM)
    assert [result.returncode for result in stopped] == [143, 143], stopped[0].stderr
    assert all(result.stderr.endswith("stopped; the same command goes on from here\n") for result in stopped)
    assert list(base.joinpath("disturbed", *STAGE, "checkpoints").iterdir())
    first, second = _after_an_epoch(base / "disturbed", _start(base, "disturbed", **size), signal.SIGKILL)
    assert (first.returncode, second.returncode) == (1, -signal.SIGKILL)
    assert first.stderr.splitlines()[-1].startswith("error: process 1 of 2 is gone; run the same command again")
    measured, trained = _run(base, "disturbed", **size)
    assert measured == two[0]
    for stage, params in trained.items():
        np.testing.assert_array_equal(params, two[1][stage])


@pytest.mark.exhaustive
def test_a_run_of_two_that_diverges_says_so_once_and_both_end(base):
    processes = _start(base, "diverging", "--learning_rate=1000", "--weight_decay=1", processes=2, devices=1)
    first, second = (finish(process) for process in processes)
    assert [first.returncode, second.returncode] == [1, 1], first.stderr + second.stderr
    assert "diverged at update" in first.stdout
    assert "Traceback" not in first.stderr + second.stderr
    assert "failed" in first.stderr
    assert "failed" not in second.stderr


_PLAY = """
import contextlib, os, signal, sys, time
import numpy as np
from simsiam_jax import hosts
process, address, play = int(sys.argv[1]), sys.argv[2], sys.argv[3]
with hosts.ending_together():
    hosts.join(address, 2, process)
    if play == "together":
        tree = {"a": np.array([-0.0, np.nan, 1 + process], np.float32), "b": np.int32(7 - process)}
        with hosts.leading("a task") if process == 0 else contextlib.nullcontext():
            if process == 1:
                print(hosts.hear())
            shared = hosts.share(tree)
            print(shared["a"].tobytes().hex(), shared["b"], [hosts.agreed(lambda n=n: n < 2) for n in range(3)])
        if process == 0:
            sys.exit(3)
        try:
            hosts.hear()
        except hosts.Over:
            print("over")
    if play == "killed":
        hosts.share(np.zeros(1))
    if play == "killed" and process == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if play == "failed" and process == 1:
        sys.exit(2)
    hosts.hear() if process == 1 else time.sleep(600)
"""


def _play(play):
    address = free_address()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PLAY, str(process), address, play],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    return [finish(process) for process in processes]


@pytest.mark.slow
def test_what_the_first_process_decides_and_has_the_second_gets_to_the_last_bit():
    first, second = _play("together")
    assert [first.returncode, second.returncode] == [3, 3], first.stderr + second.stderr
    ours, theirs = ([line for line in each.stdout.splitlines() if "Gloo" not in line] for each in (first, second))
    array = np.array([-0.0, np.nan, 1], np.float32).tobytes().hex()
    assert ours == [f"{array} 7 [True, True, False]"]
    assert theirs == ["a task", *ours, "over"]


@pytest.mark.slow
def test_when_the_first_process_dies_the_second_says_so_in_one_line():
    first, second = _play("killed")
    assert (first.returncode, second.returncode) == (-signal.SIGKILL, 1)
    assert second.stderr.split("\n")[-2].startswith("error: process 0 of 2 is gone; run the same command again")
    assert "Check failure" not in second.stderr


@pytest.mark.slow
def test_when_the_second_process_fails_the_first_ends_too():
    first, second = _play("failed")
    assert (first.returncode, second.returncode) == (1, 2)
    assert "error: process 1 of 2 has ended (exit code 2): see what it says" in first.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("h:1", 2, None), "belong together: give all three"),
        ((None, 2, 0), "belong together"),
        (("auto", 2, 0), "belong together"),
        (("h:1", 2, 2), "--process_id=2 must be below --num_processes=2: count from 0"),
        (("h", 2, 0), "--coordinator=h is no HOST:PORT, such as 10.0.0.1:1234"),
        (("h:99999", 2, 0), "--coordinator=h:99999 is no HOST:PORT"),
    ],
)
def test_wrong_flags_are_one_line(flags, words):
    with pytest.raises(InputError, match=re.escape(words)):
        hosts.join(*flags)


def test_alone_a_process_leads_and_tells_nobody():
    hosts.join(None, None, None)
    assert (hosts.leads(), hosts.count(), hosts.number()) == (True, 1, 0)
    hosts.tell("nothing")
    with hosts.leading("a task"), hosts.together():
        assert hosts.agreed(lambda: 5) == 5
    with pytest.raises(ValueError, match="as it is"), hosts.ending_together(), hosts.together():
        raise ValueError("as it is")


def test_a_machine_whose_name_has_no_address_is_told_so(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("gloo: rv == 0. -2 vs 0")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-name.invalid")
    with pytest.raises(InputError, match=r"^--coordinator=127\.0\.0\.1:9: .*no-such-name\.invalid, has no address"):
        hosts.join("127.0.0.1:9", 2, 0)
