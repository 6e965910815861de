"""Who takes part in a benchmark: ours, ours with other flags, PyTorch's and a matrix product."""

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmark.contest import Contender
from experiments.benchmark.workload import Workload
from simsiam_jax.errors import require
from simsiam_jax.train.epochs import FORMS

OURS, MATMUL = "jax", "matmul"

# PyTorch's contenders by their name in --contenders: their name in tables, and their stages.
TORCH_CONTENDERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "torch": ("torch", ("augment", "forward", "step", "epoch", "eval")),
    "torch_compiled": ("torch compiled", ("augment", "forward", "step", "epoch", "eval")),
    "torch_cuda_graphs": ("torch CUDA graphs", ("augment", "forward", "step", "epoch", "eval")),
    "torch_dataloader": ("torch dataloader", ("augment", "step", "epoch")),
}
CONTENDERS = (OURS, *TORCH_CONTENDERS)
TORCH_PACKAGES = ("torch", "torchvision", "timm")

_STAGES = "experiments.benchmark.stages"
_TORCH_BUILD = "experiments.benchmark.torch_training:build"

# Each contender has one device, whatever the machine has. XLA takes the last of several equal flags.
_ONE_CPU_DEVICE = "--xla_force_host_platform_device_count=1"


@dataclass(frozen=True)
class Variant:
    """Our contender under other conditions.

    Attributes:
      name: Its name in the table, after `jax`.
      xla_flags: Flags of XLA added to those that all contenders have.
      lax: Whether convolutions are lax's own.
      form: Form of an update, of `train.epochs.FORMS`.
    """

    name: str
    xla_flags: tuple[str, ...]
    lax: bool
    form: str = "auto"


def parse_variant(text: str) -> Variant:
    """A variant from `NAME=--xla_flag=VALUE, --xla_flag=VALUE`, `NAME=lax` or `NAME=FORM`, in any combination.

    A form is one of `train.epochs.FORMS`.

    Raises:
      InputError: If the text has another form.
    """
    name, equals, settings = text.partition("=")
    # Not at every comma: a flag's value may be a list.
    words = ("lax", *FORMS)
    parts = [part.strip() for part in re.split(rf"[,\s]+(?=--|(?:{'|'.join(words)})\b)", settings.strip())]
    known = all(part in words or re.fullmatch(r"--xla_\w+(=\S*)?", part) for part in parts)
    require(
        bool(name.strip() and equals and known),
        f"--variant={text}: give NAME=--xla_flag=VALUE, NAME=--xla_one=VALUE,--xla_two=VALUE, NAME=lax, or NAME=FORM "
        f"of {', '.join(FORMS)}",
    )
    form = next((part for part in parts if part in FORMS), "auto")
    return Variant(name.strip(), tuple(part for part in parts if part not in words), "lax" in parts, form)


def usual_contenders(stage: str, platform: str) -> list[str]:
    """The contenders where --contenders is not given.

    Args:
      stage: One of `workload.STAGES`.
      platform: The platform's name in jax, such as `cpu` or `gpu`.
    """
    names = [OURS, "torch", "torch_compiled"]
    if platform != "cpu":
        names.append("torch_cuda_graphs")
    return [*names, "torch_dataloader"] if stage == "step" else names


def check_contenders(names: Sequence[str], stage: str) -> None:
    """Checks the names of --contenders.

    Raises:
      InputError: If there is none, or if one is unknown, named twice, or does not have the stage.
    """
    require(bool(names), f"--contenders names nobody; known: {', '.join(CONTENDERS)}")
    for name in names:
        require(name in CONTENDERS, f"--contenders: unknown contender {name!r}; known: {', '.join(CONTENDERS)}")
        require(names.count(name) == 1, f"--contenders names {name} twice")
        _, stages = TORCH_CONTENDERS.get(name, (name, (stage,)))
        require(stage in stages, f"--contenders: {name} has no --stage={stage}; it has {', '.join(stages)}")


def missing_packages() -> list[str]:
    """The packages that PyTorch's side needs and that are not installed."""
    return [name for name in TORCH_PACKAGES if importlib.util.find_spec(name) is None]


def entrants(
    workload: Workload,
    names: Sequence[str],
    *,
    timm_code: str,
    variants: Sequence[Variant] = (),
    trace: Path | None = None,
) -> list[Contender]:
    """The contenders in the order of the first round, followed by a matrix product.

    Args:
      workload: What each contender does.
      names: Names from `CONTENDERS`.
      timm_code: Python code that builds the backbone in timm.
      variants: Variants of our contender.
      trace: Folder for a profile of our contender; None means no profile.
    """
    found = []
    for name in names:
        if name == OURS:
            found.append(jax_contender(OURS, "ours", (workload, False, trace), required=True))
        else:
            arguments = (workload, name, timm_code)
            found.append(Contender(TORCH_CONTENDERS[name][0], _TORCH_BUILD, arguments, _torch_environment()))
    for variant in variants:
        arguments = (workload, variant.lax, None, variant.form)
        found.append(jax_contender(f"{OURS} {variant.name}", "ours", arguments, xla_flags=variant.xla_flags))
    return [*found, jax_contender(MATMUL, "matrix_product", (workload.config.program.dtype,))]


def jax_contender(
    name: str, function: str, arguments: tuple, *, xla_flags: Sequence[str] = (), required: bool = False
) -> Contender:
    """A contender that runs a function of `stages.py`.

    Args:
      name: Its name in the table.
      function: The function's name.
      arguments: The function's arguments.
      xla_flags: Flags of XLA added to this process's XLA_FLAGS.
      required: As in `Contender`.
    """
    environment = {
        **_one_device(),
        "XLA_FLAGS": " ".join([os.environ.get("XLA_FLAGS", ""), _ONE_CPU_DEVICE, *xla_flags]).strip(),
        # Compile seconds are the compiler's, not a cache's.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        # Two frameworks share the device's memory.
        "XLA_PYTHON_CLIENT_PREALLOCATE": os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false"),
    }
    return Contender(name, f"{_STAGES}:{function}", arguments, environment, required)


def _torch_environment() -> dict[str, str]:
    return {**_one_device(), "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}


def _one_device() -> dict[str, str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[0]}
