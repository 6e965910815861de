"""What a compiled program does for a step, counted in its text.

The step is the body of the program's longest loop, divided by the micro-batches that one turn holds. What is done once
a call, before and after that loop, is counted apart.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from experiments.benchmark.audit.kernels import Kernel, is_kernel, kernel_of
from experiments.benchmark.audit.program_text import Computation, Instruction, Program

# A kernel that moves less than this takes longer to launch than to run: 60 ns at the card's bandwidth.
SMALL_BYTES = 0.2e6


@dataclass(frozen=True)
class Work:
    """Kernels, each with the number of times that it runs.

    Attributes:
      kernels: Pairs of a kernel and its number of runs; of a conditional only the most expensive branch is here.
      conditionals: Number of conditionals that are met.
      endless: Number of loops whose number of turns is not known; they count as one turn.
    """

    kernels: tuple[tuple[Kernel, float], ...] = ()
    conditionals: float = 0
    endless: float = 0

    @property
    def seconds(self) -> float:
        """Sum of the kernels' least times."""
        return sum(kernel.seconds * runs for kernel, runs in self.kernels)

    def times(self, factor: float) -> "Work":
        """The same work so many times over."""
        kernels = tuple((kernel, runs * factor) for kernel, runs in self.kernels)
        return Work(kernels, self.conditionals * factor, self.endless * factor)

    def __add__(self, other: "Work") -> "Work":
        return Work(self.kernels + other.kernels, self.conditionals + other.conditionals, self.endless + other.endless)


def work_of(computation: Computation, program: Program, *, without: Instruction | None = None) -> Work:
    """The work of one run of a computation.

    Args:
      computation: The computation, scheduled and not fused.
      program: The program that holds it.
      without: A loop that is left out.
    """
    total = Work()
    for each in computation.instructions.values():
        if each is not without:
            total += _work_of_instruction(each, computation, program)
    return total


def _work_of_instruction(instruction: Instruction, computation: Computation, program: Program) -> Work:
    if is_kernel(instruction):
        return Work(((kernel_of(instruction, computation, program), 1.0),))
    called = [program.computations[name] for name in instruction.calls]
    if instruction.opcode == "while":
        turn = sum((work_of(each, program) for each in _of_a_turn(instruction, program)), Work())
        return turn.times(instruction.trip_count or 1) + Work(endless=instruction.trip_count is None)
    if instruction.opcode == "conditional":
        return max((work_of(each, program) for each in called), key=lambda work: work.seconds) + Work(conditionals=1)
    if instruction.opcode in ("call", "async-start"):
        return sum((work_of(each, program) for each in called), Work())
    return Work()


def _of_a_turn(loop: Instruction, program: Program) -> Iterator[Computation]:
    for part in ("condition", "body"):
        yield program.computations[loop.word(part)]


def main_loop(program: Program) -> Instruction | None:
    """The loop of the entry computation in which most time goes by; None where there is no loop."""
    loops = [each for each in program.entry.instructions.values() if each.opcode == "while"]
    return max(loops, key=lambda each: _work_of_instruction(each, program.entry, program).seconds, default=None)


@dataclass(frozen=True)
class Counts:
    """Numbers of one step; fractions where a turn of the loop holds several.

    Attributes:
      kernels: Kernels, collectives included.
      small_kernels: Those of them that move less than `SMALL_BYTES`.
      layout_changes: Those that copy or transpose and compute nothing.
      layout_change_bytes: Bytes that these move.
      bytes: Bytes that all kernels read and write.
      flop: Multiplications and additions of convolutions and matrix products.
      seconds: Sum over kernels of the longer of the two times, that of the bytes and that of the arithmetic.
      arithmetic_seconds: Time of the arithmetic alone.
      convolutions: Number of convolutions by direction and type, as in `forward bf16`.
      float32_convolutions: Number of convolutions of float32.
      products: Number of matrix products by type.
      conditionals: Conditionals; each counts as its most expensive branch.
      endless_loops: Loops of an unknown number of turns, each counted as one.
      collectives: Number of collectives by kind.
      collective_bytes: Bytes that each device hands to them.
    """

    kernels: float
    small_kernels: float
    layout_changes: float
    layout_change_bytes: float
    bytes: float
    flop: float
    seconds: float
    arithmetic_seconds: float
    convolutions: dict[str, float] = field(default_factory=dict)
    float32_convolutions: float = 0
    products: dict[str, float] = field(default_factory=dict)
    conditionals: float = 0
    endless_loops: float = 0
    collectives: dict[str, float] = field(default_factory=dict)
    collective_bytes: float = 0


