"""Compiles a program for the card, and makes a record of what is in it."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from experiments.benchmark.audit.counts import StepWork, as_numbers, count, divide, main_loop
from experiments.benchmark.audit.launches import Launches, Thunk, launches, loop_thunk, read_thunks
from experiments.benchmark.audit.program_text import Program, parse_program
from experiments.benchmark.audit.programs import LoweredProgram, lower
from simsiam_jax.errors import InputError
from simsiam_jax.settings.schema import Config

# Without a card nothing is tuned, and XLA's own way of writing a matrix product then fails for some shapes. The library
# takes the product instead.
_NO_TILE = "Couldn't find output tile sizes"
LIBRARY_PRODUCTS = "--xla_gpu_enable_triton_gemm=false"


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


def compile_program(lowered: Any, flags: Sequence[str] = ()) -> Compiled:
    """Compiles a lowered program, for the cards that it was lowered for.

    Args:
      lowered: Result of a `lower`.
      flags: XLA's flags beside those in the environment, each as `--xla_name=value`.

    Raises:
      InputError: If XLA does not know a flag.
    """
    options: dict[str, Any] = dict(each.lstrip("-").split("=", maxsplit=1) for each in flags)
    with tempfile.TemporaryDirectory() as folder:
        options |= {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        # A program from the cache would not be dumped.
        cached = jax.config.jax_enable_compilation_cache
        jax.config.update("jax_enable_compilation_cache", False)
        try:
            compiled = lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as fault:
            if "compile option" in str(fault).lower():
                raise InputError(f"--xla_flags={' '.join(flags)}: {str(fault).splitlines()[0]}") from None
            raise
        finally:
            jax.config.update("jax_enable_compilation_cache", cached)
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


def audit(config: Config, stage: str, devices: int, flags: Sequence[str] = ()) -> tuple[dict[str, Any], StepWork]:
    """Compiles a stage's program and counts what is in it.

    Args:
      config: Settings of the network, views, batch and accumulation.
      stage: One of `programs.STAGES`.
      devices: Number of cards.
      flags: XLA's flags.

    Returns:
      The record, plain values for a JSON file, and the work of a step, kernel by kernel.

    Raises:
      InputError: As `programs.lower` and `compile_program` raise it.
    """
    lowered, begun = lower(config, stage, devices), time.monotonic()
    try:
        compiled = compile_program(lowered.lowered, flags)
    except jax.errors.JaxRuntimeError as fault:
        if _NO_TILE not in str(fault) or LIBRARY_PRODUCTS in flags:
            raise
        flags = [*flags, LIBRARY_PRODUCTS]
        compiled = compile_program(lowered.lowered, flags)
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
        "xla_flags": list(flags),
        "jax": jax.__version__,
        "plugin": metadata.version("jax-cuda13-plugin"),
        "compile_seconds": round(time.monotonic() - begun, 1),
    }
    return record, work


def _of_a_step(compiled: Compiled, lowered: LoweredProgram, work: StepWork) -> Launches:
    """What the host launches for a step: for a turn of the main loop, or, without one, for the whole program."""
    every = [
        each for computation in compiled.program.computations.values() for each in computation.instructions.values()
    ]
    turns = {each.name: each.trip_count for each in every if each.opcode == "while"}
    loop = main_loop(compiled.program)
    thunk = loop_thunk(compiled.thunks, loop.name) if loop and work.call.kernels else None
    if thunk is None:
        return launches(compiled.thunks, turns).times(1 / lowered.steps)
    return launches(thunk.parts["body"], turns).times(1 / work.steps_in_a_turn)
