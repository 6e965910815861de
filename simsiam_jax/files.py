"""Files that are written whole or not at all, locks on them, and digests of what is in them."""

import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the context ends without an exception, and is removed otherwise.

    So a file is either whole or as it was before. Missing folders are made.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | bytearray) -> None:
    """Writes a file that is either whole or as it was before; missing folders are made."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, values: Any) -> None:
    """Writes plain values as an indented JSON file, whole or not at all.

    Raises:
      ValueError: For a number that JSON does not have (NaN or infinite).
    """
    write_whole(path, f"{json.dumps(values, indent=1, allow_nan=False)}\n".encode())


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds an exclusive lock on a file while the context lasts, and tells whether it has it.

    The system releases the lock however its process ends. Processes on several machines see it where the folder's
    file system has such locks.

    Args:
      path: The file, made where it is missing; its folder must exist.
      wait: Whether to wait for whoever has the lock, or to go on without it.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def disk_is_full(fault: BaseException) -> bool:
    """Whether an exception, or one that it came from, says that a file system or a quota has no space left.

    Libraries that write in their own threads and languages (TensorStore, array_record) say it in words alone.
    """
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [fault]
    while waiting:
        each = waiting.pop()
        if each is None or each in seen:
            continue
        seen.append(each)
        if isinstance(each, OSError) and each.errno in _FULL:
            return True
        if any(os.strerror(number) in str(each) for number in _FULL):
            return True
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
    return False


def sha256(path: Path) -> str:
    """64 hex digits that name a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one_line(error: BaseException) -> str:
    """An exception's message on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
