"""The networks and compiled functions of a configuration, and weights that go into them."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from simsiam_jax.errors import InputError
from simsiam_jax.eval.features import Extract, backbone_variables, extractor
from simsiam_jax.models import Classifier, SimSiam, create_backbone
from simsiam_jax.settings.schema import Config, EvaluationConfig, FinetuneConfig, NoiseConfig, PretrainConfig
from simsiam_jax.train.checkpoints import Checkpoints
from simsiam_jax.train.devices import AXIS
from simsiam_jax.train.loop import RunEpoch, as_dict, epoch_runner
from simsiam_jax.train.optimizer import direction
from simsiam_jax.train.state import TrainState, create_state
from simsiam_jax.train.steps import bind, compile_outputs, finetune_step, heldout_outputs, pretrain_step

Variables = dict[str, Any]

# Images in a call over all devices where nothing is learned.
EVALUATION_BATCH = 256


class Programs:
    """The networks and compiled functions of a configuration, each made when first asked for and shared by all units.

    Args:
      config: All settings.
      num_classes: Outputs of the classifier, which only fine-tuning asks for: classes or attributes.
      start: The backbone's weights before pretraining; None: random ones, drawn from the seed.
      feed: How training's images reach the devices.
    """

    def __init__(self, config: Config, num_classes: int = 0, start: Variables | None = None, feed: str = "auto"):
        self.config = config
        self.start = start
        self.feed = feed
        dtype = jnp.dtype(config.dtype)
        self.backbone: nn.Module = create_backbone(
            config.backbone.name, config.image_size, **config.backbone.fields(), dtype=dtype, axis_name=AXIS
        )
        self.simsiam = SimSiam(self.backbone, config.head, dtype=dtype, axis_name=AXIS)
        self.classifier = Classifier(self.backbone, num_classes, dtype=dtype)
        self.pretrain_optimizer = direction(config.pretrain.optimizer, accumulation=config.pretrain.accumulation)
        self.finetune_optimizer = direction(config.finetune.optimizer)

    @functools.cached_property
    def _initialise_simsiam(self) -> Callable[[jax.Array], Variables]:
        image = jnp.zeros((1, self.config.image_size, self.config.image_size, 3))
        return jax.jit(lambda key: self.simsiam.init(key, image, image))

    @functools.cached_property
    def _initialise_classifier(self) -> Callable[[jax.Array], Variables]:
        image = jnp.zeros((1, self.config.image_size, self.config.image_size, 3))
        return jax.jit(lambda key: self.classifier.init(key, image))

    def initial_simsiam(self, seed: int) -> Variables:
        """The network before pretraining; its backbone is also what the arm without pretraining starts from."""
        return with_backbone(self._initialise_simsiam(jax.random.key(seed)), self.start)

    def initial_classifier(self, seed: int, backbone: Variables) -> Variables:
        """A classifier with a new last layer on the given backbone."""
        return with_backbone(self._initialise_classifier(jax.random.key(seed)), backbone)

    def pretrain_state(self, seed: int) -> TrainState:
        """The state before the first step of pretraining."""
        return create_state(self.initial_simsiam(seed), self.pretrain_optimizer)

    @functools.cached_property
    def pretrain_epoch(self) -> RunEpoch:
        """Runs an epoch of SimSiam."""
        return epoch_runner(
            bind(
                pretrain_step,
                model=self.simsiam,
                optimizer=self.pretrain_optimizer,
                spec=self.config.views,
                constant_predictor=self.config.pretrain.constant_predictor_learning_rate,
                stop_gradient=self.config.pretrain.stop_gradient,
                symmetric=self.config.pretrain.symmetric,
            ),
            feed=self.feed,
        )

    @functools.cached_property
    def heldout(self) -> Callable[..., dict[str, jax.Array]]:
        """Loss and z of held-out images."""
        return compile_outputs(
            bind(
                heldout_outputs,
                model=self.simsiam,
                spec=self.config.views,
                symmetric=self.config.pretrain.symmetric,
            )
        )

    @functools.cached_property
    def features(self) -> Extract:
        """The backbone's features of a split."""
        return extractor(self.backbone, self.config.views, batch_size=EVALUATION_BATCH)

    @functools.cached_property
    def logits(self) -> Extract:
        """The classifier's logits of a split."""
        return extractor(self.classifier, self.config.finetune_views, batch_size=EVALUATION_BATCH)

    @functools.cached_property
    def finetune_epoch(self) -> RunEpoch:
        """Runs an epoch of fine-tuning."""
        return epoch_runner(
            bind(
                finetune_step,
                model=self.classifier,
                optimizer=self.finetune_optimizer,
                spec=self.config.finetune_views,
            ),
            feed=self.feed,
        )


def compiled_part(config: Config) -> Config:
    """The settings that `Programs` depend on; the others, such as lengths and numbers of labels, at their defaults."""
    pretrain, plain = config.pretrain, PretrainConfig()
    finetune = FinetuneConfig(optimizer=dataclasses.replace(config.finetune.optimizer, learning_rate=1.0))
    return dataclasses.replace(
        config,
        pretrain=dataclasses.replace(
            plain,
            accumulation=pretrain.accumulation,
            optimizer=dataclasses.replace(pretrain.optimizer, learning_rate=1.0, warmup_epochs=0.0),
            constant_predictor_learning_rate=pretrain.constant_predictor_learning_rate,
            stop_gradient=pretrain.stop_gradient,
            symmetric=pretrain.symmetric,
        ),
        finetune=finetune,
        evaluation=EvaluationConfig(),
        noise=NoiseConfig(),
    )


def with_backbone(variables: Variables, backbone: Variables | None) -> Variables:
    """A SimSiam's or a Classifier's variables with those of another backbone in place of its own, unless None."""
    if backbone is None:
        return variables
    # A backbone without batch norm has no statistics; the heads beside it may.
    return {
        name: {**tree, "backbone": backbone[name]} if "backbone" in tree else tree for name, tree in variables.items()
    }


def restore_backbone(programs: Programs, pretrained: Path) -> tuple[Variables, int]:
    """The backbone's variables from the newest undamaged checkpoint of a pretraining, and the epochs behind them.

    Raises:
      InputError: If there is none.
    """
    target = {"state": jax.eval_shape(lambda: programs.pretrain_state(0))}
    with Checkpoints(pretrained / "checkpoints") as checkpoints:
        found = checkpoints.restore_latest(target)
    if found is None:
        raise InputError(f"--checkpoint={pretrained} holds no finished checkpoint: pretrain first")
    epochs, tree, _ = found
    return backbone_variables(TrainState(**as_dict(tree["state"])).variables), epochs
