"""Where a number was measured: the revision, the versions and the device."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy", "simsiam_jax")


def environment(device: str | None = None) -> dict[str, Any]:
    """What every result says of where it was measured: `git_revision`, `versions` by package, and `device` in words.

    Args:
      device: The device's name, where another process has measured; None asks jax for this process's devices.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"git_revision": git_revision(Path(__file__)), "versions": versions, "device": device or device_name()}


def git_revision(source: Path) -> str:
    """The commit that the file `source` is tracked in, "-dirty" appended when tracked files differ from it.

    "unknown" outside a repository, in one that does not track the file (a virtual environment inside some other
    project) and where git is missing.
    """
    try:
        subprocess.run(
            ["git", "ls-files", "--error-unmatch", source.name],
            cwd=source.parent, capture_output=True, timeout=20, check=True,
        )  # fmt: skip
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=source.parent, capture_output=True, timeout=20, check=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip() or "unknown"


def device_name() -> str:
    """The devices in words, such as `2 processes × 8 × NVIDIA H100`, or `1 × cpu (AMD EPYC, 2 cores)`."""
    devices = jax.local_devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        kind = f"cpu ({_processor()}, {os.cpu_count()} cores)"
    processes = f"{jax.process_count()} processes × " if jax.process_count() > 1 else ""
    return f"{processes}{len(devices)} × {kind}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
