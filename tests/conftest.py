"""Two CPU devices for every test, set before jax starts; no test touches the network or the home folder."""

import os

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# The programs here run for milliseconds and compile for seconds: the less the compiler polishes, the better.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
os.environ["MPLBACKEND"] = "agg"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keeps tests that share a module's fixture in one process (`--dist=loadgroup`); others go where there is room."""
    for item in items:
        scopes = {each.scope for found in item._fixtureinfo.name2fixturedefs.values() for each in found}
        if "module" in scopes:
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
