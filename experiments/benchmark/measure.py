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
from simsiam_jax.records.environment import environment
from simsiam_jax.settings.schema import Config


@dataclass(frozen=True)
class Settings:
    """What to measure, and how.

    Attributes:
      config: Settings of the network, views, batch and compute type.
      stage: One of `workload.STAGES`.
      images: Number of images on the device; None means the platform's usual number.
      source_size: Side of these images in pixels; None means that of the views.
      contenders: Names from `entrants.CONTENDERS`; None means the usual ones.
      variants: Variants of our contender, as `--variant` takes them.
      rounds: Number of rounds, in each of which every contender has a turn.
      seconds: Approximate length of a turn in seconds.
      trace: Folder for a profile of our contender; None means no profile.
    """

    config: Config
    stage: str
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
      show: A function that is given each line of progress.

    Returns:
      The workload that was measured, and its record, to which the caller adds the command.

    Raises:
      InputError: If the settings do not go together.
    """
    config, stage = settings.config, settings.stage
    variants = [entrants.parse_variant(text) for text in settings.variants]
    names = [each.name for each in variants]
    require(len(set(names)) == len(names), f"--variant: two are called {max(names, key=names.count, default='')!r}")
    # This process never starts jax, which would keep memory of the device that is measured.
    found = ask(entrants.jax_contender("survey", "survey", (config, stage)))
    config = config.on(found.platform)
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
        **_environment(found.device, torch=any(name != entrants.OURS for name in contenders)),
    )
    return workload, record


def _environment(device: str, *, torch: bool) -> dict[str, Any]:
    values = environment(device)
    if torch:
        for package in entrants.TORCH_PACKAGES:
            try:
                values["versions"][package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
    return values
