"""Imports torchvision for parity tests, also beside a torch build that its compiled operators do not match."""

import functools
import warnings
from types import ModuleType
from typing import Any

import pytest


@functools.cache
def _libraries() -> list[Any]:
    """Operator libraries kept alive: torch forgets the definitions of one that is garbage collected."""
    return []


def import_torchvision() -> ModuleType:
    """torchvision with its tensor functions; skips the calling test where torch or torchvision is missing.

    A torchvision wheel built for CUDA cannot load its operators beside a CPU torch, and its import then fails at
    the two operators that it describes to torch's compiler. They are declared here without code: image
    operations do not call them.
    """
    with warnings.catch_warnings():
        # What these libraries warn of while they are imported is not ours to mend.
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        # Two threads wait for each other: with the tests of two processes on two cores, one is eight times as fast.
        torch.set_num_threads(1)
        try:
            import torchvision
        except RuntimeError as error:
            if "does not exist" not in str(error):
                raise
            library = torch.library.Library("torchvision", "DEF")
            _libraries().append(library)
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            import torchvision
        except ModuleNotFoundError:
            pytest.skip("torchvision is not installed")
        import torchvision.transforms.v2.functional
    return torchvision
