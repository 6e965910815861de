"""Weights files on the Hugging Face hub: one file each, at one commit.

A name on the hub stands for whatever its owner puts there next. A study needs the same weights in a year, so a file is
asked for by its commit. Files lie in the hub library's own cache, which timm and transformers share. Only safetensors
files are fetched; they hold tensors and nothing to run.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from simsiam_jax.errors import InputError, require
from simsiam_jax.files import sha256

_PREFIX = "hf:"
_FORM = "hf:OWNER/REPO[/FILE.safetensors]@REVISION"
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"({_WORD}/{_WORD})(?:/({_WORD}(?:/{_WORD})*\.safetensors))?(?:@({_WORD}(?:/{_WORD})*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# Seconds until a hub that does not answer counts as unreachable.
_PATIENCE = 10.0


@dataclass(frozen=True)
class HubFile:
    """A weights file on the hub.

    Attributes:
      repo: Name of the repository, `OWNER/REPO`.
      revision: Commit as 40 hex digits.
      filename: Path of a safetensors file in the repository.
      size: Length of the file in bytes, or None where it is not known beforehand.
      sha256: Digest of the file's content as 64 hex digits, or None where it is not known beforehand.
    """

    repo: str
    revision: str
    filename: str = "model.safetensors"
    size: int | None = None
    sha256: str | None = None


def parse(text: str) -> HubFile | None:
    """Reads `hf:OWNER/REPO[/FILE.safetensors]@REVISION`, a value of `--init`.

    Args:
      text: Value of the flag.

    Returns:
      The file of that name, or None for a text that does not begin with `hf:`.

    Raises:
      InputError: If a text begins with `hf:` and has another form, or its revision is no commit.
    """
    if not text.startswith(_PREFIX):
        return None
    match = _NAME.fullmatch(text.removeprefix(_PREFIX))
    if match is None:
        raise InputError(f"--init={text}: not a file on the Hugging Face hub; the form is {_FORM}")
    repo, filename, revision = match.groups()
    if _COMMIT.fullmatch(revision or "") is None:
        named = f"{revision} is no commit and" if revision else "a name without a commit"
        raise InputError(f"--init={text}: {named} may mean another file tomorrow; {how_to_pin(repo, filename)}")
    return HubFile(repo, revision, filename or "model.safetensors")


def how_to_pin(repo: str, filename: str | None = None) -> str:
    """Advice, as a part of a sentence, to name a commit: the value to give and the page that lists the commits."""
    name = f"{repo}/{filename}" if filename else repo
    return (
        f"give --init={_PREFIX}{name}@REVISION, the 40 digits of a commit in https://huggingface.co/{repo}/commits/main"
    )


def fetch(file: HubFile) -> tuple[Path, str]:
    """Finds a file in the local cache, or fetches it from the hub, and checks it.

    No request is made for a file that is in the cache.

    Args:
      file: File to find; its size and sha256 are checked where they are known.

    Returns:
      Path in the cache, and the sha256 of the content as 64 hex digits.

    Raises:
      InputError: If the file cannot be fetched, or has another size or content than it should.
    """
    hub = _library()
    path = _cached(hub, file) or _download(hub, file)
    return path, _checked(path, file)


def _library() -> ModuleType:
    # The library reads these when it is first imported. Without the second, it tells the hub which programs use it.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            "--init: weights from the Hugging Face hub need its library; pip install huggingface_hub, "
            "or give a file: --init=PATH"
        ) from error
    return huggingface_hub


def _cached(hub: ModuleType, file: HubFile) -> Path | None:
    found = hub.try_to_load_from_cache(file.repo, file.filename, revision=file.revision)
    # The library answers None, or a mark that the hub has no such file.
    return Path(found) if isinstance(found, str) else None


def _download(hub: ModuleType, file: HubFile) -> Path:
    with _fetching(file):
        # The library tries an unreachable hub for half a minute before it gives up; this request finds out at once.
        url = hub.hf_hub_url(file.repo, file.filename, revision=file.revision)
        hub.get_hf_file_metadata(url, timeout=_PATIENCE)
        return Path(hub.hf_hub_download(file.repo, file.filename, revision=file.revision, etag_timeout=_PATIENCE))


@contextlib.contextmanager
def _fetching(file: HubFile) -> Iterator[None]:
    """Turns whatever the hub's library raises into one line.

    The library's versions stand on different HTTP libraries, whose errors have no ancestor in common but Exception.
    """
    try:
        yield
    except Exception as error:
        raise InputError(
            f"--init: cannot fetch {file.repo}/{file.filename} from the Hugging Face hub ({_reason(error, file)}); "
            "download it elsewhere and give its path: --init=PATH"
        ) from error


def _reason(error: Exception, file: HubFile) -> str:
    # By name, since not every version has each of these classes; an ancestor's name serves for its descendants.
    names = {cls.__name__ for cls in type(error).__mro__}
    reasons = {
        "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set",
        "GatedRepoError": "its owner has to grant access first",
        "RepositoryNotFoundError": "no such repository, or a private one",
        "RevisionNotFoundError": f"the repository has no revision {file.revision}",
        "EntryNotFoundError": "the repository has no such file",
        "RemoteEntryNotFoundError": "the repository has no such file",
        "ConnectError": "the hub cannot be reached",
        "ConnectionError": "the hub cannot be reached",
        "TimeoutException": "the hub does not answer",
        "Timeout": "the hub does not answer",
        "LocalEntryNotFoundError": "the hub cannot be reached",
    }
    for name, reason in reasons.items():
        if name in names:
            return reason
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"it answered HTTP {status}" if status else " ".join(str(error).split())[:200] or type(error).__name__


def _checked(path: Path, file: HubFile) -> str:
    """The sha256 of a file that has the size and content that it should.

    Raises:
      InputError: If it has others.
    """
    size = path.stat().st_size
    # The library links the names of a repository's files to their contents: the content is what has to go.
    content = path.resolve()
    fix = f"delete {content} to fetch it again"
    what = f"--init: {file.repo}/{file.filename} at {file.revision}"
    require(file.size in (None, size), f"{what} should be {file.size} bytes long, found {size}; {fix}")
    found = sha256(path)
    # The library names the content of a large file by the sha256 that the hub announced.
    announced = content.name if _SHA256.fullmatch(content.name) else None
    wanted = file.sha256 or announced or found
    require(found == wanted, f"{what} should have the sha256 {wanted}, found {found}; {fix}")
    return found
