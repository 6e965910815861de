"""What the benchmark measures of ours: the compiled network, the step of pretraining, and lax's convolutions.

The benchmark reaches `simsiam_jax.study.programs` and the forms of convolutions through this module alone.
"""

from simsiam_jax.models.cpu import lax_form
from simsiam_jax.study.programs import CompiledNetwork
from simsiam_jax.train.outputs import bind
from simsiam_jax.train.steps import Step, pretrain_step

__all__ = ["CompiledNetwork", "lax_form", "training_step"]


def training_step(network: CompiledNetwork) -> Step:
    """The pure step of pretraining, as studies train with it."""
    return bind(
        pretrain_step,
        model=network.simsiam,
        optimizer=network.pretrain_optimizer,
        views=network.program.views,
        method=network.program.method,
    )
