"""How much of a disk a study takes, and which checkpoints stay when a unit has ended."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from absl import logging

from simsiam_jax.study.definition import Study
from simsiam_jax.study.programs import CompiledNetwork
from simsiam_jax.study.stages import Unit
from simsiam_jax.train.checkpoints import CHECKPOINTS

# Bytes of the report, and of a unit's results, logs and pictures, roughly.
_REPORT, _UNIT = 5e6, 1e6
# Number of a stage's checkpoints on disk while it trains: two that are kept and one that is written.
_WHILE_TRAINING = 3
_KEPT = {"all": 2, "last": 1, "none": 0}


def disk_line(study: Study, units: Iterable[Unit]) -> str:
    """What the units that are left take about, and what is free, in a line for the terminal; warns if it does not fit.

    Args:
      study: The study, whose folder exists.
      units: All of its units.
    """
    needed, free = bytes_needed(study, [unit for unit in units if not unit.done]), shutil.disk_usage(study.workdir).free
    if needed > free:
        logging.warning(
            "--workdir=%s has %s free, and the run takes about %s: free some, or keep fewer checkpoints (--keep=last, "
            "--keep=none)",
            study.workdir,
            size_text(free),
            size_text(needed),
        )
    gone = (
        "; its checkpoints go when a unit has ended: no evaluate, embed or export of it" if study.keep == "none" else ""
    )
    return f"{'disk':11} about {size_text(needed)} in the workdir, where {size_text(free)} are free{gone}"


def bytes_needed(study: Study, units: list[Unit]) -> float:
    """What units take about, in bytes: the checkpoints that stay, those of one unit while it trains, and the rest."""
    sizes: dict[tuple[int, str], int] = {}
    kept, training = 0.0, 0.0
    for unit in units:
        checkpoints = 0
        for stage, count in checkpoints_of(unit).items():
            key = id(unit.network), stage
            if count and key not in sizes:
                sizes[key] = checkpoint_bytes(unit.network, stage)
            checkpoints += count * sizes.get(key, 0)
        kept += _KEPT[study.keep] * checkpoints
        training = max(training, _WHILE_TRAINING * checkpoints)
    return kept + training + len(units) * _UNIT + _REPORT


def checkpoints_of(unit: Unit) -> dict[str, int]:
    """How often each stage of a unit trains: pretraining at most once, fine-tuning once a draw of labels."""
    pretrains = unit.arm.pretrain != "none" and unit.arm.shares is None
    draws = unit.config.label_draws("finetune") if "finetune" in unit.study.evaluations else 0
    return {"pretrain": int(pretrains), "finetune": draws}


def checkpoint_bytes(network: CompiledNetwork, stage: str) -> int:
    """The bytes of one checkpoint of pretraining or of fine-tuning: shapes are found, and nothing is computed."""
    if stage == "pretrain":
        return _bytes(jax.eval_shape(lambda: network.pretrain_state(0)))
    state = jax.eval_shape(lambda: network.finetune_state(0, None))
    # Fine-tuning keeps its best variables, too.
    return _bytes(state) + _bytes(state.variables)


def tidy(unit: Unit) -> None:
    """Removes the checkpoints that `--keep` does not keep, once a unit and what starts from its pretraining have ended.

    Args:
      unit: A unit that has ended.
    """
    keep = _KEPT[unit.study.keep]
    if unit.study.keep == "all":
        return
    owner = unit.arm.shares or unit.name
    sharing = [name for name, arm in unit.study.arms.items() if owner in (name, arm.shares)]
    stages = [unit.folder / stage for stage in unit.study.evaluations]
    if keep or all(unit.of(name).done for name in sharing):
        stages.append(unit.pretrained_folder)
    for folder in (each for stage in stages for each in stage.glob(f"**/{CHECKPOINTS}")):
        _keep_newest(folder, keep)


def _keep_newest(folder: Path, count: int) -> None:
    numbered = sorted((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    for path in numbered[: len(numbered) - count]:
        shutil.rmtree(path)
    if count == 0:
        shutil.rmtree(folder)


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def size_text(size: float | int) -> str:
    """A size as `3.2 GB` or `120 MB`."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{max(size, 1e6) / 1e6:,.0f} MB"
