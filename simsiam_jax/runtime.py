"""What must be settled before jax meets its devices: XLA's flags, the compilation cache and how memory is kept.

Launchers call `configure` before they ask jax for anything; whatever the user has set in the environment stays.
"""

import ctypes
import os
from importlib import metadata
from pathlib import Path

# XLA's newer CPU convolution library is slower than the Eigen path for this study's shapes, weight gradients above
# all (measured with jaxlib 0.10.2). The flag is experimental, and XLA aborts on a flag that it does not know, so only
# the versions that it was tried with get it.
_EIGEN_CONVOLUTIONS = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
_EIGEN_CONVOLUTIONS_KNOWN_TO = ("0.10.",)


# glibc's mallopt parameters (malloc.h), and the environment variables by which a user sets them.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def configure() -> None:
    """Sets XLA_FLAGS, jax's persistent compilation cache and how freed memory is kept, where the user has set none."""
    keep_freed_memory()
    flags = os.environ.get("XLA_FLAGS", "")
    name = _EIGEN_CONVOLUTIONS.split("=", maxsplit=1)[0]
    if name not in flags and metadata.version("jaxlib").startswith(_EIGEN_CONVOLUTIONS_KNOWN_TO):
        os.environ["XLA_FLAGS"] = f"{flags} {_EIGEN_CONVOLUTIONS}".strip()
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    # Processes that only keep their memory (PyTorch's in the benchmark) do not load jax.
    import jax

    # jax read its variables when it was imported; those of the environment are for processes that this one starts.
    for variable, option, value in (
        ("JAX_COMPILATION_CACHE_DIR", "jax_compilation_cache_dir", str(cache_home / "simsiam_jax" / "xla")),
        ("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "jax_persistent_cache_min_compile_time_secs", 1.0),
    ):
        if variable not in os.environ:
            os.environ[variable] = str(value)
            jax.config.update(option, value)


def keep_freed_memory() -> None:
    """Lets glibc keep large blocks of memory for the next use rather than give them back to the system.

    XLA allocates hundreds of megabytes for a step on a CPU and frees them after it. Given back each time, the system
    clears every page anew at the next step: a fifth of a ResNet-18 step's processor time. Does nothing where another
    C library or allocator serves, or where MALLOC_ variables or GLIBC_TUNABLES say what the user wants. It must come
    before other threads allocate: the regions that glibc made for them go on giving large blocks back.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_TOP_PAD, 64 * 2**20), (_ARENA_MAX, 1)):
            mallopt(parameter, value)
