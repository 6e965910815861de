"""Event files for TensorBoard, written by whoever draws: a full disk is an error here and not in another thread."""

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simsiam_jax.metrics import Numbers

_VERSION = "brain.Event:2"


def open_board(folder: Path, *, from_epoch: int) -> Callable[[Numbers], None]:
    """Begins an event file, and gives the function that draws the numbers of an epoch into it.

    Args:
      folder: Folder of the event files, made where it is missing.
      from_epoch: Epoch from which on what earlier files hold is drawn anew; 0 where there is nothing earlier.

    Returns:
      A function of the numbers of an epoch; `epoch` among them is the axis of the curves.
    """
    # Where torch is installed tensorboardX imports it, for seconds that only training has.
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.summary import scalar

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
    _append(path, Event(wall_time=time.time(), file_version=_VERSION))
    _append(path, Event(step=from_epoch, session_log=SessionLog(status=SessionLog.START)))

    def draw(line: Numbers) -> None:
        curves = {name: value for name, value in line.items() if name not in ("epoch", "update")}
        now, epoch = time.time(), int(line["epoch"])
        _append(path, *(Event(wall_time=now, step=epoch, summary=scalar(name, each)) for name, each in curves.items()))

    return draw


def _append(path: Path, *events: Any) -> None:
    """Appends events as TFRecords: length and data, each with its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    with path.open("ab") as file:
        for event in events:
            data = event.SerializeToString()
            length = struct.pack("<Q", len(data))
            file.write(length + struct.pack("<I", masked_crc32c(length)))
            file.write(data + struct.pack("<I", masked_crc32c(data)))
