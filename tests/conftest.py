"""Two CPU devices for every test, set before jax starts; no test touches the network or the home folder."""

import os
import shutil
import tempfile

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
# The programs here run for milliseconds and compile for seconds: the less the compiler polishes, the better.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
os.environ["MPLBACKEND"] = "agg"


def pytest_configure(config):
    """Gives every process of this session, launchers too, one folder of compiled programs."""
    # Processes of pytest-xdist get the folder from the one that starts them.
    if not hasattr(config, "workerinput"):
        folder = tempfile.mkdtemp(prefix="simsiam-tests-xla-")
        config.add_cleanup(lambda: shutil.rmtree(folder))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
        # What compiles faster than this is compiled again about as fast as it is read.
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
        # With a limit, jax locks the folder: no process reads what another one has not yet written to its end.
        os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**33)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keeps tests that share a module's fixture in one process (`--dist=loadgroup`); others go where there is room.

    Those that take minutes come first, so that no process is left alone with one at the end.
    """
    for item in items:
        # Each mark says that the next one holds, too, so that `-m` needs one of them.
        for mark, other in (("faults", "exhaustive"), ("exhaustive", "slow")):
            if item.get_closest_marker(mark):
                item.add_marker(other)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        scopes = {each.scope for found in item._fixtureinfo.name2fixturedefs.values() for each in found}
        if "module" in scopes:
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
