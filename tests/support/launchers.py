"""Launchers, run as a person runs them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from simsiam_jax.records.results import read_results

ROOT = Path(__file__).parents[2]
# Long enough for any launcher on a machine that is busy with other tests: no test is about time.
PATIENCE = 900
# These cut compiling to a third; what little is run is slower. XLA aborts on a flag that it does not know, and jaxlib
# 0.12 has no second one.
XLA_FLAGS = "--xla_backend_optimization_level=0"
if metadata.version("jaxlib").startswith("0.10."):
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false"


def start(module, *flags, **environment):
    """Starts a launcher in a process of its own, as the only user of one CPU device; SIGINT stops it."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job ignores it, and so would its processes
    try:
        return subprocess.Popen(
            [sys.executable, "-m", f"experiments.{module}", *flags],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": XLA_FLAGS, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def free_address():
    """An address of this machine that no process listens at, for the first of several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def finish(process):
    """Waits for a launcher, and returns what it printed and its exit code."""
    try:
        stdout, stderr = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def launch(module, *flags, **environment):
    """Runs a launcher to its end."""
    return finish(start(module, *flags, **environment))


def launch_in_one_process(commands):
    """Runs launchers, each a list of its module and flags, one after the other in one process."""
    answer = subprocess.run(
        [sys.executable, "-m", "tests.support.one_process"],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": XLA_FLAGS},
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    results = zip(commands, json.loads(answer.stdout), strict=True)
    return [subprocess.CompletedProcess(command, *outcome) for command, outcome in results]


def command_faults(commands):
    """A text for each command, a list of its module or `simsiam` and its words, that is missing or refuses them."""
    answer = subprocess.run(
        [sys.executable, "-m", "tests.support.parse_commands"],
        cwd=ROOT,
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def refused(result, *words):
    """Asserts that a launcher ended with one line of error, after warnings at most, that holds these words; code 2."""
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.strip().splitlines() if not re.match(r"W\d{4} \d", line)]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def numbers(workdir):
    """What was measured by arm, seed, stage and split, without times, speeds and the revision."""
    found = {}
    for result in read_results(workdir):
        metrics = {name: value for name, value in result.metrics.items() if name != "images_per_second"}
        key = (result.arm, result.seed, result.eval, result.split)
        assert key not in found, f"{key} is there twice"
        found[key] = (metrics, result.config_hash)
    return found


def json_lines(path):
    """The lines of a file as another program reads them."""
    return [json.loads(line) for line in path.read_text().splitlines()]
