"""Compiles a program for the card, and makes a record of what is in it."""

import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from experiments.benchmark.audit.counts import StepWork, as_numbers, count, divide
from experiments.benchmark.audit.launches import Launches, Thunk, launches, loop_thunk, read_thunks
from experiments.benchmark.audit.program_text import Program, parse_program
from experiments.benchmark.audit.programs import LoweredProgram, lower
from simsiam_jax.settings.schema import Config

# Without a card nothing is tuned, and XLA's own way of writing a matrix product then fails for some shapes. The library
# takes the product instead.
_NO_TILE = "Couldn't find output tile sizes"
_LIBRARY_PRODUCTS = {"xla_gpu_enable_triton_gemm": False}


@dataclass(frozen=True)
class Compiled:
    """A compiled program and what XLA says of it.

    Attributes:
      program: The program.
      thunks: What the host does to run it.
      memory: Bytes on each card: `peak`, `temporary`, `arguments` and `output`.
    """

    program: Program
    thunks: list[Thunk]
    memory: dict[str, int]


def compile_program(lowered: Any, **options: Any) -> Compiled:
    """Compiles a lowered program, for the cards that it was lowered for.

    Args:
      lowered: Result of a `lower`.
      **options: Options of XLA's beside those in the environment's XLA_FLAGS.
    """
    # A program from the cache would not be dumped.
    jax.config.update("jax_enable_compilation_cache", False)
    with tempfile.TemporaryDirectory() as folder:
        # Nobody runs the machine code: the less it is polished, the sooner it is there.
        options |= {"xla_dump_to": folder, "xla_dump_hlo_as_text": True, "xla_backend_optimization_level": 0}
        compiled = lowered.compile(compiler_options=options)
        thunks = read_thunks(Path(folder))
    sizes = compiled.memory_analysis()
    return Compiled(
        program=parse_program(compiled.as_text()),
        thunks=thunks,
        memory={
            "peak": sizes.peak_memory_in_bytes,
            "temporary": sizes.temp_size_in_bytes,
            "arguments": sizes.argument_size_in_bytes,
            "output": sizes.output_size_in_bytes,
        },
    )


def audit(config: Config, stage: str, devices: int, at_once: int | None = None) -> tuple[dict[str, Any], StepWork]:
    """Compiles a stage's program and counts what is in it.

    Args:
      config: Settings of the network, views, batch and accumulation.
      stage: One of `programs.STAGES`.
      devices: Number of cards.
      at_once: How many micro-batches of an update pass at once; None: all.

    Returns:
      The record, plain values for a JSON file, and the work of a step, kernel by kernel.

    Raises:
      InputError: As `programs.lower` raises it.
    """
    begun, options = time.monotonic(), {}
    lowered = lower(config, stage, devices, at_once)
    try:
        compiled = compile_program(lowered.lowered)
    except jax.errors.JaxRuntimeError as fault:
        if _NO_TILE not in str(fault):
            raise
        options = _LIBRARY_PRODUCTS
        compiled = compile_program(lowered.lowered, **options)
    work = divide(compiled.program, lowered.steps)
    program = config.program
    record = {
        "backbone": program.backbone.name,
        "stem": program.backbone.stem,
        "width": program.backbone.width,
        "image_size": program.image_size,
        "dtype": program.dtype,
        "stage": stage,
        "devices": devices,
        "images_of_a_step": lowered.images,
        "steps_in_a_turn": work.steps_in_a_turn,
        "step": as_numbers(count(work.step)),
        "call": as_numbers(count(work.call)),
        "launches": {name: float(f"{each:.6g}") for name, each in vars(_of_a_step(compiled, lowered, work)).items()},
        "memory": compiled.memory,
        "xla_flags": [f"--{name}={str(each).lower()}" for name, each in options.items()],
        "jax": jax.__version__,
        "plugin": metadata.version("jax-cuda13-plugin"),
        "seconds": round(time.monotonic() - begun, 1),
    }
    return record, work


def _of_a_step(compiled: Compiled, lowered: LoweredProgram, work: StepWork) -> Launches:
    """What the host launches for a step: for a turn of the main loop, or, without one, for the whole program."""
    every = [
        each for computation in compiled.program.computations.values() for each in computation.instructions.values()
    ]
    turns = {each.name: each.trip_count for each in every if each.opcode == "while"}
    thunk = loop_thunk(compiled.thunks, work.loop.name) if work.loop else None
    if thunk is None:
        return launches(compiled.thunks, turns).times(1 / lowered.steps)
    return launches(thunk.parts["body"], turns).times(1 / work.steps_in_a_turn)
