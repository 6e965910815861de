"""Two CPU devices for every test, set before jax starts; no test touches the network or the home folder."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# The programs here run for milliseconds and compile for seconds: the less the compiler polishes, the better.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
os.environ["MPLBACKEND"] = "agg"
