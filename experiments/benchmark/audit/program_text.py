"""A parser of XLA's text of a compiled program (HLO), as far as the audit's counts need it."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# Bits of an element where the type's name does not say them.
_BITS = {"pred": 8, "token": 0, "opaque": 0}

_SHAPE = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([\d,]*)[^}]*\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_CALLS = re.compile(r"\b(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Shape:
    """The shape of an array.

    Attributes:
      dtype: Name of the element type in XLA, such as `bf16`, `f32` or `pred`.
      dims: Sizes of the axes.
      layout: The axes, the fastest first; the program's own order, reversed, where the text gives none.
    """

    dtype: str
    dims: tuple[int, ...]
    layout: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes of all elements."""
        bits = _BITS.get(self.dtype)
        if bits is None:
            # The first number: f8e4m3fn is 8 bits wide, c64 64.
            found = re.search(r"\d+", self.dtype)
            bits = int(found[0]) if found else 0
        return self.size * bits / 8


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: Name of the instruction, unique in the program.
      opcode: What it does, such as `fusion`.
      shapes: The arrays that it gives; more than one, or none, where it gives a tuple.
      operands: Names of the instructions that it takes, in order.
      operand_text: The text between its parentheses.
      attributes: The text behind the parentheses.
      is_root: Whether it is its computation's result.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    operand_text: str
    attributes: str
    is_root: bool

    @property
    def calls(self) -> tuple[str, ...]:
        """Names of the computations of a fusion, a call, a reduction or a conditional's branches."""
        branches = _BRANCHES.search(self.attributes)
        if branches:
            return tuple(name.strip().lstrip("%") for name in branches[1].split(","))
        return tuple(_CALLS.findall(self.attributes))

    def word(self, attribute: str) -> str:
        """The value of an attribute that is one word or text in quotes; empty where it is missing."""
        found = re.search(rf'\b{attribute}=(?:"([^"]*)"|%?([^\s,]+))', self.attributes)
        return (found[1] or found[2] or "") if found else ""

    def numbers(self, attribute: str) -> tuple[int, ...]:
        """The whole numbers in the braces of an attribute; empty where it is missing."""
        found = re.search(rf"\b{attribute}=\{{([^}}]*)\}}", self.attributes)
        return tuple(map(int, re.findall(r"\d+", found[1]))) if found else ()

    @property
    def source(self) -> str:
        """The operation of our code that it comes from, as jax names it; empty where XLA made it up."""
        return self.word("op_name")

    @property
    def backend_config(self) -> dict[str, Any]:
        """What XLA's GPU compiler decided about it."""
        start = self.attributes.find("backend_config={")
        if start < 0:
            return {}
        return json.JSONDecoder().raw_decode(self.attributes, start + len("backend_config="))[0]

    @property
    def trip_count(self) -> int | None:
        """How often a while loop turns, where XLA knows."""
        count = self.backend_config.get("known_trip_count", {}).get("n")
        return None if count is None else int(count)


@dataclass(frozen=True)
class Computation:
    """A function of the program.

    Attributes:
      name: Name of the computation.
      instructions: Its instructions by name, in the order of the schedule.
    """

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The instruction that is the result."""
        return next(each for each in self.instructions.values() if each.is_root)

    @property
    def parameters(self) -> list[Instruction]:
        """The parameters in the order of their numbers."""
        found = [each for each in self.instructions.values() if each.opcode == "parameter"]
        return sorted(found, key=lambda each: int(each.operand_text))

    def users(self, name: str) -> Iterator[Instruction]:
        """The instructions that take the result of the one with this name."""
        return (each for each in self.instructions.values() if name in each.operands)


@dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      computations: Its computations by name.
      entry: The computation that a call runs.
    """

    computations: dict[str, Computation]
    entry: Computation


def parse_program(text: str) -> Program:
    """Reads the text that `jax.stages.Compiled.as_text` gives.

    Raises:
      ValueError: If the text has no entry computation, or a line in one is not understood.
    """
    computations: dict[str, Computation] = {}
    entry = current = None
    for line in text.splitlines():
        if current is None:
            header = _HEADER.match(line)
            # The list of a module's attributes starts its line, too, and is no computation.
            if header and not line.startswith("HloModule"):
                current = computations[header[2]] = Computation(header[2])
                entry = current if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif line.strip():
            instruction = parse_instruction(line)
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("the program's text has no ENTRY computation")
    return Program(computations, entry)


def parse_instruction(line: str) -> Instruction:
    """Reads one line of a computation.

    Raises:
      ValueError: If the line is not an instruction.
    """
    # The numbers that XLA writes into long lists of operands hold an equals sign.
    found = _INSTRUCTION.match(re.sub(r"/\*.*?\*/", "", line))
    if found is None:
        raise ValueError(f"not an instruction: {line.strip()[:200]}")
    rest = found[3]
    end = _closing(rest, 0) if rest.startswith("(") else _end_of_shape(rest)
    opcode = _OPCODE.match(rest, end)
    if opcode is None:
        raise ValueError(f"no operation in: {line.strip()[:200]}")
    close = _closing(rest, opcode.end() - 1)
    operand_text = rest[opcode.end() : close - 1]
    return Instruction(
        name=found[2],
        opcode=opcode[1],
        shapes=tuple(map(_shape, _SHAPE.finditer(rest[:end]))),
        operands=tuple(re.findall(r"%([\w.\-]+)", operand_text)),
        operand_text=operand_text,
        attributes=rest[close:],
        is_root=bool(found[1]),
    )


def _shape(found: re.Match[str]) -> Shape:
    dims = tuple(int(size) for size in re.findall(r"\d+", found[2]))
    layout = tuple(int(axis) for axis in (found[3] or "").split(",") if axis)
    return Shape(found[1], dims, layout or tuple(reversed(range(len(dims)))))


def _end_of_shape(text: str) -> int:
    found = _SHAPE.match(text)
    if found is None:
        raise ValueError(f"no shape in: {text[:200]}")
    return found.end()


def _closing(text: str, start: int) -> int:
    """The place behind the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"an open parenthesis in: {text[:200]}")
