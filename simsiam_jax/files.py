"""Files that are written whole or not at all, and digests of what is in them."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: bytes | bytearray) -> None:
    """Writes a file that is either whole or as it was before; missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Writes plain values as an indented JSON file, whole or not at all.

    Raises:
      ValueError: For a number that JSON does not have (NaN or infinite).
    """
    write_whole(path, f"{json.dumps(values, indent=1, allow_nan=False)}\n".encode())


def sha256(path: Path) -> str:
    """64 hex digits that name a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def one_line(error: BaseException) -> str:
    """An exception's message on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
