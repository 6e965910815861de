"""PyTorch's side of experiments.benchmark: the same pretraining, as fast as PyTorch gets it.

`channels_last`, autocast, `torch.compile`, fused Adam, TF32 and cuDNN's search on a GPU; images resident on the device
and augmented there in batches, or, as most code has it, a DataLoader with torchvision's transforms on PIL images.

Differs from ours, in PyTorch's favour: both views of a batch are augmented in one pass, so one order of the colour
operations serves both.
"""

import contextlib
import functools
import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from experiments.benchmark.contest import Entry, Lane, Numbers, resident_peak
from experiments.benchmark.workload import CLASSES, Workload
from simsiam_jax.settings.schema import Config, HeadConfig, OptimizerConfig, ViewSpec

LUMA = (0.2989, 0.587, 0.114)
CROP_TRIES = 10
# Of red, green and blue, in sixths of the circle.
OPPOSITE_HUES = (3.0, 5.0, 1.0)
EVALUATION_BATCH, QUERIES_PER_CALL = 256, 512

# How torch.compile is asked, by contender; None: not at all.
COMPILE_MODES = {
    "torch": None,
    "torch_compiled": "default",
    "torch_cuda_graphs": "reduce-overhead",
    "torch_dataloader": None,
}


def build(workload: Workload, name: str, timm_code: str) -> Entry:
    """What a contender's process runs.

    Args:
      workload: The stage and its size.
      name: A key of `COMPILE_MODES`.
      timm_code: Python that builds the backbone, as `model`.

    Raises:
      RuntimeError: For CUDA graphs without a GPU.
    """
    mode = COMPILE_MODES[name]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if mode == "reduce-overhead" and device.type != "cuda":
        raise RuntimeError("CUDA graphs need a GPU")
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    # What inductor warns of (few multiprocessors, TF32) is no news to a benchmark.
    warnings.simplefilter("ignore")
    side = Side(workload, device, mode, timm_code)
    from_loader = name == "torch_dataloader"
    stages = {
        "augment": _augment_loaded if from_loader else _augment,
        "forward": _forward,
        "step": _step_loaded if from_loader else _step,
        "epoch": _step_loaded if from_loader else _epoch,
        "eval": _evaluation,
    }
    run, samples, period = stages[workload.stage](side)

    def finish() -> Numbers:
        cuda = device.type == "cuda"
        return {"peak_bytes": torch.cuda.max_memory_allocated() if cuda else resident_peak()}

    def run_and_wait(calls: int) -> None:
        run(calls)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return Entry({"": Lane(run_and_wait, samples, period, compiles=mode is not None)}, finish)


