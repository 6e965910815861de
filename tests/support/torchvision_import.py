"""Imports torchvision for parity tests, as the benchmark does."""

import importlib
import warnings
from types import ModuleType

import pytest


def import_torchvision() -> ModuleType:
    """torchvision with its tensor functions; skips the calling test where torch or torchvision is missing."""
    with warnings.catch_warnings():
        # What these libraries warn of while they are imported is not ours to mend.
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch")
        # Two threads wait for each other: with the tests of two processes on two cores, one is eight times as fast.
        torch.set_num_threads(1)
        from experiments.benchmark import torch_models

        try:
            torchvision = torch_models.import_torchvision()
        except ModuleNotFoundError:
            pytest.skip("torchvision is not installed")
        importlib.import_module("torchvision.transforms.v2.functional")
    return torchvision
