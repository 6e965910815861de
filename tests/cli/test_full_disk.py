"""What is said of a full disk, and what counts as one."""

import errno
import logging
import threading
from types import SimpleNamespace

import pytest

from simsiam_jax.cli import guard
from simsiam_jax.files import disk_is_full, write_whole


def raised(*faults):
    """The last of some exceptions, each raised from the one before."""
    before = None
    for fault in faults:
        fault.__cause__, before = before, fault
    return before


FULL = OSError(errno.ENOSPC, "No space left on device")
# As TensorStore words it, in an exception of its own.
WORDS = ValueError('RESOURCE_EXHAUSTED: Failed writing: "manifest.ocdbt": [OS error 28: No space left on device]')


@pytest.mark.parametrize(
    ("fault", "full"),
    [
        (FULL, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (WORDS, True),
        (raised(FULL, RuntimeError("the save failed")), True),
        (ExceptionGroup("both", [KeyError("a"), FULL]), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes"), False),
    ],
)
def test_a_full_disk_is_known_by_its_number_or_its_words(fault, full):
    assert disk_is_full(fault) == full


def test_the_line_names_the_file_or_the_fullest_folder_and_what_to_do(tmp_path, monkeypatch):
    free = {tmp_path: 5e6, tmp_path / "w": 1e5}
    (tmp_path / "w").mkdir()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free[folder], total=8e6))
    found = guard.full_disk_words(WORDS, [tmp_path, tmp_path / "w" / "not made yet"])
    assert found.startswith(f"no space left on {tmp_path / 'w'} (0.1 of 8 MB free, or a quota is spent)")
    assert found.endswith("free some there and run the same command again, it goes on")
    named = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "results.jsonl"))
    assert guard.full_disk_words(named, []).startswith(f"no space left on {tmp_path} while writing results.jsonl (5.0")


def test_threads_of_libraries_say_nothing_of_it_and_all_else(monkeypatch, caplog):
    monkeypatch.setattr("threading.excepthook", lambda arguments: told.append(arguments.exc_value))
    told, absl = [], logging.getLogger("absl")
    monkeypatch.setattr(absl, "filters", list(absl.filters))
    for name in ("concurrent.futures", "asyncio"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    guard._hush_full_disks()
    broken = ValueError("out of luck")
    for fault in (WORDS, broken):
        absl.error("the save failed", exc_info=fault)
        guard.threading.excepthook(threading.ExceptHookArgs((type(fault), fault, None, None)))
    assert [record.exc_info[1] for record in caplog.records] == [broken]
    assert told == [broken]


def test_a_file_that_does_not_fit_leaves_what_was_there_and_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_whole(path, b"before")

    def full(self, content):
        self.touch()
        raise FULL

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"after")
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]
