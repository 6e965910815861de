"""A whole benchmark: from its settings to its record."""

import functools
import importlib.metadata
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmark import entrants, table
from experiments.benchmark.contest import ask, contest
from experiments.benchmark.workload import Workload, usual_images
from simsiam_jax.errors import require
from simsiam_jax.settings.schema import Config


@dataclass(frozen=True)
class Settings:
    """What to measure, and how.

    Attributes:
      config: Network, views, batch and compute type.
      stage: Of `workload.STAGES`.
      rival: `module:function` of PyTorch's side.
      images: Resident ones; None: the platform's usual number.
      source_size: Their side in pixels.
      contenders: Of `entrants.CONTENDERS`; None: the usual ones.
      variants: Of ours, as `--variant` takes them.
      rounds: Of turns.
      seconds: Of a turn, about.
      trace: A folder for our profile.
    """

    config: Config
    stage: str
    rival: str
    images: int | None = None
    source_size: int | None = None
    contenders: Sequence[str] | None = None
    variants: Sequence[str] = ()
    rounds: int = 5
    seconds: float = 5.0
    trace: Path | None = None

    def __post_init__(self) -> None:
        require(self.rounds >= 1, f"--rounds must be at least 1, not {self.rounds}")
        require(self.seconds > 0, f"--seconds must be positive, not {self.seconds:g}")
        if self.contenders is not None:
            entrants.check_contenders(self.contenders, self.stage)


_say: Callable[[str], None] = functools.partial(print, flush=True)


def measure(settings: Settings, *, show: Callable[[str], None] = _say) -> tuple[Workload, dict[str, Any]]:
    """Measures all contenders by turns.

    Args:
      settings: What to measure.
      show: Is told of progress in a line.

    Returns:
      What was measured, and its record, which still lacks where and by whom it was made.

    Raises:
      InputError: For settings that cannot be.
    """
    config, stage = settings.config, settings.stage
    variants = [entrants.parse_variant(text) for text in settings.variants]
    names = [each.name for each in variants]
    require(len(set(names)) == len(names), f"--variant: two are called {max(names, key=names.count, default='')!r}")
    # This process never starts jax: it would keep memory of the device that is measured.
    found = ask(entrants.jax_contender("survey", "survey", (config, stage)))
    workload = Workload(
        config,
        stage,
        images=usual_images(config, stage, found.platform) if settings.images is None else settings.images,
        source_size=config.image_size if settings.source_size is None else settings.source_size,
    )
    contenders = settings.contenders or entrants.usual_contenders(stage, found.platform)
    missing = entrants.missing_packages()
    if missing and set(contenders) != {entrants.OURS}:
        advice = f'{", ".join(missing)} not installed; pip install -e ".[torch]" adds PyTorch\'s side'
        require(entrants.OURS in contenders, f"--contenders={','.join(contenders)}: {advice}")
        show(f"ours alone: {advice}")
        contenders = [entrants.OURS]
    show(f"{stage} of {workload.images} images on {found.device}")
    measured, left_out = contest(
        entrants.entrants(
            workload,
            contenders,
            rival=settings.rival,
            timm_code=found.timm_code,
            variants=variants,
            trace=settings.trace,
        ),
        rounds=settings.rounds,
        seconds=settings.seconds,
        show=show,
    )
    record = table.record(
        workload,
        measured,
        left_out,
        platform=found.platform,
        flops_per_sample=found.flops_per_sample,
        rounds=settings.rounds,
        seconds_per_turn=settings.seconds,
        variants=list(settings.variants),
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        **_environment(found.device, rivals=any(name != entrants.OURS for name in contenders)),
    )
    return workload, record


def _environment(device: str, *, rivals: bool) -> dict[str, Any]:
    from simsiam_jax.records.environment import environment

    values = environment(device)
    if rivals:
        for package in entrants.RIVALS_PACKAGES:
            try:
                values["versions"][package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
    return values
