"""What the benchmark measures of ours: the compiled network, the update of pretraining, and lax's convolutions.

The benchmark reaches `simsiam_jax.study.programs` and the forms of convolutions through this module alone.
"""

from simsiam_jax.models.cpu import lax_form
from simsiam_jax.study.programs import CompiledNetwork
from simsiam_jax.train.epochs import CompiledUpdate, compile_update

__all__ = ["CompiledNetwork", "lax_form", "pretraining_update"]


def pretraining_update(network: CompiledNetwork) -> CompiledUpdate:
    """The update of pretraining, as studies train with it."""
    return compile_update(
        network.pretraining,
        accumulation=network.program.accumulation,
        form=network.accumulate_by,
        platform=network.platform,
    )
