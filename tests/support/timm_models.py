"""timm's models for parity tests, with no weight at its initial value."""

from typing import Any

import pytest

from tests.support.torchvision_import import import_torchvision


def import_timm() -> tuple[Any, Any]:
    """Imports (torch, timm), or skips the calling test where one of them is missing."""
    import_torchvision()
    return pytest.importorskip("torch"), pytest.importorskip("timm")


def build_timm(code: str, seed: int = 0) -> Any:
    """Runs code of `timm_code` and draws at random what the initialisation leaves at zero or one.

    These are batch statistics, norms, biases and class tokens. A mistake in how they are carried over would not show
    otherwise.

    Args:
      code: Python code that builds `model`.
      seed: Seed of torch's generator.

    Returns:
      The model in evaluation mode.
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
