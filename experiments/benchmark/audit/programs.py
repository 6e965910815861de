"""What is compiled: the programs of pretraining, fine-tuning and feature extraction, lowered for H100 cards.

All that the audit knows of our training code stands here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.audit.target import topology
from experiments.benchmark.ours import CompiledNetwork
from experiments.benchmark.workload import CLASSES
from simsiam_jax.data.feed import Batch
from simsiam_jax.errors import require
from simsiam_jax.eval.features import backbone_variables
from simsiam_jax.settings.schema import Config
from simsiam_jax.study.programs import EVALUATION_BATCH
from simsiam_jax.train.devices import AXIS
from simsiam_jax.train.epochs import compile_scan
from simsiam_jax.train.outputs import bind, clean_outputs, compile_outputs
from simsiam_jax.train.steps import Hyper, Update, whole_update

STAGES = ("pretrain", "finetune", "features")

# Updates in a call. What a step costs does not depend on it; enough that XLA keeps the loop.
_UPDATES = 8


@dataclass(frozen=True)
class LoweredProgram:
    """A program on its way to the compiler.

    Attributes:
      lowered: Result of `lower` of the function that training calls.
      steps: Number of steps that a call does.
      images: Images of a step over all devices; in pretraining each is a pair of views.
    """

    lowered: Any
    steps: int
    images: int


def lower(config: Config, stage: str, devices: int, at_once: int | None = None) -> LoweredProgram:
    """Lowers a stage's program for H100 cards.

    Args:
      config: Settings of the network, views, batch and accumulation.
      stage: One of `STAGES`.
      devices: Number of cards.
      at_once: How many micro-batches of an update pass at once; None: all.

    Raises:
      InputError: If the batch cannot be shared out, or jax's CUDA plugin is not installed.
    """
    network = CompiledNetwork(config.program, num_classes=CLASSES, platform="gpu")
    images, program = {
        "pretrain": (config.pretrain.micro_batch_size, _pretraining),
        "finetune": (config.finetune.batch_size, _finetuning),
        "features": (EVALUATION_BATCH, _features),
    }[stage]
    require(
        images % devices == 0,
        f"--devices={devices} cannot share the {images} images of a step of --stage={stage}; give a divisor",
    )
    cards = topology(devices).devices
    function, arguments, steps = program(network, _Places(cards, images, config.image_size, at_once))
    return LoweredProgram(function.lower(*arguments), steps, images)


@dataclass(frozen=True)
class _Places:
    """Describes arrays that lie on the cards.

    Attributes:
      cards: The cards.
      images: Images of a step over all of them.
      size: Side of the images in pixels.
      at_once: How many micro-batches of an update pass at once; None: all.
    """

    cards: Any
    images: int
    size: int
    at_once: int | None

    def on_all(self, tree: Any) -> Any:
        """A tree of which every card holds a copy."""
        return jax.tree.map(lambda leaf: self._array(leaf.shape, leaf.dtype, jax.sharding.PartitionSpec()), tree)

    def batches(self, *steps: int) -> Batch:
        """Batches of so many steps, each card's share on it."""
        shape, shared = (len(self.cards), *steps, self.images // len(self.cards)), jax.sharding.PartitionSpec(AXIS)
        images = self._array((*shape, self.size, self.size, 3), jnp.uint8, shared)
        return Batch(images, self._array(shape, jnp.int32, shared), self._array(shape, jnp.int32, shared))

    def _array(self, shape: tuple[int, ...], dtype: Any, spec: jax.sharding.PartitionSpec) -> jax.ShapeDtypeStruct:
        mesh = jax.sharding.Mesh(np.array(self.cards), (AXIS,))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.NamedSharding(mesh, spec))


_Made = tuple[Any, tuple[Any, ...], int]


def _pretraining(network: CompiledNetwork, place: _Places) -> _Made:
    return _updates(network.pretraining, lambda: network.pretrain_state(0), network.program.accumulation, place)


def _finetuning(network: CompiledNetwork, place: _Places) -> _Made:
    return _updates(network.finetuning, lambda: network.finetune_state(0, _backbone(network)), 1, place)


def _updates(update: Update, state: Callable[[], Any], accumulation: int, place: _Places) -> _Made:
    hyper = Hyper(*(np.zeros(_UPDATES, dtype) for dtype in (np.float32, np.float32, np.uint32, np.int32)))
    arguments = (place.on_all(jax.eval_shape(state)), place.batches(_UPDATES, accumulation), place.on_all(hyper))
    step = whole_update(update, at_once=place.at_once)
    return compile_scan(step, place.cards), arguments, _UPDATES * accumulation


def _features(network: CompiledNetwork, place: _Places) -> _Made:
    outputs = bind(clean_outputs, model=network.backbone, views=network.program.views)
    variables = place.on_all(jax.eval_shape(lambda: _backbone(network)))
    return compile_outputs(outputs, place.cards), (variables, place.batches(), place.on_all(np.uint32(0))), 1


def _backbone(network: CompiledNetwork) -> Any:
    return backbone_variables(network.initial_simsiam(0))
