"""The networks and compiled functions of a study, and the weights that go into them."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from simsiam_jax.errors import require
from simsiam_jax.eval.features import Extract, extractor
from simsiam_jax.models import Classifier, SimSiam, backbone_fields, create_backbone
from simsiam_jax.settings.schema import ProgramConfig
from simsiam_jax.train.devices import AXIS
from simsiam_jax.train.epochs import RunEpoch, compile_update, epoch_runner
from simsiam_jax.train.optimizer import create_optimizer
from simsiam_jax.train.outputs import bind, compile_outputs, heldout_outputs
from simsiam_jax.train.state import TrainState, create_state
from simsiam_jax.train.steps import Update, finetuning, pretraining

Variables = dict[str, Any]

# Images in a call over all devices where nothing is learned.
EVALUATION_BATCH = 256


class CompiledNetwork:
    """The networks and compiled functions of a `ProgramConfig`, each made when first asked for and shared by units.

    Nothing else of a run's settings is at hand here, so that two runs with equal program configs can share it.

    Args:
      program: Everything that changes a compiled program.
      num_classes: Outputs of the classifier, which only fine-tuning asks for: classes or attributes.
      feed: Name of the feed that brings images to the devices; it changes no result.
      accumulate_by: Form of an update, of `train.epochs.FORMS`; it changes results by rounding alone.
      platform: Name of the devices' platform in jax; None means that of this process's devices.

    Raises:
      InputError: If the patch embedding of a backbone without one is to stay as it is.
    """

    def __init__(
        self,
        program: ProgramConfig,
        num_classes: int = 0,
        feed: str = "auto",
        accumulate_by: str = "auto",
        platform: str | None = None,
    ):
        require(
            not program.method.frozen_patch_embedding or "patch_size" in backbone_fields(program.backbone.name),
            f"--frozen_patch_embedding: --backbone={program.backbone.name} has no patch embedding; leave the flag out",
        )
        self.feed = feed
        self.accumulate_by = accumulate_by
        self.platform = platform or jax.default_backend()
        self.program = program = program.on(self.platform)
        dtype = jnp.dtype(program.dtype)
        self.backbone: nn.Module = create_backbone(
            program.backbone.name, program.image_size, **program.backbone.fields(), dtype=dtype, axis_name=AXIS
        )
        self.simsiam = SimSiam(self.backbone, program.head, dtype=dtype, axis_name=AXIS)
        self.classifier = Classifier(self.backbone, num_classes, dtype=dtype)
        self.pretrain_optimizer = create_optimizer(program.optimizer)
        self.finetune_optimizer = create_optimizer(program.finetune_optimizer)

    @functools.cached_property
    def _initialise_simsiam(self) -> Callable[[jax.Array], Variables]:
        return jax.jit(lambda key: self.simsiam.init(key, self._black_image(), self._black_image()))

    @functools.cached_property
    def _initialise_classifier(self) -> Callable[[jax.Array], Variables]:
        return jax.jit(lambda key: self.classifier.init(key, self._black_image()))

    def _black_image(self) -> jax.Array:
        # Made where it is used: kept from a trace that asks for shapes alone, it would be no array.
        return jnp.zeros((1, self.program.image_size, self.program.image_size, 3))

    def initial_simsiam(self, seed: int, start: Variables | None = None) -> Variables:
        """The network before pretraining; its backbone is also what the arm without pretraining starts from.

        Args:
          seed: Seed of the random weights.
          start: Weights of the backbone in place of random ones.
        """
        return with_backbone(self._initialise_simsiam(jax.random.key(seed)), start)

    def initial_classifier(self, seed: int, backbone: Variables | None) -> Variables:
        """A classifier with a new last layer on the given backbone; None means a random one."""
        return with_backbone(self._initialise_classifier(jax.random.key(seed)), backbone)

    def pretrain_state(self, seed: int, start: Variables | None = None) -> TrainState:
        """The state before the first step of pretraining; arguments as in `initial_simsiam`."""
        return create_state(self.initial_simsiam(seed, start), self.pretrain_optimizer)

    def finetune_state(self, seed: int, backbone: Variables | None) -> TrainState:
        """The state before the first step of fine-tuning; arguments as in `initial_classifier`."""
        return create_state(self.initial_classifier(seed, backbone), self.finetune_optimizer)

    @property
    def pretraining(self) -> Update:
        """The training of SimSiam."""
        return pretraining(
            model=self.simsiam,
            optimizer=self.pretrain_optimizer,
            views=self.program.views,
            method=self.program.method,
        )

    @property
    def finetuning(self) -> Update:
        """The training of a classifier."""
        return finetuning(model=self.classifier, optimizer=self.finetune_optimizer, views=self.program.finetune_views)

    @functools.cached_property
    def pretrain_epoch(self) -> RunEpoch:
        """Runs an epoch of SimSiam."""
        return self._epochs_of(self.pretraining, self.program.accumulation)

    @functools.cached_property
    def finetune_epoch(self) -> RunEpoch:
        """Runs an epoch of fine-tuning."""
        return self._epochs_of(self.finetuning, 1)

    def _epochs_of(self, update: Update, accumulation: int) -> RunEpoch:
        compiled = compile_update(update, accumulation=accumulation, form=self.accumulate_by, platform=self.platform)
        return epoch_runner(compiled, self.feed)

    @functools.cached_property
    def heldout(self) -> Callable[..., dict[str, jax.Array]]:
        """The loss and z of held-out images."""
        return compile_outputs(
            bind(heldout_outputs, model=self.simsiam, views=self.program.views, method=self.program.method)
        )

    @functools.cached_property
    def features(self) -> Extract:
        """The backbone's features of a split."""
        return extractor(self.backbone, self.program.views, batch_size=EVALUATION_BATCH)

    @functools.cached_property
    def logits(self) -> Extract:
        """The classifier's logits of a split."""
        return extractor(self.classifier, self.program.finetune_views, batch_size=EVALUATION_BATCH)


def with_backbone(variables: Variables, backbone: Variables | None) -> Variables:
    """A SimSiam's or a Classifier's variables with those of another backbone in place of its own, unless None."""
    if backbone is None:
        return variables
    # A backbone without batch norm has no statistics; the heads beside it may.
    return {
        name: {**tree, "backbone": backbone[name]} if "backbone" in tree else tree for name, tree in variables.items()
    }