class Side:
    """What the stages share: the device, the network, its compiled functions and the resident images."""

    def __init__(self, workload: Workload, device: Any, mode: str | None, timm_code: str):
        self.workload, self.config, self.device, self.mode = workload, workload.config, device, mode
        network: Any = SimSiam(timm_code, self.config.head)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.loss = self.compiled(self.network.loss)
        self.augment = Augment(self.config.views, device, self.compiled)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function through torch.compile, if this contender does that."""
        return function if self.mode is None else torch.compile(function, mode=self.mode, dynamic=False)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Half the bits where the benchmark asks for them."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def begin_step(self) -> None:
        """Tells CUDA graphs that the outputs of the last step may be overwritten."""
        if self.mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()

    def images(self) -> Any:
        """The resident images, uint8 [n, 3, height, width]."""
        images, _ = self.workload.draw()
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(self.device)

    def micro_batches(self) -> Sequence[Any]:
        """The resident images in whole micro-batches."""
        return self.images().split(self.config.pretrain.micro_batch_size)[: self.workload.micro_batches]


Stage = tuple[Callable[[int], Any], int, int]
"""A function that makes so many calls, the samples of one, and after how many calls the work repeats."""


def _augment(side: Side) -> Stage:
    batches = itertools.cycle(side.micro_batches())

    def run(calls: int) -> None:
        for _ in range(calls):
            side.begin_step()
            side.augment(next(batches))

    return run, side.config.pretrain.micro_batch_size, 1


def _forward(side: Side) -> Stage:
    views = itertools.cycle([tuple(view.clone() for view in side.augment(batch)) for batch in side.micro_batches()])
    side.network.train()

    def run(calls: int) -> None:
        for _ in range(calls):
            side.begin_step()
            with torch.no_grad(), side.autocast():
                side.loss(*next(views))

    return run, side.config.pretrain.micro_batch_size, 1


def _step(side: Side) -> Stage:
    batches, trainer = itertools.cycle(side.micro_batches()), Trainer(side)

    def run(calls: int) -> None:
        for _ in range(calls):
            side.begin_step()
            trainer.micro_step(*side.augment(next(batches)))

    return run, side.config.pretrain.micro_batch_size, side.config.pretrain.accumulation


def _epoch(side: Side) -> Stage:
    images, trainer, size = side.images(), Trainer(side), side.config.pretrain.micro_batch_size
    seen = side.workload.micro_batches * size

    def run(calls: int) -> None:
        for _ in range(calls):
            for rows in torch.randperm(len(images), device=side.device)[:seen].split(size):
                side.begin_step()
                trainer.micro_step(*side.augment(images[rows]))

    return run, seen, 1


def _augment_loaded(side: Side) -> Stage:
    loader = Loader(side)

    def run(calls: int) -> None:
        for _ in loader.batches(calls):
            pass

    return run, side.config.pretrain.micro_batch_size, 1


def _step_loaded(side: Side) -> Stage:
    """Also an epoch: `micro_batches` steps in a call instead of one."""
    loader, trainer, pretrain = Loader(side), Trainer(side), side.config.pretrain
    steps = side.workload.micro_batches if side.workload.stage == "epoch" else 1

    def run(calls: int) -> None:
        for views in loader.batches(calls * steps):
            moved = [view.to(side.device, memory_format=torch.channels_last, non_blocking=True) for view in views]
            trainer.micro_step(*moved)

    return run, pretrain.micro_batch_size * steps, pretrain.accumulation if steps == 1 else 1


def _evaluation(side: Side) -> Stage:
    """Features of all images, and kNN of a fifth of them among all."""
    images, evaluation = side.images(), side.config.evaluation
    labels = torch.from_numpy(side.workload.draw()[1]).to(side.device).long()
    backbone = side.compiled(side.network.backbone)
    side.network.eval()
    k = min(evaluation.knn_k, len(images))

    def run(calls: int) -> None:
        for _ in range(calls):
            with torch.inference_mode(), side.autocast():
                features = []
                for batch in images.split(EVALUATION_BATCH):
                    side.begin_step()
                    features.append(backbone(side.augment.evaluation_view(batch)).float())
            bank = F.normalize(torch.cat(features))
            for queries in bank[: -(-len(bank) // 5)].split(QUERIES_PER_CALL):
                nearest, rows = (queries @ bank.T).topk(k)
                weights = ((nearest - nearest[:, :1]) / evaluation.knn_temperature).exp()
                votes = weights.new_zeros(len(queries), CLASSES).scatter_add_(1, labels[rows], weights)
            votes.cpu()

    return run, len(images), 1


class Trainer:
    """Micro-steps of pretraining: gradients averaged over an update's, Adam or SGD, the predictor at its own rate."""

    def __init__(self, side: Side):
        self.side, self.accumulation, self.steps = side, side.config.pretrain.accumulation, 0
        self.optimizer = optimizer(side.network, side.config, fused=True)
        side.network.train()
        # CUDA graphs write every gradient to a place of its own; elsewhere the first of an update is taken as it is.
        self.keep_gradients = side.mode == "reduce-overhead"
        if self.keep_gradients:
            for parameter in side.network.parameters():
                parameter.grad = torch.zeros_like(parameter)

    def micro_step(self, view1: Any, view2: Any) -> Any:
        """One micro-batch, and the update if it is the last of one; returns the loss."""
        with self.side.autocast():
            loss = self.side.loss(view1, view2)
        (loss / self.accumulation).backward()
        self.steps += 1
        if self.steps % self.accumulation == 0:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=not self.keep_gradients)
        return loss


def optimizer(network: Any, config: Config, *, fused: bool) -> Any:
    """The recipe's optimiser with coupled weight decay; the predictor has a group, and so a rate, of its own."""
    settings: OptimizerConfig = config.pretrain.optimizer
    predictor = list(network.predictor.parameters())
    others = [*network.backbone.parameters(), *network.projector.parameters()]
    groups = [{"params": others}, {"params": predictor}]
    rate = settings.peak_learning_rate(config.pretrain.effective_batch)
    if settings.name == "adam":
        return torch.optim.Adam(groups, rate, weight_decay=settings.weight_decay, fused=fused)
    return torch.optim.SGD(groups, rate, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=fused)


