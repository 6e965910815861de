"""SimSiam ablation study in JAX: does self-supervised pretraining help on my images, and by how much?

The names of `__all__` are the stable surface in Python. Each is imported when it is first asked for, so that
`import simsiam_jax` takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simsiam_jax.arrays import export_backbone, extract_features, fit_probe, knn_scores, pretrain
    from simsiam_jax.data.views import two_views
    from simsiam_jax.losses import simsiam_loss
    from simsiam_jax.models import SimSiam, create_backbone
    from simsiam_jax.settings.schema import ViewSpec

__version__ = "0.1.0"

__all__ = [
    "SimSiam",
    "ViewSpec",
    "create_backbone",
    "export_backbone",
    "extract_features",
    "fit_probe",
    "knn_scores",
    "pretrain",
    "simsiam_loss",
    "two_views",
]

_HOMES = {
    "arrays": ("export_backbone", "extract_features", "fit_probe", "knn_scores", "pretrain"),
    "data.views": ("two_views",),
    "losses": ("simsiam_loss",),
    "models": ("SimSiam", "create_backbone"),
    "settings.schema": ("ViewSpec",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            found = getattr(importlib.import_module(f"{__name__}.{home}"), name)
            globals()[name] = found
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
