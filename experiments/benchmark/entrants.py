"""Who takes part in a benchmark: ours, ours with other flags, PyTorch's and a matrix product; imports nothing heavy."""

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmark.contest import Contender
from experiments.benchmark.workload import Workload
from simsiam_jax.errors import InputError, require

OURS, MATMUL = "jax", "matmul"

# PyTorch's, by the flag's name: what the table calls them, and the stages that they have.
RIVALS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "torch": ("torch", ("augment", "forward", "step", "epoch", "eval")),
    "torch_compiled": ("torch compiled", ("augment", "forward", "step", "epoch", "eval")),
    "torch_cuda_graphs": ("torch CUDA graphs", ("augment", "forward", "step", "epoch", "eval")),
    "torch_dataloader": ("torch dataloader", ("augment", "step", "epoch")),
}
CONTENDERS = (OURS, *RIVALS)
RIVALS_PACKAGES = ("torch", "torchvision", "timm")

_STAGES = "experiments.benchmark.stages"

# One device, whatever the machine has: of equal flags XLA takes the last.
_ONE_CPU_DEVICE = "--xla_force_host_platform_device_count=1"


@dataclass(frozen=True)
class Variant:
    """Ours under other conditions.

    Attributes:
      name: As the table calls it, after `jax`.
      xla_flags: Added to those that all have.
      plainly: Whether convolutions are lax's own.
    """

    name: str
    xla_flags: tuple[str, ...]
    plainly: bool


def parse_variant(text: str) -> Variant:
    """A variant from `NAME=--xla_flag=VALUE, --xla_flag=VALUE` or `NAME=plain`, in any combination.

    Raises:
      InputError: If it is neither.
    """
    name, equals, settings = text.partition("=")
    # Not at every comma: a flag's value may be a list.
    parts = [part.strip() for part in re.split(r"[,\s]+(?=--|plain$)", settings.strip())]
    known = all(part == "plain" or re.fullmatch(r"--xla_\w+(=\S*)?", part) for part in parts)
    require(
        bool(name.strip() and equals and known),
        f"--variant={text}: give NAME=--xla_flag=VALUE, NAME=--xla_one=VALUE,--xla_two=VALUE, or NAME=plain",
    )
    return Variant(name.strip(), tuple(part for part in parts if part != "plain"), "plain" in parts)


def usual_contenders(stage: str, platform: str) -> list[str]:
    """Who takes part where the user says nothing."""
    names = [OURS, "torch", "torch_compiled"]
    if platform != "cpu":
        names.append("torch_cuda_graphs")
    return [*names, "torch_dataloader"] if stage == "step" else names


def check_contenders(names: Sequence[str], stage: str) -> None:
    """Raises an InputError for a contender that is unknown, named twice, or has no such stage."""
    require(bool(names), f"--contenders names nobody; known: {', '.join(CONTENDERS)}")
    for name in names:
        require(name in CONTENDERS, f"--contenders: unknown contender {name!r}; known: {', '.join(CONTENDERS)}")
        require(names.count(name) == 1, f"--contenders names {name} twice")
        if name in RIVALS and stage not in RIVALS[name][1]:
            raise InputError(f"--contenders: {name} has no --stage={stage}; it has {', '.join(RIVALS[name][1])}")


def missing_packages() -> list[str]:
    """What PyTorch's side needs and is not installed."""
    return [name for name in RIVALS_PACKAGES if importlib.util.find_spec(name) is None]


def entrants(
    workload: Workload,
    names: Sequence[str],
    *,
    rival: str,
    timm_code: str,
    variants: Sequence[Variant] = (),
    trace: Path | None = None,
) -> list[Contender]:
    """The contenders in the order of the first round, a matrix product after them.

    Args:
      workload: What they do.
      names: Of `CONTENDERS`.
      rival: `module:function` of PyTorch's side, a function of (workload, name, timm_code).
      timm_code: Python that builds the backbone in timm.
      variants: Of ours.
      trace: A folder for our profile.
    """
    found = []
    for name in names:
        if name == OURS:
            found.append(jax_contender(OURS, "ours", (workload, False, trace), required=True))
        else:
            found.append(Contender(RIVALS[name][0], rival, (workload, name, timm_code), _torch_environment()))
    for variant in variants:
        arguments = (workload, variant.plainly)
        found.append(jax_contender(f"{OURS} {variant.name}", "ours", arguments, xla_flags=variant.xla_flags))
    return [*found, jax_contender(MATMUL, "matrix_product", (workload.config.dtype,))]


def jax_contender(
    name: str, function: str, arguments: tuple, *, xla_flags: Sequence[str] = (), required: bool = False
) -> Contender:
    """A contender of `stages.py`, with this process's XLA_FLAGS and more."""
    environment = {
        **_one_device(),
        "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), _ONE_CPU_DEVICE, *xla_flags]).strip(),
        # Compile seconds are to be the compiler's.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        # Two frameworks share the memory.
        "XLA_PYTHON_CLIENT_PREALLOCATE": os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
    }
    return Contender(name, f"{_STAGES}:{function}", arguments, environment, required)


def _torch_environment() -> dict[str, str]:
    return {**_one_device(), "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}


def _one_device() -> dict[str, str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[0]}
