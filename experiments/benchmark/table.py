"""From rounds to numbers, from numbers to a record in a file, and from records to tables."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmark.contest import Measured
from experiments.benchmark.entrants import MATMUL, OURS, TORCH_CONTENDERS
from experiments.benchmark.workload import Workload
from simsiam_jax.errors import InputError, require
from simsiam_jax.settings.values import to_dict

FILES = "benchmark-*.json"
# Our lane of an epoch's steps with nothing between them.
BACK_TO_BACK = f"{OURS} back to back"


def spread(values: Sequence[float | int]) -> dict[str, float | int]:
    """`median`, `lowest` and `highest` of at least one value."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def ratios(some: Sequence[float], others: Sequence[float]) -> list[float]:
    """The ratio of two rates in each round."""
    return [one / other for one, other in zip(some, others, strict=True)]


def results(measured: Sequence[Measured], flops_per_sample: float | int) -> list[dict[str, Any]]:
    """Each contender's numbers, derived from its rounds.

    Args:
      measured: The measurements of all lanes.
      flops_per_sample: Model FLOPs of a pair of views or of an image; 0 where a stage has none.

    Returns:
      For each lane: `rate`, samples a second, which the matrix product lacks; `ours_over_this`, the ratio of our rate
      to this lane's; `flops_per_second`, model FLOPs a second, and `share_of_matmul`, their ratio to the matrix
      product's; `compile_seconds`, `peak_bytes` and the lane's own numbers; and the rounds. A number that does not
      exist has no key.
    """
    rates = {each.name: each.rates for each in measured}
    found = []
    for each in measured:
        values: dict[str, Any] = {"name": each.name, "rate": spread(each.rates)}
        if OURS in rates and each.name not in (OURS, MATMUL):
            values["ours_over_this"] = spread(ratios(rates[OURS], each.rates))
        if each.name == MATMUL:
            values["flops_per_second"] = values.pop("rate")
        elif flops_per_sample:
            flops = [flops_per_sample * rate for rate in each.rates]
            values["flops_per_second"] = spread(flops)
            if MATMUL in rates:
                values["share_of_matmul"] = spread(ratios(flops, rates[MATMUL]))
        if each.compile_seconds is not None:
            values["compile_seconds"] = each.compile_seconds
        rounds = {"samples_per_call": each.samples, "calls_per_round": each.calls, "seconds": list(each.seconds)}
        found.append({**values, **each.numbers, **rounds})
    return found


def host_share(measured: Sequence[Measured]) -> dict[str, dict[str, float | int]]:
    """`host_share`, the part of an epoch's time in which the host keeps the device waiting; empty for other stages."""
    rates = {each.name: each.rates for each in measured}
    if OURS not in rates or BACK_TO_BACK not in rates:
        return {}
    return {"host_share": spread([1 - ratio for ratio in ratios(rates[OURS], rates[BACK_TO_BACK])])}


def record(
    workload: Workload,
    measured: Sequence[Measured],
    left_out: Mapping[str, str],
    *,
    platform: str,
    flops_per_sample: float | int,
    **more: Any,
) -> dict[str, Any]:
    """The content of a benchmark's file.

    Args:
      workload: The workload that was measured.
      measured: The measurements of all lanes.
      left_out: By name, the reason why a contender was not measured.
      platform: The platform's name in jax.
      flops_per_sample: Model FLOPs of a pair of views or of an image.
      **more: Further entries of the file, such as versions and the device.
    """
    return {
        "stage": workload.stage,
        "platform": platform,
        "unit": workload.unit,
        "images": workload.images,
        "source_size": workload.source_size,
        "flops_per_sample": flops_per_sample,
        **more,
        "contenders": results(measured, flops_per_sample),
        **host_share(measured),
        "left_out": dict(left_out),
        "config": to_dict(workload.config),
    }


