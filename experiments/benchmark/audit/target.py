"""The card that programs are compiled for, described in numbers, so that no such card is needed.

The numbers are public: NVIDIA's data sheet of the H100 SXM5 80 GB (memory, bandwidth, peak rates), its Hopper tuning
guide and the CUDA programming guide's table for compute capability 9.0 (limits of blocks, registers, shared memory).
"""

from typing import Any

import jax
from jax.experimental import topologies

from simsiam_jax.errors import InputError

# Bytes a second between the card's memory and its processors.
BANDWIDTH = 3.35232e12
# Floating-point operations a second of matrix products and convolutions on tensor cores, without sparsity. float32
# means TF32 there, as XLA has it by default.
_PEAK_FLOPS = {"bf16": 989.4e12, "f16": 989.4e12, "f32": 494.7e12}
# The same in full float32, where a product asks for the highest precision, or for a type that has no tensor cores.
_PEAK_FLOPS_EXACT = 66.9e12

# XLA's GpuTargetConfigProto in text form.
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 13 minor: 0 patch: 0 }
dnn_version_info { major: 9 minor: 12 patch: 0 }
gpu_device_info {
  driver_version: "13.0.0"
  runtime_version: "13.0.0"
  compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.12.0"
  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: 84942979072
  l2_cache_size: 52428800
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""


def peak_flops(dtype: str, exact: bool = False) -> float:
    """Floating-point operations a second of matrix products.

    Args:
      dtype: Name of the operands' type in XLA, such as `bf16`.
      exact: Whether float32 is meant in full, not as TF32.
    """
    return _PEAK_FLOPS_EXACT if exact and dtype == "f32" else _PEAK_FLOPS.get(dtype, _PEAK_FLOPS_EXACT)


def topology(devices: int) -> Any:
    """Descriptions of so many H100 cards in one machine, for `jax.pmap(..., devices=topology(n).devices)`.

    Args:
      devices: Number of cards, 1 or more.

    Raises:
      InputError: If jax's CUDA plugin is not installed.
    """
    # Asked for a CUDA device, jax would look for a driver and leave the plugin out where there is none.
    jax.config.update("jax_platforms", "cpu")
    try:
        return topologies.get_topology_desc(
            platform="cuda", topology_name="h100", topology=f"1x1x{devices}", target_config=H100
        )
    except Exception as fault:
        raise InputError(f'the audit needs jax\'s CUDA plugin: pip install -e ".[audit]" ({fault})') from fault
