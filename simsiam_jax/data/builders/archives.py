"""The files that data sets are published as: finding, downloading and verifying them, and reading them unextracted."""

import contextlib
import gzip
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from tensorflow_datasets.core.download import checksums, download_manager, resource
from tensorflow_datasets.core.utils import Size

from simsiam_jax.errors import InputError, require
from simsiam_jax.files import foreign_kind, sha256

PROBE_SECONDS = 10
RECORDS_AT_ONCE = 64
AGAIN = "remove it and fetch it again"


class Archive(NamedTuple):
    """A published file.

    Attributes:
      size: Size in bytes.
      sha256: Digest of the content, 64 hex digits.
      url: Address that TFDS downloads it from.
    """

    size: int
    sha256: str
    url: str


def url_infos(files: Mapping[str, Archive]) -> dict[str, checksums.UrlInfo]:
    """The sizes and digests by which TFDS's downloader verifies what it receives, as a builder's `url_infos`."""
    return {file.url: checksums.UrlInfo(Size(file.size), file.sha256, name) for name, file in files.items()}


def manual_folder(dl_manager: Any) -> Path | None:
    """The folder of --manual_dir, or None if there is none or it is empty."""
    try:
        return Path(dl_manager.manual_dir)
    except AssertionError:
        return None


def find_files(names: Iterable[str], folder: Path | None, dataset: str) -> dict[str, Path] | None:
    """The files of a data set in a folder, all or none.

    Args:
      names: Names of the files.
      folder: Folder that the user named, if any; a folder without any of the files is passed over.
      dataset: Name of the data set, for the error.

    Returns:
      Paths by name, or None.

    Raises:
      InputError: If some files are there and some are missing.
    """
    if folder is None:
        return None
    paths = {name: folder / name for name in names}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if len(missing) == len(paths):
        return None
    require(
        not missing,
        f"{folder} lacks {' and '.join(missing)}, of {dataset}'s {len(paths)} files; put all of them there",
    )
    return paths


def download_files(dl_manager: Any, files: Mapping[str, Archive], dataset: str, advice: str) -> dict[str, Path]:
    """Downloads files by TFDS, which keeps them and verifies them by the builder's `url_infos`.

    Args:
      dl_manager: TFDS's download manager.
      files: The published files by name.
      dataset: Name of the builder.
      advice: What the user can do if the files cannot be downloaded.

    Returns:
      Paths by name; the files at these paths have other names.

    Raises:
      InputError: If a file cannot be downloaded, with the reason and the advice.
    """
    folder = Path(dl_manager.download_dir, dataset)
    # The smallest comes first, so that a server that refuses is noticed before the gigabytes.
    smallest_first = sorted(files.items(), key=lambda item: item[1].size)
    paths = {}
    try:
        for name, file in smallest_first:
            if not (folder / resource.get_dl_fname(file.url, file.sha256)).exists():
                _probe(file.url)
            _remove_partial_downloads(folder)
            paths[name] = Path(dl_manager.download(file.url))
    # Beside errors of the network, TFDS raises many of its own, most of them for answers of Google Drive.
    except Exception as error:
        _remove_partial_downloads(folder)
        if isinstance(error, download_manager.NonMatchingChecksumError):
            reason = "what the server sent is another file"
        else:
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise InputError(f"{dataset} cannot be downloaded ({reason}): {advice}") from error
    return paths


def _probe(url: str) -> None:
    """Asks once whether the server is there, because TFDS tries an unreachable one for minutes."""
    request = urllib.request.Request(url, method="HEAD")
    # Any answer is enough, because some servers refuse this kind of question alone.
    with contextlib.suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=PROBE_SECONDS):
        pass


