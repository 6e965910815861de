"""Files that are written whole or not at all, locks on them, and digests of what is in them."""

import errno
import fcntl
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# Name of the entry that holds the digest of all others in a JSON object.
_SEAL = "digest"
# How files begin that are left where a download was refused, or where a repository keeps large files elsewhere.
_FOREIGN = {
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "an answer in XML",
    b"{": "an answer in JSON",
    b"version https://git-lfs.github.com/spec": "a Git LFS pointer in place of the file, which git lfs pull fetches",
}
# Length of the comment of a zip file of arrays, as such files write it: 12 hex digits.
_COMMENT_LENGTH = b"\x0c\x00"
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


def digest(values: Any) -> str:
    """12 hex digits that name plain values, independent of the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with a digest of them as a last entry, by which `unsealed` notices damage."""
    # As they will be read: JSON has no tuples.
    plain = json.loads(json.dumps(values))
    return {**plain, _SEAL: digest(plain)}


def unsealed(values: Any) -> dict[str, Any]:
    """The values that `sealed` was given. Values without a digest, as older files have them, are taken as they are.

    Raises:
      ValueError: If they do not match their digest, or are no object.
    """
    if not isinstance(values, dict):
        raise ValueError("the file should be an object")
    found = {name: value for name, value in values.items() if name != _SEAL}
    if _SEAL in values and values[_SEAL] != digest(found):
        raise ValueError(f'its values do not match their "{_SEAL}"; whoever changed them on purpose removes that entry')
    return found


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Writes plain values with their digest as an indented JSON file, whole or not at all.

    Raises:
      ValueError: For a number that JSON does not have (NaN or infinite).
    """
    write_json(path, sealed(values))


def write_sealed_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes plain values, each with its digest, as lines of JSON, whole or not at all.

    Raises:
      ValueError: For a number that JSON does not have (NaN or infinite).
    """
    write_whole(path, "".join(json.dumps(sealed(line), allow_nan=False) + "\n" for line in lines).encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """Reads what `write_sealed` wrote.

    Raises:
      OSError: If the file is missing or cannot be read.
      ValueError: If it is damaged.
    """
    return unsealed(json.loads(path.read_bytes()))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes what `np.savez_compressed` does, but whole or not at all, without the time of writing, and with a digest.

    The digest is the zip file's comment: zip's own checksums leave out its directory.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_DEFLATED)
    # The last two bytes are the length of the comment, which is empty.
    content = file.getvalue()[:-2]
    write_whole(path, content + _COMMENT_LENGTH + _zip_digest(content))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads what `write_arrays` wrote. An older file without a digest is read as far as zip's checksums allow.

    Raises:
      OSError: If the file is missing or cannot be read.
      ValueError: If it is damaged.
    """
    data = path.read_bytes()
    content, length, found = data[:-14], data[-14:-12], data[-12:]
    if length == _COMMENT_LENGTH and found != _zip_digest(content):
        raise ValueError("its content does not match its digest")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Each is read to its end, where its checksum is compared: NumPy alone may stop just before.
            members = {name: archive.read(name) for name in archive.namelist()}
        return {
            name.removesuffix(".npy"): np.load(io.BytesIO(member), allow_pickle=False)
            for name, member in members.items()
        }
    # zipfile, zlib and NumPy raise any kind of exception for damaged bytes.
    except Exception as error:
        raise ValueError(one_line(error)) from error


def _zip_digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest()[:12].encode()


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


def foreign_kind(path: Path) -> str:
    """What a file is that was saved in place of another, such as `a web page`; empty where nothing is known."""
    with path.open("rb") as file:
        return foreign_content(file.read(1024))


def foreign_content(head: bytes) -> str:
    """As `foreign_kind`, of a file that begins with these bytes."""
    head = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((kind for start, kind in _FOREIGN.items() if head.startswith(start)), "")


def one_line(error: BaseException) -> str:
    """An exception's message on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