class SimSiam(nn.Module):
    """Equations (1) to (3) on a timm backbone; the heads' layers are named as ours.

    Args:
      timm_code: Python that builds the backbone, as `model`.
      head: The heads' sizes.
    """

    def __init__(self, timm_code: str, head: HeadConfig):
        super().__init__()
        names: dict[str, Any] = {}
        import_torchvision()  # timm does, and cannot mend it
        exec(timm_code, names)
        self.backbone = names["model"]
        layers = []
        for layer in range(1, head.projector_layers + 1):
            last, width = layer == head.projector_layers, head.projector_dim
            norm = head.projector_output_norm if last else "affine"
            inputs = self.backbone.num_features if layer == 1 else width
            layers.append((f"fc{layer}", nn.Linear(inputs, width, bias=norm == "none")))
            if norm != "none":
                layers.append((f"bn{layer}", nn.BatchNorm1d(width, affine=norm == "affine")))
            if not last:
                layers.append((f"relu{layer}", nn.ReLU(inplace=True)))
        self.projector = _named(layers)
        self.predictor = _named(
            [
                ("fc1", nn.Linear(head.projector_dim, head.predictor_dim, bias=False)),
                ("bn1", nn.BatchNorm1d(head.predictor_dim)),
                ("relu1", nn.ReLU(inplace=True)),
                ("fc2", nn.Linear(head.predictor_dim, head.projector_dim)),
            ]
        )

    def forward(self, view: Any) -> tuple[Any, Any]:
        """One view's p and z."""
        z = self.projector(self.backbone(view))
        return self.predictor(z), z

    def loss(self, view1: Any, view2: Any) -> Any:
        """Equation (3); two passes, so that each view is normalised by its own batch."""
        (p1, z1), (p2, z2) = self(view1), self(view2)
        return simsiam_loss(p1, p2, z1, z2)


def _named(layers: Sequence[tuple[str, Any]]) -> Any:
    network = nn.Sequential()
    for name, layer in layers:
        network.add_module(name, layer)
    return network


def simsiam_loss(p1: Any, p2: Any, z1: Any, z2: Any) -> Any:
    """Equation (3) in float32."""

    def similarity(p: Any, z: Any) -> Any:
        return F.cosine_similarity(p.float(), z.detach().float()).mean()

    return -0.5 * (similarity(p1, z2) + similarity(p2, z1))


class Draws(NamedTuple):
    """What a batch's views are made with, a value an image; the order is one for the batch.

    Attributes:
      boxes: (top, left, height, width) in pixels.
      flips: bool.
      jittered: bool.
      factors: [batch, 4], of brightness, contrast, saturation and hue.
      order: Of the four.
      grey: bool.
      blurred: bool.
      sigma: In pixels.
    """

    boxes: Any
    flips: Any
    jittered: Any
    factors: Any
    order: Sequence[int]
    grey: Any
    blurred: Any
    sigma: Any


