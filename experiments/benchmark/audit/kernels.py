"""The kernels of a compiled program: what each reads, writes and computes, and the least time that it takes."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from experiments.benchmark.audit.program_text import Computation, Instruction, Program, Shape
from experiments.benchmark.audit.target import BANDWIDTH, peak_flops

# Instructions that only give a value another name, or wait for one that another instruction began.
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "opt-barrier", "add-dependency",
    "copy-done", "all-reduce-done", "all-gather-done", "collective-permute-done", "async-done", "async-update",
    "partition-id", "replica-id",
}  # fmt: skip
# Operations that compute nothing: a kernel of these alone moves data about.
_MOVES = {"copy", "transpose", "reverse", "reshape", "bitcast", "convert", "slice", "pad", "concatenate", "broadcast",
          "parameter", "constant", "tuple", "get-tuple-element"}  # fmt: skip
COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all", "collective-broadcast"}
_CONVOLUTIONS = {
    "__cudnn$convForward": "forward",
    "__cudnn$convBiasActivationForward": "forward",
    "__cudnn$convForwardGraph": "forward",
    "__cudnn$convBackwardInput": "input gradient",
    "__cudnn$convBackwardFilter": "weight gradient",
}
_PRODUCTS = ("__cublas$gemm", "__cublas$lt$matmul")


@dataclass(frozen=True)
class Arithmetic:
    """A convolution or a matrix product inside a kernel.

    Attributes:
      kind: `forward`, `input gradient` or `weight gradient` of a convolution that cuDNN runs; `convolution` where XLA
        left it as written; `product` for a matrix product.
      dtype: Element type of its first operand.
      flop: Its multiplications and additions, padding included.
      seconds: Its time at the card's peak rate.
    """

    kind: str
    dtype: str
    flop: float
    seconds: float

    @property
    def is_convolution(self) -> bool:
        """Whether it is no matrix product."""
        return self.kind != "product"


@dataclass(frozen=True)
class Kernel:
    """An instruction that runs on the card by itself, or a collective.

    Attributes:
      instruction: The instruction.
      bytes: Bytes that it reads and writes, each operand once; caches are not thought of.
      arithmetic: The convolutions and matrix products inside.
      moves: Whether it changes a layout or copies, and computes nothing.
    """

    instruction: Instruction
    bytes: float
    arithmetic: tuple[Arithmetic, ...]
    moves: bool

    @property
    def flop(self) -> float:
        """Multiplications and additions of its convolutions and matrix products."""
        return sum(each.flop for each in self.arithmetic)

    @property
    def seconds(self) -> float:
        """The least time by the roofline: that of its bytes or that of its arithmetic, whichever is longer."""
        return max(self.bytes / BANDWIDTH, sum(each.seconds for each in self.arithmetic))

    @property
    def collective(self) -> str | None:
        """What devices exchange here, such as `all-reduce`; None where they do not."""
        name = self.instruction.opcode.removesuffix("-start")
        return name if name in COLLECTIVES else None


def is_kernel(instruction: Instruction) -> bool:
    """Whether an instruction runs on the card; loops, conditionals and calls are what they hold."""
    return instruction.opcode not in _FREE | {"while", "conditional", "call", "async-start"}


def kernel_of(instruction: Instruction, computation: Computation, program: Program) -> Kernel:
    """What an instruction of a schedule costs.

    Args:
      instruction: An instruction for which `is_kernel` holds.
      computation: The computation that it is scheduled in.
      program: The program, which holds the computations of fusions.
    """
    fused = program.computations[instruction.calls[0]] if instruction.opcode == "fusion" else None
    if fused:
        moved = _read(fused) + _written(fused)
    elif instruction.opcode == "dynamic-update-slice":
        moved = 2 * _bytes(computation.instructions[instruction.operands[1]])
    elif instruction.opcode in ("dynamic-slice", "slice", "gather"):
        moved = 2 * _bytes(instruction)
    else:
        # A tuple of a custom call ends in the scratch memory of its library, of which no byte is known to be used.
        given = instruction.shapes[:-1] if len(instruction.shapes) > 1 else instruction.shapes
        given = given if instruction.opcode == "custom-call" else instruction.shapes
        if instruction.opcode == "copy-start":
            given = instruction.shapes[:1]
        operands = [computation.instructions[name] for name in dict.fromkeys(instruction.operands)]
        moved = sum(shape.bytes for shape in given) + sum(map(_bytes, operands))
    return Kernel(
        instruction=instruction,
        bytes=moved,
        arithmetic=tuple(_arithmetic(instruction, computation, program)),
        moves=_moves(instruction, fused),
    )


def _bytes(instruction: Instruction) -> float:
    return sum(shape.bytes for shape in instruction.shapes)


def _read(fused: Computation) -> float:
    """The bytes that a fusion reads: of an operand of which it only takes parts, these."""
    total = 0.0
    for parameter in fused.parameters:
        parts = list(_parts_read(parameter.name, fused))
        total += min(_bytes(parameter), sum(parts))
    return total


def _parts_read(name: str, fused: Computation) -> Iterator[float]:
    """Bytes of the value of this name that each of its users reads."""
    whole = _bytes(fused.instructions[name])
    for user in fused.users(name):
        if user.opcode == "bitcast":
            yield from _parts_read(user.name, fused)
        elif user.opcode in ("slice", "dynamic-slice", "gather") and user.operands[0] == name:
            yield _bytes(user)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
            yield 0.0  # Written in place.
        else:
            yield whole
    if fused.instructions[name].is_root:
        yield whole


def _written(fused: Computation) -> float:
    """The bytes that a fusion writes: of an array that it updates in place, the part that it updates."""
    results = fused.root.operands if fused.root.opcode == "tuple" else (fused.root.name,)
    total = 0.0
    for name in results:
        result = fused.instructions[name]
        inner = result
        while inner.opcode == "bitcast":
            inner = fused.instructions[inner.operands[0]]
        updated = inner.opcode == "dynamic-update-slice"
        total += _bytes(fused.instructions[inner.operands[1]] if updated else result)
    return total


def _moves(instruction: Instruction, fused: Computation | None) -> bool:
    opcodes = {each.opcode for each in fused.instructions.values()} if fused else {instruction.opcode}
    return bool(opcodes & {"copy", "copy-start", "transpose"}) and opcodes <= _MOVES | {"copy-start"}


def _arithmetic(instruction: Instruction, computation: Computation, program: Program) -> Iterator[Arithmetic]:
    """The convolutions and matrix products of an instruction, those inside a fusion included."""
    if instruction.opcode == "fusion":
        fused = program.computations[instruction.calls[0]]
        for inner in fused.instructions.values():
            yield from _arithmetic(inner, fused, program)
        return
    target = instruction.word("custom_call_target")
    if instruction.opcode == "convolution" or target in _CONVOLUTIONS:
        yield _convolution(instruction, computation, _CONVOLUTIONS.get(target, "convolution"))
    elif instruction.opcode == "dot" or target.startswith(_PRODUCTS):
        yield _product(instruction, computation)


def _operand(instruction: Instruction, number: int, computation: Computation) -> Shape:
    return computation.instructions[instruction.operands[number]].shapes[0]


def _convolution(instruction: Instruction, computation: Computation, kind: str) -> Arithmetic:
    """A convolution's arithmetic: each output sees the kernel's spatial extent and one group's input channels.

    cuDNN's gradients name input, kernel and output as the forward convolution has them, whichever of these is the
    result.
    """
    first, second, result = (
        _operand(instruction, 0, computation), _operand(instruction, 1, computation), instruction.shapes[0],
    )  # fmt: skip
    kernel, output = {"input gradient": (second, first), "weight gradient": (result, second)}.get(
        kind, (second, result)
    )
    # "b01f_o01i->b01f": the kernel's axes stand between the underscore and the arrow.
    letters = re.split("_|->", instruction.word("dim_labels"))[1]
    seen = math.prod(size for size, letter in zip(kernel.dims, letters, strict=True) if letter != "o")
    return _at_peak(kind, first.dtype, 2.0 * output.size * seen)


def _product(instruction: Instruction, computation: Computation) -> Arithmetic:
    left, result = _operand(instruction, 0, computation), instruction.shapes[0]
    if instruction.opcode == "dot":
        axes, exact = instruction.numbers("lhs_contracting_dims"), "highest" in instruction.attributes
    else:
        config = instruction.backend_config
        config = config.get("gemm_backend_config", config)
        axes = [int(axis) for axis in config["dot_dimension_numbers"]["lhs_contracting_dimensions"]]
        exact = "HIGHEST" in config.get("precision_config", {}).get("operand_precision", [])
    return _at_peak("product", left.dtype, 2.0 * result.size * math.prod(left.dims[axis] for axis in axes), exact)


def _at_peak(kind: str, dtype: str, flop: float, exact: bool = False) -> Arithmetic:
    return Arithmetic(kind, dtype, flop, flop / peak_flops(dtype, exact))
