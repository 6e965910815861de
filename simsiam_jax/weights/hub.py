"""Weights files on the Hugging Face hub: one file each, at one commit, of one size and one sha256.

A name on the hub stands for whatever its owner puts there next. A study needs the same weights in a year, so a file
is asked for by commit, and its size and sha256 are checked whenever it is used. A name without a commit is *pinned*
the first time: the commit of its branch, the size and the sha256 go to `pins.json` in the project's cache folder,
and count from then on. Files lie in the hub library's own cache, shared with timm and transformers; only safetensors
files are fetched, which hold tensors and nothing to run.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from simsiam_jax.errors import InputError, require
from simsiam_jax.files import sha256, write_whole

_PREFIX = "hf:"
_FORM = "hf:OWNER/REPO[/FILENAME.safetensors][@REVISION]"
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(rf"({_WORD}/{_WORD})(?:/({_WORD}(?:/{_WORD})*\.safetensors))?(?:@({_WORD}(?:/{_WORD})*))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")

# Seconds until a hub that does not answer counts as unreachable.
_PATIENCE = 10.0


@dataclass(frozen=True)
class HubFile:
    """A weights file on the hub; it is *pinned* when nothing is None.

    Attributes:
        repo: `OWNER/REPO`.
        filename: path of a safetensors file in the repository.
        revision: commit (40 hex digits), tag or branch; None: the branch `main`.
        size: length in bytes.
        sha256: 64 hex digits.
    """

    repo: str
    filename: str = "model.safetensors"
    revision: str | None = None
    size: int | None = None
    sha256: str | None = None

    @property
    def is_pinned(self) -> bool:
        """Whether commit, size and sha256 are all known."""
        return None not in (self.revision, self.size, self.sha256)


def parse(text: str) -> HubFile | None:
    """Reads `hf:OWNER/REPO[/FILENAME.safetensors][@REVISION]`, the value of `--init`.

    Args:
      text: The flag's value.

    Returns:
      The file named, not pinned; None for a text that does not begin with `hf:`.

    Raises:
      InputError: For a text that begins so and does not go on like the form above.
    """
    if not text.startswith(_PREFIX):
        return None
    match = _NAME.fullmatch(text.removeprefix(_PREFIX))
    if match is None:
        raise InputError(f"--init={text}: not a file on the Hugging Face hub; the form is {_FORM}")
    repo, filename, revision = match.groups()
    return HubFile(repo, filename or "model.safetensors", revision)


def fetch(file: HubFile) -> tuple[Path, HubFile]:
    """Finds a file in the local cache or fetches it from the hub, and checks its size and sha256.

    No request is made for a pinned file that is in the cache, and a file that was fetched once is pinned.

    Args:
      file: The file; what it leaves open (None) is taken from its first use, or else from the hub.

    Returns:
      The local path, and the file pinned.

    Raises:
      InputError: When the file cannot be fetched, or is not the one that was pinned.
    """
    hub = _library()
    pin = file if file.is_pinned else _recorded(file)
    if pin is None:
        pin = _look_up(hub, file)
    path = _cached(hub, pin)
    if path is None:
        path = _download(hub, pin)
    if pin.sha256 is None:
        pin = dataclasses.replace(pin, sha256=sha256(path))
    _check(path, pin)
    if not file.is_pinned:
        _record(file, pin)
    return path, pin


def _library() -> ModuleType:
    # Read once, when the library is first imported. Without the second, it also asks the hub which programs to count.
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


def _cached(hub: ModuleType, pin: HubFile) -> Path | None:
    found = hub.try_to_load_from_cache(pin.repo, pin.filename, revision=pin.revision)
    # The library answers None, or a mark that the hub has no such file.
    return Path(found) if isinstance(found, str) else None


def _look_up(hub: ModuleType, file: HubFile) -> HubFile:
    """The file with what it leaves open filled in by the hub; sha256 stays None where the hub does not know it."""
    with _fetching(file):
        url = hub.hf_hub_url(file.repo, file.filename, revision=file.revision)
        found = hub.get_hf_file_metadata(url, timeout=_PATIENCE)
        if found.commit_hash is None or found.size is None:
            raise OSError("the answer names no commit or no size")
    # The tag of a file in the hub's large file store is its sha256; that of a small one is a git hash.
    digest = found.etag if _SHA256.fullmatch(found.etag or "") else None
    return dataclasses.replace(
        file, revision=found.commit_hash, size=file.size or found.size, sha256=file.sha256 or digest
    )


def _download(hub: ModuleType, pin: HubFile) -> Path:
    # The library tries an unreachable hub for half a minute before it gives up; this finds out at once.
    _look_up(hub, pin)
    with _fetching(pin):
        return Path(hub.hf_hub_download(pin.repo, pin.filename, revision=pin.revision, etag_timeout=_PATIENCE))


@contextlib.contextmanager
def _fetching(file: HubFile) -> Iterator[None]:
    """Turns whatever the hub's library raises into one line.

    Its versions stand on different HTTP libraries, whose errors have no ancestor in common but Exception.
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


def _check(path: Path, pin: HubFile) -> None:
    """Refuses a file of another size or content than pinned."""
    size = path.stat().st_size
    # The library links the names of a repository's files to their contents: the content is what has to go.
    fix = f"delete {path.resolve()} to fetch it again"
    what = f"--init: {pin.repo}/{pin.filename} at {pin.revision}"
    require(size == pin.size, f"{what} should be {pin.size} bytes long, found {size}; {fix}")
    digest = sha256(path)
    require(digest == pin.sha256, f"{what} should have the sha256 {pin.sha256}, found {digest}; {fix}")


def _pins_path() -> Path:
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache_home) / "simsiam_jax" / "pins.json"


def _pin_name(file: HubFile) -> str:
    return f"{file.repo}/{file.filename}@{file.revision or 'main'}"


def _read_pins() -> dict[str, HubFile]:
    path = _pins_path()
    if not path.exists():
        return {}
    try:
        pins = {name: HubFile(**fields) for name, fields in json.loads(path.read_text()).items()}
        require(all(pin.is_pinned for pin in pins.values()), "a pin with a gap")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged; delete it, and names on the hub are pinned anew") from error
    return pins


def _recorded(file: HubFile) -> HubFile | None:
    """The file as pinned at its first use; a size or sha256 that the caller knows comes before the recorded one."""
    pin = _read_pins().get(_pin_name(file))
    if pin is None:
        return None
    return dataclasses.replace(pin, size=file.size or pin.size, sha256=file.sha256 or pin.sha256)


def _record(file: HubFile, pin: HubFile) -> None:
    """Notes what a name stands for from now on, unless that has been noted before."""
    path, pins = _pins_path(), _read_pins()
    if _pin_name(file) in pins:
        return
    entries = {name: dataclasses.asdict(each) for name, each in {**pins, _pin_name(file): pin}.items()}
    try:
        write_whole(path, f"{json.dumps(entries, indent=2, sort_keys=True)}\n".encode())
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder of yours"
        ) from error
