"""The wheel, installed outside any clone, answers for a folder of images."""

import email
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam_jax.records.results import read_results
from tests.support.launchers import PATIENCE, XLA_FLAGS

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the working tree, built from a copy, so that no build folder is left in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("simsiam_jax", "experiments"):
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "wheel", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", folder, folder / "source"], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The programs of an environment that has the wheel, and beside it the packages of the one that runs."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", folder / "bin" / "python"]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    (own / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def run(*words, cwd):
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        words,
        cwd=cwd,
        env={**environment, "XLA_FLAGS": XLA_FLAGS, "HOME": str(cwd)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_wheel_holds_what_is_read_at_run_time_and_the_licence(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(metadata))
    tracked = subprocess.run(["git", "ls-files", "simsiam_jax"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name for name in tracked.stdout.split() if not name.endswith(".md")} <= names
    assert metadata.replace("METADATA", "licenses/LICENSE") in names
    assert (about["License-Expression"] or about["License"]) == "Apache-2.0"
    assert "# simsiam_jax" in about.get_payload()
    assert not any(name.startswith("tests/") for name in names)


def test_a_study_of_a_folder_runs_outside_any_clone(installed, tmp_path):
    rng = np.random.default_rng(0)
    for place in range(60):
        file = tmp_path / "photos" / ("dark", "bright")[place % 2] / f"{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 128, (24, 24, 3), np.uint8) + np.uint8(127 * (place % 2))).save(file)
    where = run(installed / "python", "-c", "import simsiam_jax; print(simsiam_jax.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(installed.parent))
    flags = ("--preset=smoke", "--image_size=16", "--seeds=1", "--data_dir=data", "--noise_images=32", "--epochs=1")
    result = run(installed / "simsiam", "study", "photos", *flags, "--workdir=answer", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "<html" in (tmp_path / "answer" / "report" / "index.html").read_text()
    found = read_results(tmp_path / "answer")
    assert {each.arm for each in found} == {"none", "random", "in_domain"}
    assert {each.git_revision for each in found} == {"unknown"}  # there is no repository
    assert {each.versions["simsiam_jax"] for each in found} == {"0.1.0"}
