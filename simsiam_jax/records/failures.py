"""The units of a run that failed: `WORKDIR/ARM/seed-K/error.txt`, which goes once the unit is done."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from simsiam_jax.errors import DivergenceError
from simsiam_jax.files import one_line, write_whole
from simsiam_jax.records.experiment import Experiment

ERROR_FILE = "error.txt"
_DIVERGED = "diverged"


@dataclass(frozen=True)
class Failure:
    """A unit that failed and was not done since.

    Attributes:
      arm: The arm's name.
      seed: The unit's seed.
      reason: What went wrong, on one line.
    """

    arm: str
    seed: int
    reason: str

    @property
    def diverged(self) -> bool:
        """Whether a number of its training or of its network's outputs was not finite."""
        return self.reason.startswith(_DIVERGED)

    @property
    def words(self) -> str:
        """What happened in a few words, such as `diverged at update 12`."""
        return self.reason.split(":", 1)[0] if self.diverged else "failed"


def write_failure(folder: Path, fault: Exception) -> str:
    """Leaves why a unit failed, with the traceback, in the unit's folder, and returns the reason on one line."""
    said = one_line(fault)[:300]
    reason = said if isinstance(fault, DivergenceError) else f"{type(fault).__name__}: {said}"
    write_whole(folder / ERROR_FILE, f"{reason}\n\n{''.join(traceback.format_exception(fault))}".encode())
    return reason


def read_failures(workdir: Path) -> list[Failure]:
    """The units of a run that failed and were not done since, by arm and seed."""
    found = []
    for path in sorted(workdir.glob(f"*/seed-*/{ERROR_FILE}")):
        try:
            reason = path.read_text(errors="replace").split("\n", 1)[0]
        except OSError as error:
            reason = str(error.strerror)
        seed = path.parent.name.removeprefix("seed-")
        if seed.isdecimal():
            found.append(Failure(path.parent.parent.name, int(seed), reason))
    return found


def failed_arms(failures: Sequence[Failure], experiment: Experiment) -> dict[str, str]:
    """What happened in each arm of a run that has a failed seed, by the arm's name.

    Args:
      failures: The units that failed.
      experiment: What the run is: its arms and its seeds.

    Returns:
      Words such as `diverged at update 12 of seed 1` or `diverged in 2 of 3 seeds`.
    """
    by_arm: dict[str, list[Failure]] = {arm.name: [] for arm in experiment.arms}
    for failure in failures:
        by_arm.get(failure.arm, []).append(failure)
    return {arm: _words(found, experiment) for arm, found in by_arm.items() if found}


def without_verdict(failed: Mapping[str, str], experiment: Experiment) -> dict[str, str]:
    """Why no verdict is drawn from an arm, by its name: a seed of its own failed, or one of what it is compared with.

    Args:
      failed: What happened in each arm that has a failed seed, from `failed_arms`.
      experiment: What the run is: its arms and their groups.
    """
    found = {}
    for first, *others in experiment.groups.values():
        for arm in (first, *others):
            faulty = [each for each in dict.fromkeys((arm.name, first.name)) if each in failed]
            titles = {arm.name: arm.title, first.name: first.title}
            if faulty:
                found[arm.name] = " and ".join(f"“{titles[each]}” {failed[each]}" for each in faulty)
    return found


def _words(found: Sequence[Failure], experiment: Experiment) -> str:
    if len(found) == 1:
        return f"{found[0].words} of seed {found[0].seed}" if found[0].diverged else f"failed in seed {found[0].seed}"
    seeds = {failure.seed for failure in found} | set(experiment.seeds)
    verb = _DIVERGED if all(failure.diverged for failure in found) else "failed"
    return f"{verb} in {len(found)} of {len(seeds)} seeds"