class Augment:
    """Two views of a batch of uint8 images, with SimSiam's operations as batched functions on the device.

    Args:
      spec: How views are drawn.
      device: Where images are.
      compiled: What to pass each operation through; one by one, as their order is drawn anew for each batch.
    """

    def __init__(
        self,
        spec: ViewSpec,
        device: Any,
        compiled: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda each: each,
    ):
        self.spec = spec
        # Made once: sending a constant to a GPU would wait for it.
        constant = functools.partial(torch.tensor, device=device)
        strengths = (spec.brightness, spec.contrast, spec.saturation)
        self.low = constant([*(max(0.0, 1 - strength) for strength in strengths), -spec.hue])
        self.high = constant([*(1 + strength for strength in strengths), spec.hue])
        self.mean, self.std, self.opposite = (
            constant(values)[:, None, None] for values in (spec.mean, spec.std, OPPOSITE_HUES)
        )
        self.draw_numbers, self.crop, self.finish = compiled(self._draw), compiled(self._crop), compiled(self._finish)
        self.colour = [compiled(each) for each in (adjust_brightness, adjust_contrast, adjust_saturation, self._hue)]

    def __call__(self, images: Any) -> tuple[Any, Any]:
        """Both views, normalised float32 [batch, 3, size, size], channels last."""
        views = self.apply(torch.cat([images, images]), self.draw(2 * len(images), images))
        return views[: len(images)], views[len(images) :]

    def draw(self, count: int, images: Any) -> Draws:
        """Numbers for so many views of images like these."""
        _, _, height, width = images.shape
        numbers = torch.rand(count, 2 * CROP_TRIES + 11, device=images.device)
        boxes, flips, jittered, factors, grey, blurred, sigma = self.draw_numbers(numbers, height, width)
        order = torch.randperm(len(self.colour)).tolist()
        return Draws(boxes, flips, jittered, factors, order, grey, blurred, sigma)

    def apply(self, images: Any, draws: Draws) -> Any:
        """The views of uint8 images [batch, 3, height, width]."""
        cropped = self.crop(images, draws.boxes, draws.flips)
        result = cropped
        if self.spec.jitter_probability > 0:
            for index in draws.order:
                result = self.colour[index](result, draws.factors[:, index, None, None, None])
        return self.finish(cropped, result, draws.jittered, draws.grey, draws.blurred, draws.sigma)

    def _draw(self, numbers: Any, height: int, width: int) -> tuple[Any, ...]:
        spec, first = self.spec, 2 * CROP_TRIES + 2
        boxes = crop_boxes(numbers[:, :first], height, width, spec.crop_scale, spec.crop_ratio)
        flip, jitter, grey, blur, sigma = numbers[:, first : first + 5].unbind(1)
        return (
            boxes,
            flip < spec.flip_probability,
            jitter < spec.jitter_probability,
            self.low + (self.high - self.low) * numbers[:, first + 5 : first + 9],
            grey < spec.greyscale_probability,
            blur < spec.blur_probability,
            spec.blur_sigma[0] + (spec.blur_sigma[1] - spec.blur_sigma[0]) * sigma,
        )

    def _crop(self, images: Any, boxes: Any, flips: Any) -> Any:
        _, _, height, width = images.shape
        top, left, box_height, box_width = boxes.unbind(1)
        rows = resize_filters(top, box_height, height, self.spec.image_size)
        columns = resize_filters(left, box_width, width, self.spec.image_size)
        columns = torch.where(flips[:, None, None], columns.flip(1), columns)
        return rows[:, None] @ (images.float() / 255) @ columns[:, None].mT

    def _hue(self, images: Any, shift: Any) -> Any:
        return adjust_hue(images, shift, self.opposite)

    def evaluation_view(self, images: Any) -> Any:
        """uint8 images as evaluation sees them: shorter side resized, centre cropped, normalised."""
        images, size = images.float() / 255, self.spec.image_size
        shorter = min(images.shape[2:])
        if shorter != size or images.shape[2] != images.shape[3]:
            resized = [size * side // shorter for side in images.shape[2:]]
            images = F.interpolate(images, resized, mode="bilinear", antialias=True)
            top, left = (round((side - size) / 2) for side in resized)
            images = images[:, :, top : top + size, left : left + size]
        return ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def _finish(self, cropped: Any, result: Any, jittered: Any, grey: Any, blurred: Any, sigma: Any) -> Any:
        spec = self.spec
        result = torch.where(_each(jittered), result, cropped)
        if spec.greyscale_probability > 0:
            result = torch.where(_each(grey), luma(result).expand_as(result), result)
        if spec.blur_probability > 0 and spec.blur_kernel > 1:
            blurs = blur_matrices(sigma, spec.blur_kernel, spec.image_size)[:, None]
            result = torch.where(_each(blurred), blurs @ result @ blurs.mT, result)
        return ((result - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def _each(values: Any) -> Any:
    return values[:, None, None, None]


def crop_boxes(numbers: Any, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Any:
    """RandomResizedCrop's boxes (top, left, height, width) from 22 uniform numbers an image, ten tries at once."""
    tries = numbers[:, : 2 * CROP_TRIES].reshape(-1, CROP_TRIES, 2)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * tries[..., 1])
    heights, widths = torch.sqrt(area / aspect).round(), torch.sqrt(area * aspect).round()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.int().argmax(1, keepdim=True)
    found = fits.any(1)
    # Where no try fits: the largest central box of an allowed ratio.
    central = (min(height, round(width / ratio[0])), min(width, round(height * ratio[1])))
    box_height = torch.where(found, heights.gather(1, first)[:, 0], central[0])
    box_width = torch.where(found, widths.gather(1, first)[:, 0], central[1])
    above, beside = height - box_height, width - box_width
    top = torch.where(found, torch.minimum((numbers[:, -2] * (above + 1)).floor(), above), (above / 2).floor())
    left = torch.where(found, torch.minimum((numbers[:, -1] * (beside + 1)).floor(), beside), (beside / 2).floor())
    return torch.stack([top, left, box_height, box_width], 1)


def resize_filters(start: Any, length: Any, input_size: int, output_size: int) -> Any:
    """Antialiased bilinear resampling of [start, start + length) as matrices [batch, output, input]."""
    start, length = start[:, None, None], length[:, None, None]
    pixels = torch.arange(input_size, device=start.device) - start
    outputs = torch.arange(output_size, device=start.device)[:, None]
    distance = ((2 * pixels + 1) * output_size - (2 * outputs + 1) * length).abs()
    weights = (2 * length.clamp(min=output_size) - distance).clamp(min=0) * ((pixels >= 0) & (pixels < length))
    return weights / weights.sum(-1, keepdim=True)


def luma(images: Any) -> Any:
    """Grey levels [batch, 1, height, width]."""
    red, green, blue = images.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def adjust_brightness(images: Any, factor: Any) -> Any:
    """From black to the image and beyond, in 0..1."""
    return (images * factor).clamp(0, 1)


def adjust_contrast(images: Any, factor: Any) -> Any:
    """From the mean grey level to the image and beyond, in 0..1."""
    return torch.lerp(luma(images.mean((2, 3), keepdim=True)), images, factor).clamp(0, 1)


def adjust_saturation(images: Any, factor: Any) -> Any:
    """From grey to the image and beyond, in 0..1."""
    return torch.lerp(luma(images), images, factor).clamp(0, 1)


def adjust_hue(images: Any, shift: Any, opposite: Any) -> Any:
    """Rotates the hue by a share of the circle; each channel from its distance to the hue opposite to it."""
    value, lowest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    chroma = value - lowest
    divisor = torch.where(chroma == 0, 1.0, chroma)
    red, green, blue = (channel[:, None] for channel in images.unbind(1))
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    distance = hue + 6 * shift - opposite
    distance = distance - 6 * (distance / 6).round()
    return value - chroma * (2 - distance.abs()).clamp(0, 1)


def blur_matrices(sigma: Any, kernel_size: int, size: int) -> Any:
    """Gaussian blur along an axis, mirrored at its ends, as matrices [batch, size, size].

    Products with them take an eighth of the time that a sum of shifted images does in eager PyTorch at 224 pixels, and
    a little less than grouped convolutions.
    """
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    taps = taps / taps.sum(1, keepdim=True)
    sources = (torch.arange(size, device=sigma.device)[:, None] + offsets).abs()
    sources = torch.where(sources >= size, 2 * (size - 1) - sources, sources)  # [size, kernel]
    shape = (len(sigma), size, kernel_size)
    return taps.new_zeros(len(sigma), size, size).scatter_add(2, sources.expand(shape), taps[:, None].expand(shape))


class Loader:
    """A DataLoader of two views, drawn by torchvision's transforms on PIL images in a process a core."""

    def __init__(self, side: Side):
        images, _ = side.workload.draw()
        self.sampler = _Batches(len(images), side.config.pretrain.micro_batch_size)
        self.loader = torch.utils.data.DataLoader(
            _Pairs(images, pil_transform(side.config.views)),
            batch_sampler=self.sampler,
            num_workers=torch.get_num_threads(),
            persistent_workers=True,
            multiprocessing_context="fork",  # its default on Linux, but not in a process that was spawned
            pin_memory=side.device.type == "cuda",
        )

    def batches(self, count: int) -> Iterator[Any]:
        """So many batches and no more: none is made ahead in another contender's turn."""
        self.sampler.count = count
        return iter(self.loader)


class _Pairs(torch.utils.data.Dataset):
    def __init__(self, images: np.ndarray, transform: Callable[[Any], Any]):
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        from PIL import Image

        image = Image.fromarray(self.images[index])
        return self.transform(image), self.transform(image)


class _Batches:
    """Random batches, `count` of them each time round."""

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


_DECLARED: list[Any] = []


def import_torchvision() -> Any:
    """torchvision, also where its compiled operators do not load beside this torch.

    It then fails at two operators that it describes to torch's compiler; they are declared here without code, which
    transforms of PIL images never call. torch forgets a declaration whose library is garbage collected.
    """
    with contextlib.suppress(RuntimeError):
        import torchvision.transforms  # pyright: ignore[reportMissingImports]

        return torchvision
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)
    import torchvision.transforms  # pyright: ignore[reportMissingImports]

    return torchvision