def _remove_partial_downloads(folder: Path) -> None:
    """Removes what TFDS leaves of downloads that failed or were killed; it never looks at these again."""
    for leftover in folder.glob("*.tmp.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def verify(path: Path, file: Archive) -> None:
    """Checks a file's size, then its sha256.

    Raises:
      InputError: If it is not the published file.
    """
    with reading(path):
        size = path.stat().st_size
        kind = "" if size == file.size else foreign_kind(path)
        require(not kind, f"{path} is no archive, but {kind}; {AGAIN}")
        require(
            size == file.size,
            f"{path} is truncated or altered: it has {size:,} bytes, the official file {file.size:,}; {AGAIN}",
        )
        digest = sha256(path)
    require(digest == file.sha256, f"{path} is truncated or altered: its sha256 is not the official file's; {AGAIN}")


def obtain(dl_manager: Any, files: Mapping[str, Archive], dataset: str, page: str) -> dict[str, Path]:
    """The verified files of a data set, from --manual_dir or downloaded by TFDS.

    Args:
      dl_manager: TFDS's download manager.
      files: The published files by name.
      dataset: Name of the builder.
      page: Address of the page where a person finds the files.

    Returns:
      Paths by name.

    Raises:
      InputError: If the files cannot be downloaded, or are not the published ones.
    """
    advice = f"fetch {', '.join(files)} by hand from {page} and name their folder with --manual_dir"
    paths = find_files(files, manual_folder(dl_manager), dataset)
    paths = paths or download_files(dl_manager, files, dataset, advice)
    for name, file in files.items():
        verify(paths[name], file)
    return paths


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """A context that turns what Python raises for unreadable and damaged files into one line that names the file."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); {AGAIN}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error


def tar_members(tar: tarfile.TarFile, names: Iterable[str], path: Path) -> dict[str, tarfile.TarInfo]:
    """The members with some names.

    Args:
      tar: The open archive.
      names: Names of the members.
      path: Path of the archive, for the error.

    Raises:
      InputError: If a member is missing.
    """
    members = {member.name: member for member in tar if member.isfile()}
    missing = [name for name in names if name not in members]
    require(not missing, f"{path} lacks {' and '.join(missing)}; {AGAIN}")
    return {name: members[name] for name in names}


def record_count(member: tarfile.TarInfo, record_bytes: int, path: Path) -> int:
    """How many records of a fixed size a member holds.

    Raises:
      InputError: If it holds none, or not a whole number of them.
    """
    count, rest = divmod(member.size, record_bytes)
    require(
        count > 0 and rest == 0,
        f"{path}: {member.name} has {member.size:,} bytes, which are not images of {record_bytes:,}; {AGAIN}",
    )
    return count


def read_bytes(tar: tarfile.TarFile, member: tarfile.TarInfo, limit: int, path: Path) -> bytes:
    """The whole content of a small member.

    Raises:
      InputError: If it is larger than `limit` bytes.
    """
    require(member.size <= limit, f"{path}: {member.name} is too large with {member.size:,} bytes; {AGAIN}")
    return member_stream(tar, member).read()


def read_names(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> list[str]:
    """The ten class names of a member with one name in each line.

    Raises:
      InputError: If there are not ten, or two are equal.
    """
    names = read_bytes(tar, member, 10_000, path).decode(errors="replace").split()
    require(len(names) == len(set(names)) == 10, f"{path}: {member.name} does not hold ten class names; {AGAIN}")
    return names


def member_stream(tar: tarfile.TarFile, member: tarfile.TarInfo) -> tarfile.ExFileObject:
    """A stream of a member's content."""
    stream = tar.extractfile(member)
    assert isinstance(stream, tarfile.ExFileObject)  # Members that are files have one.
    return stream


def record_blocks(
    tar: tarfile.TarFile, member: tarfile.TarInfo, record_bytes: int
) -> Iterator[UInt8[np.ndarray, "block record_bytes"]]:
    """The records of a member in order, in blocks.

    Args:
      tar: The open archive.
      member: A member whose size is a multiple of `record_bytes`.
      record_bytes: Size of a record in bytes.
    """
    with member_stream(tar, member) as stream:
        while block := stream.read(RECORDS_AT_ONCE * record_bytes):
            yield np.frombuffer(block, np.uint8).reshape(-1, record_bytes)
