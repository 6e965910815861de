"""Imports torchvision for parity tests, as the benchmark does."""

import importlib
import warnings
from types import ModuleType

import pytest


def import_torchvision() -> ModuleType:
    """Imports torchvision with its tensor functions, or skips the calling test where it or torch is missing."""
    with warnings.catch_warnings():
        # These libraries warn while they are imported, and the cause is not ours to mend.
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        # Several threads wait for each other: one is eight times as fast when two processes test on two cores.
        torch.set_num_threads(1)
        from experiments.benchmark import torch_models

        try:
            torchvision = torch_models.import_torchvision()
        except ModuleNotFoundError:
            pytest.skip("torchvision is not installed")
        importlib.import_module("torchvision.transforms.v2.functional")
    return torchvision
