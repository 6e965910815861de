"""The audit's records as a table, and the kernels of a step that move the most."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark.audit.counts import StepWork
from simsiam_jax.errors import InputError, require

FILES = "audit-*.json"

_HEAD = ("program", "kernels", "under 0.2 MB", "convolutions", "float32", "layout changes", "MB", "GFLOP",
         "roofline µs", "arithmetic µs", "launches", "buffers", "host syncs", "all-reduced MB", "peak MB",
         "temporary MB")  # fmt: skip


def file_name(record: Mapping[str, Any]) -> str:
    """The file's name, such as `audit-resnet18-paper32-32-bfloat16-pretrain.json`, then what is unusual."""
    parts = [record["backbone"], record["stem"], record["image_size"], record["dtype"], record["stage"]]
    parts += [f"width{record['width']:g}"] if record["width"] != 1 else []
    parts += [f"{record['devices']}devices"] if record["devices"] != 1 else []
    return "-".join(["audit", *(str(each) for each in parts if each)]) + ".json"


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records in a folder, sorted by the names of their files.

    Raises:
      InputError: If the folder holds none, or one is damaged.
    """
    paths = sorted(folder.glob(FILES))
    require(bool(paths), f"--summarise={folder} holds no {FILES}: give the folder that an audit wrote to")
    records = []
    for path in paths:
        try:
            values = json.loads(path.read_text())
            _row(values)
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path} is damaged or of another program; remove it, or audit again") from None
        records.append(values)
    return records


def markdown_table(records: Sequence[Mapping[str, Any]]) -> str:
    """A table with a row for each record. Numbers are those of a step, memory is that of a card."""
    lines = [list(_HEAD), ["---", *["---:"] * (len(_HEAD) - 1)], *map(_row, records)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def what(record: Mapping[str, Any]) -> str:
    """The program of a record in words."""
    width = f"width {record['width']:g}" if record["width"] != 1 else None
    network = " ".join(filter(None, [record["backbone"], record["stem"], width]))
    devices = f"{record['devices']} devices" if record["devices"] != 1 else None
    size = f"{record['image_size']}×{record['image_size']}"
    parts = [network, size, record["dtype"], record["stage"], f"{record['images_of_a_step']} images", devices]
    return ", ".join(filter(None, parts))


def _row(record: Mapping[str, Any]) -> list[str]:
    step, launches, memory = record["step"], record["launches"], record["memory"]
    return [
        what(record),
        *(_rounded(step[name]) for name in ("kernels", "small_kernels")),
        _rounded(sum(step["convolutions"].values())),
        _rounded(step["float32_convolutions"]),
        _rounded(step["layout_changes"]),
        _rounded(step["bytes"] / 1e6),
        _rounded(step["flop"] / 1e9),
        *(_rounded(step[name] * 1e6) for name in ("seconds", "arithmetic_seconds")),
        *(_rounded(launches[name]) for name in ("launches", "buffers")),
        _rounded(launches["conditionals"] + launches["open_loops"]),
        _rounded(step["collective_bytes"] / 1e6),
        *(_rounded(memory[name] / 1e6) for name in ("peak", "temporary")),
    ]


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def top_kernels(work: StepWork, number: int) -> str:
    """The kernels of a step that move the most bytes, a line for all of a kind: MB, µs, runs a step, our operation.

    Kernels are of a kind if they stand for the same operation in blocks or layers of other numbers.

    Args:
      work: The work.
      number: Number of lines.
    """
    kinds: dict[str, list[float]] = {}
    for kernel, runs in work.step.kernels:
        instruction = kernel.instruction
        name = re.sub(r"[._]\d+", "", instruction.name)
        source = re.sub(r"_\d+", "_*", instruction.source.split("closed_call/")[-1])
        total = kinds.setdefault(f"{name}  {source}".rstrip(), [0.0, 0.0, 0.0])
        for place, value in enumerate((kernel.bytes / 1e6, kernel.seconds * 1e6, 1.0)):
            total[place] += value * runs
    largest = sorted(kinds.items(), key=lambda each: -each[1][0])[:number]
    lines = [f"{'MB':>8}{'µs':>8}{'runs':>7}  kernel"]
    return "\n".join(lines + [f"{mb:8,.1f}{us:8.1f}{runs:7.3g}  {name}" for name, (mb, us, runs) in largest])
