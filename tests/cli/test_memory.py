"""A command keeps freed memory for its next step, whichever libraries have started threads before it is configured."""

import subprocess
import sys

import pytest

# A thread that allocates before `configure`, as those of libraries do, takes 128 MiB and frees them thrice after it.
_COMMAND = """
import simsiam_jax.cli.guard
import ctypes
import resource
import threading

c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
c.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
started, configured = threading.Event(), threading.Event()

def allocate(size):
    block = c.malloc(size)
    c.memset(block, 1, size)
    c.free(block)

def work():
    allocate(1000)
    started.set()
    configured.wait()
    allocate(2**27)
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    for _ in range(2):
        allocate(2**27)
    print(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
started.wait()
simsiam_jax.cli.guard.runtime.configure()
configured.set()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_what_a_thread_frees_is_not_given_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", _COMMAND], capture_output=True, text=True, check=True)
    # Given back, each of the two would fault in 32,768 pages of 4 KiB.
    assert int(done.stdout) < 1000
