"""What must be settled before jax starts: XLA's flags and the compilation cache.

Launchers call `configure` before anything imports jax; whatever the user has set in the environment stays.
"""

import os
from importlib import metadata
from pathlib import Path

# XLA's newer CPU convolution library is slower than the Eigen path for this study's shapes, weight gradients above
# all (measured with jaxlib 0.10.2). The flag is experimental, and XLA aborts on a flag that it does not know, so only
# the versions that it was tried with get it.
_EIGEN_CONVOLUTIONS = "--xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"
_EIGEN_CONVOLUTIONS_KNOWN_TO = ("0.10.",)


def configure() -> None:
    """Sets XLA_FLAGS and jax's persistent compilation cache, where the user has set neither."""
    flags = os.environ.get("XLA_FLAGS", "")
    name = _EIGEN_CONVOLUTIONS.split("=", maxsplit=1)[0]
    if name not in flags and metadata.version("jaxlib").startswith(_EIGEN_CONVOLUTIONS_KNOWN_TO):
        os.environ["XLA_FLAGS"] = f"{flags} {_EIGEN_CONVOLUTIONS}".strip()
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_home / "simsiam_jax" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
