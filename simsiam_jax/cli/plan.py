"""From flags to how a run decides: its seeds or looks, its smallest effect, and the time that it may take."""

import re
from collections.abc import Sequence

from simsiam_jax.cli.flags import value
from simsiam_jax.errors import InputError, require
from simsiam_jax.records.experiment import EVALUATIONS, AnalysisPlan
from simsiam_jax.settings.declare import plain_text

_MOST_SEEDS = 1000
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def looks(seeds: int | str) -> tuple[int, ...]:
    """The numbers of seeds after which the run may stop; one number where `seeds` is a number.

    Args:
      seeds: The value of --seeds, `auto` or a whole number.

    Raises:
      InputError: For another value, or for looks that do not ascend.
    """
    if seeds == "auto":
        found = tuple(int(number) for number in value("looks"))
        require(
            all(number == int(number) for number in value("looks")) and list(found) == sorted(set(found)),
            f"--looks={plain_text(value('looks'))}: give ascending whole numbers of seeds, as in --looks=3,5,8,12",
        )
        return found
    try:
        count = int(seeds)
    except ValueError:
        raise InputError(f"--seeds={seeds}: give a whole number of seeds, or auto") from None
    require(1 <= count <= _MOST_SEEDS, f"--seeds={seeds}: must be at least 1 and at most {_MOST_SEEDS:,}, or auto")
    return (count,)


def seeds_of(planned: tuple[int, ...]) -> tuple[int, ...]:
    """The seeds of a run with these looks, from --first_seed on."""
    first = value("first_seed")
    return tuple(range(first, first + planned[-1]))


def analysis_plan(planned: tuple[int, ...], *, evaluation: str, primary: Sequence[str]) -> AnalysisPlan:
    """The plan of a launcher's comparison, with the flags' smallest effect.

    Args:
      planned: The looks, from `looks`.
      evaluation: The evaluation that decides.
      primary: The arms whose comparison is asked for.

    Raises:
      InputError: If the run may stop early by an evaluation that it does not have.
    """
    require(
        len(planned) == 1 or evaluation in value("evals") or not set(value("evals")) <= set(EVALUATIONS),
        f"--evals={','.join(value('evals'))}: with --seeds=auto the run decides by {evaluation}; add it, or give a "
        "number of seeds",
    )
    return AnalysisPlan(
        evaluation=evaluation,
        primary=tuple(primary),
        looks=planned,
        first_seed=value("first_seed"),
        smallest_effect=value("smallest_effect"),
    )


def budget_flag() -> float | None:
    """The time that a run may take, in seconds; None without a limit.

    Raises:
      InputError: If --budget is not a time.
    """
    text = value("budget")
    if text is None:
        return None
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text)
    require(parts is not None and text != "", f"--budget={text}: give a time, as in --budget=2h, 90m or 1h30m")
    assert parts is not None
    return sum(float(number or 0) * seconds for number, seconds in zip(parts.groups(), _UNITS.values(), strict=True))
