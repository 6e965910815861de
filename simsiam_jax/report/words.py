"""The texts of a report: how stages, numbers, seeds, durations and settings are said, and how user text is escaped."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from simsiam_jax.records.experiment import Leak
from simsiam_jax.report.seeds import Difference, Score

NOTHING = "–"
NOT_RUN = "not run"
OUTCOMES = {
    "helped": "▲ helped",
    "hurt": "▼ hurt",
    "too_small": "≈ too small to matter",
    "undecided": "○ undecided",
    "descriptive": "· descriptive",
    "missing": "· missing",
}


class StageWords(NamedTuple):
    """How one stage is called.

    Attributes:
      name: The stage's name as a noun.
      heading: Its name in the heading of a column.
      adjective: What its results are called, such as the fine-tuned accuracy.
    """

    name: str
    heading: str
    adjective: str


STAGE_WORDS = {
    "pretrain": StageWords("pretraining", "pretraining", "pretrained"),
    "knn": StageWords("kNN", "kNN", "kNN"),
    "linear": StageWords("linear probe", "linear probe", "linear-probe"),
    "finetune": StageWords("fine-tuning", "fine-tune", "fine-tuned"),
}


def capital(text: str) -> str:
    """The text with a capital first letter, as a sentence begins."""
    return text[:1].upper() + text[1:]


def cut(text: str, length: int) -> str:
    """User text on one line of at most so many letters, without control characters, which could turn what follows."""
    # A joiner makes one picture of several emoji.
    text = " ".join("".join(letter if letter.isprintable() or letter == "\u200d" else " " for letter in text).split())
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


def seeds_text(count: int) -> str:
    """`1 seed` or `3 seeds`."""
    return "1 seed" if count == 1 else f"{count} seeds"


def leak_sentence(leak: Leak) -> str:
    """How many images of a split also lie among others, in a sentence."""
    among = {"train": "training"}.get(leak.among, leak.among)
    if leak.exact == leak.shared:
        exactly = "pixel for pixel" if leak.shared == 1 else "all pixel for pixel"
    elif leak.exact == 0:
        exactly = "nearly" if leak.shared == 1 else "all nearly"
    else:
        exactly = f"{leak.exact:,} pixel for pixel and {leak.shared - leak.exact:,} nearly"
    verb = "lies" if leak.shared == 1 else "lie"
    return (
        f"{leak.shared:,} of the {leak.images:,} {leak.split} images also {verb} among the {among} images, {exactly}."
    )


def score_text(score: Score | None, seeds: Sequence[int]) -> str:
    """A score as `91.20 ± 0.41`, in percent.

    Args:
      score: The score. None gives a dash.
      seeds: The seeds of the whole table. A score of another number of seeds says its own number.
    """
    if score is None:
        return NOTHING
    text = f"{score.mean:.2f}" + ("" if score.std is None else f" ± {score.std:.2f}")
    return text if len(score.by_seed) == len(seeds) else f"{text} ({seeds_text(len(score.by_seed))})"


def difference_lines(difference: Difference | None) -> tuple[str, str]:
    """A difference in points as two lines: `+3.10 ± 0.80` and its interval `[+1.11, +5.09]`.

    Where there is no interval the second line is empty. No difference gives a dash.
    """
    if difference is None:
        return NOTHING, ""
    if difference.std is None:
        return f"{signed(difference.mean)} (1 seed)", ""
    interval = (
        ""
        if difference.low is None or difference.high is None
        else f"[{signed(difference.low)}, {signed(difference.high)}]"
    )
    return f"{signed(difference.mean)} ± {difference.std:.2f}", interval


def signed(value: float, decimals: int = 2) -> str:
    """A difference with its sign. The minus is a true one, and what rounds to zero has no sign.

    Args:
      value: The difference.
      decimals: The number of decimals, 0 or more.
    """
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def number_text(form: str, value: float | int | None) -> str:
    """A number with a true minus, or a dash for None.

    Args:
      form: A form for `str.format`, such as `{:.3f}`.
      value: The number.
    """
    return NOTHING if value is None else form.format(value).replace("-", "−")


def duration(seconds: float | int) -> str:
    """A time as `48 s`, `3 min 20 s` or `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def flatten(config: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """The texts of a nested configuration, by group and setting.

    Args:
      config: Nested plain values, such as `Experiment.config`.

    Returns:
      The top level's own settings under "", and each nested configuration under its name. The names of deeper levels
      are joined by dots.
    """
    groups: dict[str, dict[str, str]] = {"": {}}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            groups[name] = flat_values(value)
        else:
            groups[""][name] = _value_text(value)
    return {name: values for name, values in groups.items() if values}


def flat_values(values: Any, prefix: str = "") -> dict[str, str]:
    """The texts of nested plain values as one level, their names joined by dots.

    Args:
      values: Nested plain values. One that is no mapping is called `value`.
      prefix: The name in front of all names.
    """
    if not isinstance(values, dict):
        return {prefix or "value": _value_text(values)}
    flat: dict[str, str] = {}
    for name, value in values.items():
        path = f"{prefix}.{name}" if prefix else str(name)
        flat |= flat_values(value, path) if isinstance(value, dict) and value else {path: _value_text(value)}
    return flat


def _value_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "not set"
    if isinstance(value, list | tuple):
        return ", ".join(map(_value_text, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def escape_markdown(text: str) -> str:
    """User text on one line that stays text inside a Markdown table."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in text)


def escape_latex(text: str) -> str:
    """User text on one line that stays text in LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {letter: f"\\{letter}" for letter in "&%$#_{}"} | {"±": r"$\pm$", "−": "$-$", "–": "--"}
    return "".join(special.get(letter, letter) for letter in " ".join(text.split()))
