"""timm's models with weights that leave nothing at its initial value, for parity tests."""

from typing import Any

import pytest

from tests.support.torchvision_import import import_torchvision


def import_timm() -> tuple[Any, Any]:
    """(torch, timm); skips the calling test where one is missing."""
    import_torchvision()
    return pytest.importorskip("torch"), pytest.importorskip("timm")


def build_timm(code: str, seed: int = 0) -> Any:
    """Runs the Python of a backbone's `timm_code` and randomises what initialisation leaves at zero or one.

    Batch statistics, norms, biases and class tokens: a mistake in how they are carried over would otherwise not show.
    """
    torch, _ = import_timm()
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    model = namespace["model"]
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            if name == "cls_token":
                parameter.normal_(0, 0.5)
    return model.eval()