def count(work: Work) -> Counts:
    """The counts of some work."""
    convolutions, products, collectives = (defaultdict[str, float](float) for _ in range(3))
    for kernel, runs in work.kernels:
        if kernel.collective:
            collectives[kernel.collective] += runs
        for each in kernel.arithmetic:
            if each.is_convolution:
                convolutions[f"{each.kind} {each.dtype}"] += runs
            else:
                products[each.dtype] += runs

    def total(number, only=lambda kernel: True):
        return sum(number(kernel) * runs for kernel, runs in work.kernels if only(kernel))

    return Counts(
        kernels=total(lambda kernel: 1),
        small_kernels=total(lambda kernel: 1, lambda kernel: kernel.bytes < SMALL_BYTES),
        layout_changes=total(lambda kernel: 1, lambda kernel: kernel.moves),
        layout_change_bytes=total(lambda kernel: kernel.bytes, lambda kernel: kernel.moves),
        bytes=total(lambda kernel: kernel.bytes),
        flop=total(lambda kernel: kernel.flop),
        seconds=work.seconds,
        arithmetic_seconds=total(lambda kernel: sum(each.seconds for each in kernel.arithmetic)),
        convolutions=dict(convolutions),
        float32_convolutions=sum(runs for name, runs in convolutions.items() if name.endswith(" f32")),
        products=dict(products),
        conditionals=work.conditionals,
        endless_loops=work.endless,
        collectives=dict(collectives),
        collective_bytes=total(lambda kernel: kernel.bytes / 2, lambda kernel: kernel.collective is not None),
    )


@dataclass(frozen=True)
class StepWork:
    """A program's work divided into steps.

    Attributes:
      step: Work of one step.
      call: Work that is done once a call, outside the loop over steps.
      steps_in_a_turn: Steps that one turn of the loop holds.
      loop: The loop; None where the program is not divided by one.
    """

    step: Work
    call: Work
    steps_in_a_turn: float
    loop: Instruction | None


def divide(program: Program, steps: int) -> StepWork:
    """Divides a program's work into steps.

    Args:
      program: The program.
      steps: Number of steps that a call of it does, 1 or more.

    Returns:
      The work of a step is the body of the main loop, divided by the steps that a turn holds; without a loop, or where
      its turns do not divide the steps, it is the whole program's, divided by all steps.
    """
    loop = main_loop(program)
    turns = loop.trip_count if loop else None
    if loop is None or not turns or steps % turns:
        return StepWork(work_of(program.entry, program).times(1 / steps), Work(), steps, None)
    body = sum((work_of(each, program) for each in _of_a_turn(loop, program)), Work())
    in_a_turn = steps / turns
    return StepWork(body.times(1 / in_a_turn), work_of(program.entry, program, without=loop), in_a_turn, loop)


def as_numbers(counts: Counts) -> dict[str, object]:
    """The counts as plain values for a JSON file, rounded to six digits."""

    def rounded(value):
        if isinstance(value, dict):
            return {name: rounded(each) for name, each in sorted(value.items())}
        return float(f"{value:.6g}")

    return {name: rounded(value) for name, value in dataclasses.asdict(counts).items()}
