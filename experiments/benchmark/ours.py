"""What the benchmark measures of ours: the networks, the step of pretraining, and lax's convolutions to compare with.

The benchmark reaches `simsiam_jax.study.programs` and the formulations of convolutions through this module alone.
"""

from simsiam_jax.models.layers import plain as lax_convolutions
from simsiam_jax.settings.schema import Config
from simsiam_jax.study.programs import Programs
from simsiam_jax.train.steps import Step, bind, pretrain_step

__all__ = ["Programs", "lax_convolutions", "training_step"]


def training_step(config: Config, programs: Programs) -> Step:
    """The pure step of pretraining, as studies train with it."""
    return bind(
        pretrain_step,
        model=programs.simsiam,
        optimizer=programs.pretrain_optimizer,
        spec=config.views,
        constant_predictor=config.pretrain.constant_predictor_learning_rate,
    )
