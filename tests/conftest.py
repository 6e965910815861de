"""Two CPU devices for every test, set before jax starts; no test touches the network or the home folder."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["MPLBACKEND"] = "agg"
