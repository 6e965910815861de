"""A study that is stopped by signals at random moments goes on to the bits of an undisturbed one."""

import os
import signal

import pytest

from tests.faults import trials

# So many signals are sent where all of it runs (`make test-faults`), in trials of a few each.
ALL = dict(zip(trials.CODES, map(int, os.environ.get("SIMSIAM_FAULTS", "100,40,40").split(",")), strict=True))
SAMPLE = {signal.SIGKILL: 2, signal.SIGINT: 1}
PER_TRIAL = 5
# Trials of runs of two processes, of three signals each.
TWO = {number: max(1, count // 20) for number, count in ALL.items()}
# A moment that is drawn may come too late, by the machine's speed; so often another one is.
TRIES = 5


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The number of paths that an undisturbed study makes, and what it leaves."""
    return trials.undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
@pytest.mark.parametrize("number", SAMPLE, ids=lambda number: number.name)
def test_a_study_that_was_stopped_ends_as_an_undisturbed_one(undisturbed, tmp_path, number):
    for seed in range(TRIES):
        stops, wrong = trials.trial(tmp_path / str(seed), number, SAMPLE[number], seed, *undisturbed)
        assert not wrong
        if stops:
            return
    pytest.fail("each time it was done before the first signal")


@pytest.mark.faults
@pytest.mark.parametrize("number", ALL, ids=lambda number: number.name)
def test_many_studies_that_were_stopped_end_as_an_undisturbed_one(undisturbed, tmp_path, number):
    sent, seed, faults = 0, 0, []
    while sent < ALL[number]:
        seed += 1
        stops, wrong = trials.trial(
            tmp_path / str(seed), number, min(PER_TRIAL, ALL[number] - sent), seed, *undisturbed
        )
        sent += len(stops)
        if wrong:
            faults.append(f"seed {seed}: {wrong} after {[(stop.after, stop.place) for stop in stops]}")
    assert not faults, f"{len(faults)} of {seed} trials"


@pytest.mark.faults
@pytest.mark.parametrize("number", TWO, ids=lambda number: number.name)
def test_runs_of_two_processes_of_which_one_gets_a_signal_end_as_an_undisturbed_one(tmp_path, number):
    undisturbed = trials.undisturbed(tmp_path / "undisturbed", 2)
    for seed in range(TWO[number]):
        _, wrong = trials.trial(tmp_path / str(seed), number, 3, seed, *undisturbed, 2)
        assert not wrong, f"seed {seed}"
