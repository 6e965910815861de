"""A run's files survive kills, and say clearly what is wrong with them."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.metrics import HEADLINE, scores
from simsiam_jax.records.environment import environment, git_revision
from simsiam_jax.records.results import HEADLINES, Result, append_results, read_experiment, read_log, read_results
from simsiam_jax.report.tables import ATTRIBUTE_NUMBERS


def make_result(seed=0, arm="none", **changes):
    fields = {
        "experiment": "demo",
        "arm": arm,
        "backbone": "resnet18",
        "pretrain": None,
        "seed": seed,
        "eval": "finetune",
        "split": "test",
        "metrics": {"top1": 0.5},
        "seconds": 1.5,
        "config_hash": "0123456789ab",
        "git_revision": "unknown",
        "versions": {"python": "3.11.2"},
        "device": "2 CPU cores",
    }
    return Result(**fields | changes)


def test_results_read_back_as_written_in_order(tmp_path):
    append_results(tmp_path, [make_result(0), make_result(1)])
    append_results(tmp_path, [make_result(2, metrics={"top1": 1, "loss": -0.25})])
    assert read_results(tmp_path) == [
        make_result(0),
        make_result(1),
        make_result(2, metrics={"top1": 1, "loss": -0.25}),
    ]
    assert (tmp_path / "results.jsonl").read_text().count("\n") == 3


def test_a_run_without_results_has_none_and_writing_none_leaves_no_file(tmp_path):
    append_results(tmp_path, [])
    assert read_results(tmp_path) == []
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize("kept_bytes", [1, 40, 900])  # the last is longer than the line written after it
def test_a_line_cut_by_a_kill_is_ignored_and_then_overwritten(tmp_path, kept_bytes):
    path = tmp_path / "results.jsonl"
    append_results(tmp_path, [make_result(0), make_result(1, device="x" * 1000)])
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept_bytes])
    assert read_results(tmp_path) == [make_result(0)]
    append_results(tmp_path, [make_result(2)])
    assert read_results(tmp_path) == [make_result(0), make_result(2)]
    assert path.read_bytes().count(b"\n") == 2
    assert path.read_bytes().endswith(b"\n")


def test_a_last_line_that_only_lacks_its_line_break_is_kept(tmp_path):
    path = tmp_path / "results.jsonl"
    append_results(tmp_path, [make_result(0)])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert read_results(tmp_path) == [make_result(0)]
    append_results(tmp_path, [make_result(1)])
    assert read_results(tmp_path) == [make_result(0), make_result(1)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"experiment": "de', "line 2"),
        (b"[1, 2]", "no JSON object"),
        (b'{"experiment": "demo"}', "'arm' is missing"),
        (b"\xff\xfe", "line 2"),
    ],
)
def test_a_bad_line_in_the_middle_is_named_with_its_number(tmp_path, line, reason):
    append_results(tmp_path, [make_result(0)])
    path = tmp_path / "results.jsonl"
    good = path.read_bytes()
    path.write_bytes(good + line + b"\n" + good)
    with pytest.raises(InputError, match=r"results\.jsonl, line 2 is no result") as caught:
        read_results(tmp_path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", "0"), ("seed", True), ("metrics", {"top1": "high"}), ("eval", "guess"), ("split", "dev"), ("arm", 3)],
)
def test_a_field_of_the_wrong_kind_is_named(tmp_path, name, value):
    append_results(tmp_path, [make_result(0)])
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}) + "\n")
    with pytest.raises(InputError, match=rf"line 1.*{name}"):
        read_results(tmp_path)


def test_a_diverged_loss_is_valid_json_and_reads_back_as_nan(tmp_path):
    append_results(tmp_path, [make_result(0, metrics={"loss": math.nan, "top1": 0.1})])
    assert json.loads((tmp_path / "results.jsonl").read_text())["metrics"] == {"loss": None, "top1": 0.1}
    metrics = read_results(tmp_path)[0].metrics
    assert math.isnan(metrics["loss"])
    assert metrics["top1"] == 0.1


def test_a_numpy_scalar_among_the_metrics_is_written_as_a_number(tmp_path):
    result = make_result(0)
    result.metrics["top1"] = np.float32(0.25)
    append_results(tmp_path, [result])
    assert read_results(tmp_path)[0].metrics["top1"] == 0.25


def test_a_log_gives_its_good_lines_and_counts_the_others(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1}\n{"epoch": 2, "lo{"epoch": 2}\n\n{"epoch": 3}\n{"ep')
    assert read_log(path) == ([{"epoch": 1}, {"epoch": 3}], 2)
    assert read_log(tmp_path / "missing.jsonl") == ([], 0)


def test_an_empty_or_missing_workdir_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"--workdir=.* holds no experiment\.json"):
        read_experiment(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        read_experiment(tmp_path / "missing")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"experiment": "demo", "title": 3}'])
def test_a_damaged_experiment_file_is_named(tmp_path, text):
    (tmp_path / "experiment.json").write_text(text)
    with pytest.raises(InputError, match=r"experiment\.json"):
        read_experiment(tmp_path)


def _describe(workdir, **changes):
    fields = {"experiment": "demo", "title": "", "question": "", "dataset": "faces", "command": ""}
    fields |= {"arms": [{"name": "none"}], "evals": [], "config": {}, "data": {}}
    (workdir / "experiment.json").write_text(json.dumps(fields | changes))


def test_an_experiment_shows_top1_unless_it_names_another_known_number(tmp_path):
    _describe(tmp_path)
    assert read_experiment(tmp_path).metric == "top1"
    _describe(tmp_path, metric="macro_jaccard")
    assert read_experiment(tmp_path).metric == "macro_jaccard"
    for metric in ("f1", None, ["top1"]):
        _describe(tmp_path, metric=metric)
        with pytest.raises(InputError, match=r"experiment\.json has no usable 'metric' \(known: top1, .*macro_jaccard"):
            read_experiment(tmp_path)


def test_the_numbers_that_tables_show_are_those_that_are_measured():
    # Two lists, because a report is made without jax.
    rng = np.random.default_rng(0)
    attributes = set(scores(rng.random((20, 3)), rng.integers(0, 2, (20, 3))))
    classes = set(scores(rng.random((20, 2)), np.arange(20) % 2))
    assert set(HEADLINES) == attributes | classes > set(HEADLINE.values())
    assert set(ATTRIBUTE_NUMBERS) == attributes


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


def test_the_report_needs_no_jax():
    code = "import sys, simsiam_jax.report.page; print('jax' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
