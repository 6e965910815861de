"""PyTorch's side of the benchmark: the stages of the same pretraining, as fast as PyTorch runs them.

It uses `channels_last`, autocast, `torch.compile` and fused Adam, and on a GPU TF32 and cuDNN's search. Images lie on
the device and are augmented there in batches. The contender `torch_dataloader` instead takes them from a DataLoader
with torchvision's transforms on PIL images, as most code does.

Differs from ours in PyTorch's favour: both views of a batch are augmented in one pass, so one order of the colour
operations serves both.
"""

import contextlib
import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch.nn import functional as F  # pyright: ignore[reportMissingImports]

from experiments.benchmark.contest import Entry, Lane, Numbers, resident_peak
from experiments.benchmark.torch_augment import Augment
from experiments.benchmark.torch_loader import Loader
from experiments.benchmark.torch_models import SimSiam
from experiments.benchmark.workload import CLASSES, Workload
from simsiam_jax.eval.knn import MOST_NEIGHBOURS
from simsiam_jax.settings.schema import Config, OptimizerConfig

EVALUATION_BATCH, QUERIES_PER_CALL = 256, 512

# The mode of torch.compile by contender; None means eager PyTorch.
COMPILE_MODES = {
    "torch": None,
    "torch_compiled": "default",
    "torch_cuda_graphs": "reduce-overhead",
    "torch_dataloader": None,
}


def build(workload: Workload, name: str, timm_code: str) -> Entry:
    """Builds what the process of one of PyTorch's contenders runs.

    Args:
      workload: The stage to run and its size.
      name: The contender's name, a key of `COMPILE_MODES`.
      timm_code: Python code that assigns the backbone, built by timm, to `model`.

    Returns:
      An entry with one lane; its peak memory is the device's, or this process's on a CPU.

    Raises:
      RuntimeError: If CUDA graphs are asked for without a GPU.
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
    """What the stages share: the device, the network, its compiled functions and the resident images.

    Args:
      workload: The stage to run and its size.
      device: The device to compute on, a `torch.device`.
      mode: The mode of torch.compile; None means eager.
      timm_code: Python code that assigns the backbone to `model`.
    """

    def __init__(self, workload: Workload, device: Any, mode: str | None, timm_code: str):
        self.workload, self.config, self.device, self.mode = workload, workload.config, device, mode
        network: Any = SimSiam(timm_code, self.config.program.head)
        self.network = network.to(device, memory_format=torch.channels_last)
        self.loss = self.compiled(self.network.loss)
        self.augment = Augment(self.config.program.views, device, self.compiled)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, through torch.compile if this contender compiles."""
        return function if self.mode is None else torch.compile(function, mode=self.mode, dynamic=False)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """A context that computes in bfloat16 where the benchmark asks for it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.program.dtype == "bfloat16")

    def begin_step(self) -> None:
        """Tells CUDA graphs that the last step's outputs may be overwritten."""
        if self.mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()

    def images(self) -> Any:
        """The resident images, uint8 [n, 3, height, width]."""
        images, _ = self.workload.draw()
        return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(self.device)

    def micro_batches(self) -> Sequence[Any]:
        """The resident images in whole micro-batches."""
        return self.images().split(self.workload.micro_batch_size)[: self.workload.micro_batches]

    def loader(self) -> Loader:
        """The images through a DataLoader."""
        images, _ = self.workload.draw()
        batch_size = self.workload.micro_batch_size
        return Loader(images, self.config.program.views, batch_size, pin_memory=self.device.type == "cuda")


Stage = tuple[Callable[[int], Any], int, int]
"""A function that makes as many calls as it is told, the samples of one call, and the period of a `Lane`."""


def _augment(side: Side) -> Stage:
    batches = itertools.cycle(side.micro_batches())

    def run(calls: int) -> None:
        for _ in range(calls):
            side.begin_step()
            side.augment(next(batches))

    return run, side.workload.micro_batch_size, 1


def _forward(side: Side) -> Stage:
    views = itertools.cycle([tuple(view.clone() for view in side.augment(batch)) for batch in side.micro_batches()])
    side.network.train()

    def run(calls: int) -> None:
        for _ in range(calls):
            side.begin_step()
            with torch.no_grad(), side.autocast():
                side.loss(*next(views))

    return run, side.workload.micro_batch_size, 1


def _step(side: Side) -> Stage:
    batches, trainer = itertools.cycle(side.micro_batches()), Trainer(side)

    def run(calls: int) -> None:
        for _ in range(calls):
            side.begin_step()
            trainer.micro_step(*side.augment(next(batches)))

    return run, side.workload.micro_batch_size, side.workload.accumulation


