"""What the host launches for a program, from XLA's dump of its thunks: single launches, and buffers of recorded ones.

A thunk is a thing that the host does to run a program: launch a kernel, call a library, turn a loop. XLA records runs
of them in command buffers (CUDA graphs), each of which is one launch.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_THUNK = re.compile(r"^(\s*)(\d+): k(\w+)")
# A loop's condition and body, and the branches of a conditional, begin with such a line.
_PART = re.compile(r"^(\s*)(condition|body|branch_\d+):\s*$")
_METADATA = re.compile(r'profile_annotation: "([^"]*)"\s*thunk_id: (\d+)')

_BUFFER, _LOOP, _CONDITIONAL = "CommandBuffer", "While", "Conditional"
# Thunks that only hold others, or tell streams to wait for each other.
_LAUNCH_NOTHING = ("Sequential", "DynamicSliceFusion", "WaitForStreams", "AsyncDone", "AllReduceDone", "AllGatherDone",
                   "ReduceScatterDone", "CollectivePermuteDone", "PartitionId", "ReplicaId")  # fmt: skip


@dataclass
class Thunk:
    """A thunk, and those that it holds.

    Attributes:
      kind: What it does, such as `CustomKernel`, `CommandBuffer` or `While`.
      name: Name of the instruction that it stands for, in the program's text; empty where the dump does not say.
      parts: The thunks that it holds by part: `condition` and `body` of a loop, `branch_0` and so on of a conditional,
        and the empty text for all others.
    """

    kind: str
    name: str
    parts: dict[str, list["Thunk"]] = field(default_factory=dict)

    @property
    def held(self) -> Iterator["Thunk"]:
        """All thunks inside, however deep."""
        for thunks in self.parts.values():
            for each in thunks:
                yield each
                yield from each.held


@dataclass(frozen=True)
class Launches:
    """What the host does.

    Attributes:
      launches: Launches: of kernels, libraries, copies, collectives and command buffers.
      buffers: Command buffers among them.
      buffered: Launches that these hold.
      conditionals: Conditionals outside command buffers. The host waits for the device at each, to see the branch.
      open_loops: Turns of loops outside command buffers whose number the host learns from the device, turn by turn.
    """

    launches: float = 0
    buffers: float = 0
    buffered: float = 0
    conditionals: float = 0
    open_loops: float = 0

    @property
    def syncs(self) -> float:
        """How often the host waits for the device."""
        return self.conditionals + self.open_loops

    def times(self, factor: float) -> "Launches":
        """The same so many times over."""
        return Launches(*(value * factor for value in vars(self).values()))

    def __add__(self, other: "Launches") -> "Launches":
        return Launches(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def read_thunks(folder: Path) -> list[Thunk]:
    """The thunks of the one program that was dumped into a folder, in the order of the schedule.

    Raises:
      FileNotFoundError: If the folder holds no dump of thunks.
    """
    # Where no pass changed the thunks, there is only the sequence before the passes.
    found = sorted(folder.glob("*.thunk_sequence_after_thunk_passes.txt")) or sorted(
        folder.glob("*.thunk_sequence.txt")
    )
    if not found:
        raise FileNotFoundError(f"no dump of a program's thunks in {folder}")
    metadata = [path.read_text() for path in folder.glob("*.thunk_metadata.txt")]
    return parse_thunks(found[-1].read_text(), metadata[0] if metadata else "")


def parse_thunks(text: str, metadata: str = "") -> list[Thunk]:
    """Reads the text of a dump.

    Args:
      text: The thunks, one a line; those that a thunk holds follow it, further in.
      metadata: The dump that gives the instruction of each thunk by number.
    """
    names = {int(number): name for name, number in _METADATA.findall(metadata)}
    top = Thunk("Sequential", "", {"": []})
    # The thunks that are open, each with its indentation and the part that is being read.
    open_thunks: list[tuple[int, Thunk, str]] = [(-1, top, "")]
    for line in text.splitlines():
        part, thunk = _PART.match(line), _THUNK.match(line)
        if part:
            while open_thunks[-1][0] > len(part[1]):
                open_thunks.pop()
            indentation, holder, _ = open_thunks.pop()
            open_thunks.append((indentation, holder, part[2]))
        elif thunk:
            while open_thunks[-1][0] >= len(thunk[1]):
                open_thunks.pop()
            # Command buffers have no number of their own.
            number, kind = int(thunk[2]), thunk[3]
            found = Thunk(kind, "" if kind == _BUFFER else names.get(number, ""))
            _, holder, current = open_thunks[-1]
            holder.parts.setdefault(current, []).append(found)
            open_thunks.append((len(thunk[1]), found, ""))
    return top.parts[""]


def launches(thunks: list[Thunk], turns: dict[str, int | None]) -> Launches:
    """What the host does for some thunks.

    Args:
      thunks: The thunks.
      turns: Number of turns of each loop by the name of its instruction, None where it is not known. Such a loop counts
        as one turn.

    Returns:
      The sum over the thunks; of a conditional, the branch with the most launches.
    """
    return sum((_launches(each, turns) for each in thunks), Launches())


def _launches(thunk: Thunk, turns: dict[str, int | None]) -> Launches:
    if thunk.kind == _BUFFER:
        return Launches(launches=1, buffers=1, buffered=_recorded(thunk, turns))
    inside = {part: launches(thunks, turns) for part, thunks in thunk.parts.items()}
    if thunk.kind == _LOOP:
        count = turns.get(thunk.name)
        # A condition is not asked where the number of turns is known.
        asked = inside.get("condition", Launches()) if count is None else Launches()
        body = inside.get("body", Launches()) + asked
        return body.times(count or 1) + Launches(open_loops=1 if count is None else 0)
    if thunk.kind == _CONDITIONAL:
        # The first launch copies the number of the branch to the host.
        worst = max(inside.values(), key=lambda each: each.launches, default=Launches())
        return worst + Launches(launches=1, conditionals=1)
    own = 0 if thunk.kind in _LAUNCH_NOTHING else 1
    return sum(inside.values(), Launches(launches=own))


def _recorded(buffer: Thunk, turns: dict[str, int | None]) -> float:
    """The launches that one run of a command buffer stands for."""
    total = 0.0
    for thunks in buffer.parts.values():
        total += launches(thunks, turns).launches
    return total


def loop_thunk(thunks: list[Thunk], name: str) -> Thunk | None:
    """The thunk of the loop with this name, unless a command buffer holds it."""
    return next((each for each in thunks if each.kind == _LOOP and each.name == name), None)
