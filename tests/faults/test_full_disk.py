"""A file system that fills up ends a study in one line, and it goes on when there is space."""

import subprocess

import pytest

from tests.faults import trials


def _mount(folder, *options):
    try:
        result = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if result.returncode:
        pytest.skip(f"mounting is not allowed: {result.stderr.strip()}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a study with space leaves."""
    return trials.undisturbed(tmp_path_factory.mktemp("undisturbed"))[1]


@pytest.fixture
def small(tmp_path, request):
    """A function that mounts a file system of so many kilobytes as a folder of the trial."""

    def mount(name, kilobytes):
        folder = tmp_path / name
        folder.mkdir()
        _mount(folder, "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs")
        request.addfinalizer(lambda: subprocess.run(["umount", "--lazy", str(folder)], check=True))
        return folder

    return mount


# The folder that is full, its size, and what does not fit: measured with the sizes of the study's files.
PLACES = [
    pytest.param("w", 40, id="exhibits"),
    pytest.param("w", 700, id="checkpoints", marks=pytest.mark.slow),
    pytest.param("w", 1800, id="report"),
    pytest.param("data", 60, id="preparation"),
    pytest.param("data", 400, id="cache", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(
    ("name", "kilobytes"),
    [each if each.marks else pytest.param(*each.values, id=each.id, marks=pytest.mark.faults) for each in PLACES],
)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(undisturbed, small, tmp_path, name, kilobytes):
    folder = small(name, kilobytes)
    stopped = trials.run(tmp_path)
    (said,) = stopped.said
    assert stopped.codes == (2,), said[-2000:]
    assert "Traceback" not in said
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: no space left on {folder}")
    assert line.endswith("run the same command again, it goes on")
    assert not [path for path in trials.paths(tmp_path) if "tmp" in path or "incomplete" in path or "building" in path]
    subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    done = trials.run(tmp_path)
    assert done.codes == (0,), done.said[0][-2000:]
    assert trials.outcome(tmp_path) == undisturbed