def file_name(workload: Workload, platform: str) -> str:
    """The file's name, such as `benchmark-resnet18-paper32-32-step-cpu.json`, then what differs from the paper."""
    program = workload.config.program
    backbone, batch = program.backbone, (workload.micro_batch_size, workload.accumulation)
    parts = [backbone.name, backbone.stem, f"{program.image_size}", workload.stage, platform]
    parts += [f"width{backbone.width:g}"] if backbone.width != 1 else []
    parts += ["{}x{}".format(*batch)] if batch != (64, 8) else []
    parts += [program.dtype] if program.dtype != "float32" else []
    return "-".join(["benchmark", *filter(None, parts)]) + ".json"


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records in a folder, sorted by the names of their files.

    Raises:
      InputError: If the folder holds none, or one is damaged.
    """
    paths = sorted(folder.glob(FILES))
    require(bool(paths), f"--summarise={folder} holds no {FILES}: give the folder that a benchmark wrote to")
    records = []
    for path in paths:
        try:
            values = json.loads(path.read_text())
            _row(values, _columns([values]))
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"{path} is damaged or of another program; remove it, or measure again") from None
        records.append(values)
    return records


def terminal_table(values: Mapping[str, Any]) -> str:
    """A record as text: a line for each contender in aligned columns, then the other findings."""
    unit = values["unit"]
    head = [
        f"{unit}/s",
        "lowest..highest",
        "jax/this",
        "lowest..highest",
        "TFLOP/s",
        "of matmul",
        "peak MB",
        "compile s",
    ]
    rows = [["", *head]]
    for each in values["contenders"]:
        rate, ratio, flops = (each.get(name) for name in ("rate", "ours_over_this", "flops_per_second"))
        share, compiling = each.get("share_of_matmul"), each.get("compile_seconds")
        rows.append(
            [
                each["name"],
                *([_rounded(rate["median"]), _range(rate)] if rate else ["", ""]),
                *([f"{ratio['median']:.3f}", _range(ratio)] if ratio else ["", ""]),
                f"{flops['median'] / 1e12:.3g}" if flops else "",
                f"{share['median']:.1%}" if share else "",
                f"{each['peak_bytes'] / 1e6:,.0f}",
                "" if compiling is None else f"{compiling:.1f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    if (share := values.get("host_share")) is not None:
        spelled = f"{share['median']:.1%} ({share['lowest']:.1%}..{share['highest']:.1%})"
        lines.append(f"host time between device calls: {spelled}")
    lines += [
        f"{each['name']}: the host takes {1e6 * each['dispatch_seconds_per_step']:.0f} µs to call a micro-step"
        for each in values["contenders"]
        if "dispatch_seconds_per_step" in each
    ]
    return "\n".join([*lines, *(f"{name} left out: {reason}" for name, reason in values["left_out"].items())])


def _range(values: Mapping[str, float | int]) -> str:
    return f"{_rounded(values['lowest'])}..{_rounded(values['highest'])}"


def _rounded(value: float) -> str:
    """A number with four digits, or with all digits before the point if there are more."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def markdown_table(records: Sequence[Mapping[str, Any]]) -> str:
    """A table with a row for each record: our rate, and its ratio to the rate of each of PyTorch's contenders."""
    columns = _columns(records)
    head = ["what", "device", "ours", *(f"ours / {name}" for name in columns), "of matmul", "memory", "compile"]
    lines = [head, ["---"] * len(head), *(_row(each, columns) for each in records)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _columns(records: Iterable[Mapping[str, Any]]) -> list[str]:
    present = {each["name"] for values in records for each in values["contenders"]}
    return [name for name, _ in TORCH_CONTENDERS.values() if name in present]


def _row(values: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    by_name = {each["name"]: each for each in values["contenders"]}
    config, ours = values["config"], by_name.get(OURS, {})
    # In the oldest records the settings of the program stand beside the others, and accumulation among pretraining's.
    program = config.get("program", {**config, "accumulation": config["pretrain"].get("accumulation")})
    backbone = program["backbone"]
    width = f"width {backbone['width']:g}" if backbone["width"] != 1 else None
    what = [
        " ".join(filter(None, [backbone["name"], backbone["stem"], width])),
        f"{program['image_size']}×{program['image_size']}",
        f"{config['pretrain']['micro_batch_size']}×{program['accumulation']}",
        program["dtype"],
        values["stage"],
    ]
    cells = [", ".join(what), values["device"]]
    cells.append(f"{_rounded(ours['rate']['median'])} {values['unit']}/s" if "rate" in ours else "–")
    for name in columns:
        ratio = by_name.get(name, {}).get("ours_over_this")
        cells.append(f"{ratio['median']:.2f} ({ratio['lowest']:.2f}..{ratio['highest']:.2f})" if ratio else "–")
    share = ours.get("share_of_matmul")
    cells.append(f"{share['median']:.0%}" if share else "–")
    cells.append(f"{ours['peak_bytes'] / 1e9:.2f} GB" if "peak_bytes" in ours else "–")
    cells.append(f"{ours['compile_seconds']:.0f} s" if "compile_seconds" in ours else "–")
    return cells