def _epoch(side: Side) -> Stage:
    images, trainer, size = side.images(), Trainer(side), side.workload.micro_batch_size
    seen = side.workload.micro_batches * size

    def run(calls: int) -> None:
        for _ in range(calls):
            for rows in torch.randperm(len(images), device=side.device)[:seen].split(size):
                side.begin_step()
                trainer.micro_step(*side.augment(images[rows]))

    return run, seen, 1


def _augment_loaded(side: Side) -> Stage:
    loader = side.loader()

    def run(calls: int) -> None:
        for _ in loader.batches(calls):
            pass

    return run, side.workload.micro_batch_size, 1


def _step_loaded(side: Side) -> Stage:
    """Steps fed by the DataLoader; a call is one step, or for the stage `epoch` all `micro_batches` steps."""
    loader, trainer, workload = side.loader(), Trainer(side), side.workload
    steps = workload.micro_batches if workload.stage == "epoch" else 1

    def run(calls: int) -> None:
        for views in loader.batches(calls * steps):
            moved = [view.to(side.device, memory_format=torch.channels_last, non_blocking=True) for view in views]
            trainer.micro_step(*moved)

    return run, workload.micro_batch_size * steps, workload.accumulation if steps == 1 else 1


def _evaluation(side: Side) -> Stage:
    """Computes the features of all images, and kNN of a fifth of them among all."""
    images, evaluation = side.images(), side.config.evaluation
    labels = torch.from_numpy(side.workload.draw()[1]).to(side.device).long()
    backbone = side.compiled(side.network.backbone)
    side.network.eval()
    k = min(evaluation.knn_k or MOST_NEIGHBOURS, len(images))

    def run(calls: int) -> None:
        for _ in range(calls):
            with torch.inference_mode(), side.autocast():
                features = []
                for batch in images.split(EVALUATION_BATCH):
                    side.begin_step()
                    features.append(backbone(side.augment.evaluation_view(batch)).float())
            references = F.normalize(torch.cat(features))
            for queries in references[: -(-len(references) // 5)].split(QUERIES_PER_CALL):
                similarities, rows = (queries @ references.T).topk(k)
                weights = ((similarities - similarities[:, :1]) / evaluation.knn_temperature).exp()
                votes = weights.new_zeros(len(queries), CLASSES).scatter_add_(1, labels[rows], weights)
            votes.cpu()

    return run, len(images), 1


class Trainer:
    """Micro-steps of pretraining, with an update of Adam or SGD after each accumulation.

    Args:
      side: The network, its loss and the settings.
    """

    def __init__(self, side: Side):
        self.side, self.accumulation, self.steps = side, side.workload.accumulation, 0
        self.optimizer = optimizer(side.network, side.config, fused=True)
        side.network.train()
        # CUDA graphs write each gradient to a fixed place. Elsewhere an update's first gradient needs no copy.
        self.keep_gradients = side.mode == "reduce-overhead"
        if self.keep_gradients:
            for parameter in side.network.parameters():
                parameter.grad = torch.zeros_like(parameter)

    def micro_step(self, view1: Any, view2: Any) -> Any:
        """Adds a micro-batch's gradients, and updates the network after the last one of an accumulation.

        Args:
          view1: First views, float32 [batch, 3, size, size].
          view2: Second views of the same images.

        Returns:
          The micro-batch's loss, a scalar.
        """
        with self.side.autocast():
            loss = self.side.loss(view1, view2)
        (loss / self.accumulation).backward()
        self.steps += 1
        if self.steps % self.accumulation == 0:
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=not self.keep_gradients)
        return loss


def optimizer(network: Any, config: Config, *, fused: bool) -> Any:
    """The recipe's optimiser, Adam or SGD with coupled weight decay.

    Args:
      network: A `SimSiam`. Its predictor has a parameter group, and so a learning rate, of its own.
      config: The optimiser's settings, and the batch that scales the learning rate.
      fused: Whether one kernel updates all parameters.
    """
    settings: OptimizerConfig = config.program.optimizer
    predictor = list(network.predictor.parameters())
    others = [*network.backbone.parameters(), *network.projector.parameters()]
    groups = [{"params": others}, {"params": predictor}]
    schedule, accumulation = config.pretrain.schedule, config.program.accumulation
    rate = schedule.peak(micro_batch=config.pretrain.micro_batch_size, accumulation=accumulation)
    if settings.name == "adam":
        return torch.optim.Adam(groups, rate, weight_decay=settings.weight_decay, fused=fused)
    if settings.name != "sgd":
        raise ValueError(f"--optimizer={settings.name}: the benchmark has adam and sgd alone; choose one of them")
    return torch.optim.SGD(groups, rate, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=fused)
