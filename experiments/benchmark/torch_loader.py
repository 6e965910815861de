"""A DataLoader with torchvision's transforms on PIL images: PyTorch's input as most code has it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from jaxtyping import UInt8

from experiments.benchmark.torch_models import import_torchvision
from simsiam_jax.settings.schema import ViewSpec


class Loader:
    """A DataLoader of two views, drawn by torchvision's transforms on PIL images in one process for each core.

    Args:
      images: The images, 0..255.
      spec: How views are drawn.
      batch_size: Images of a batch.
      pin_memory: Whether batches lie in memory that a GPU copies from directly.
    """

    def __init__(self, images: UInt8[np.ndarray, "n size size 3"], spec: ViewSpec, batch_size: int, pin_memory: bool):
        self.sampler = _Batches(len(images), batch_size)
        self.loader = torch.utils.data.DataLoader(
            _Pairs(images, pil_transform(spec)),
            batch_sampler=self.sampler,
            num_workers=torch.get_num_threads(),
            persistent_workers=True,
            multiprocessing_context="fork",  # its default on Linux, but not in a process that was spawned
            pin_memory=pin_memory,
        )

    def batches(self, count: int) -> Iterator[Any]:
        """`count` pairs of views [batch, 3, size, size] and no more: none is made in another contender's turn."""
        self.sampler.count = count
        return iter(self.loader)


class _Pairs(torch.utils.data.Dataset):
    """Images whose items are two views of one image."""

    def __init__(self, images: np.ndarray, transform: Callable[[Any], Any]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        from PIL import Image

        image = Image.fromarray(self.images[index])
        return self.transform(image), self.transform(image)


class _Batches:
    """A batch sampler that gives `count` random batches each time it is iterated."""

    def __init__(self, images: int, batch_size: int):
        self.images, self.batch_size, self.count = images, batch_size, 1

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.count):
            yield torch.randint(self.images, (self.batch_size,)).tolist()


def pil_transform(spec: ViewSpec) -> Callable[[Any], Any]:
    """SimSiam's augmentation as its own code writes it, for a PIL image."""
    transforms = import_torchvision().transforms
    jitter = transforms.ColorJitter(spec.brightness, spec.contrast, spec.saturation, spec.hue)
    blur = transforms.GaussianBlur(max(spec.blur_kernel, 1), spec.blur_sigma)
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(spec.image_size, spec.crop_scale, spec.crop_ratio),
            *([transforms.RandomApply([jitter], spec.jitter_probability)] if spec.jitter_probability else []),
            *([transforms.RandomGrayscale(spec.greyscale_probability)] if spec.greyscale_probability else []),
            *([transforms.RandomApply([blur], spec.blur_probability)] if spec.blur_probability else []),
            transforms.RandomHorizontalFlip(spec.flip_probability),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )
