"""A result says where it was measured."""

import subprocess
import sys

import numpy as np

from simsiam_jax.records.environment import environment, git_revision


def test_the_environment_says_device_and_installed_versions():
    found = environment("one device")
    assert found.keys() == {"git_revision", "versions", "device"}
    assert found["device"] == "one device"
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["versions"]["numpy"] == np.__version__


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_revision_is_the_commit_and_marks_changes(tmp_path):
    source = tmp_path / "code.py"
    source.write_text("a = 1\n")
    assert git_revision(source) == "unknown"
    git(tmp_path, "init")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_revision(source) == commit
    source.write_text("a = 2\n")
    assert git_revision(source) == f"{commit}-dirty"
    # A virtual environment inside someone's project: the file is not that project's.
    (tmp_path / "untracked.py").write_text("")
    assert git_revision(tmp_path / "untracked.py") == "unknown"
