"""A finished stage is one file, whole or not at all, and says clearly what is wrong with it."""

import dataclasses
import json
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.files import read_sealed, unsealed
from simsiam_jax.records.results import Result, gather_results, read_log, read_results, read_stage_result
from tests.support.made_up import (
    make_experiment,
    make_result,
    make_scores,
    make_stage,
    stage_folder,
    write_log,
    write_results,
)


def test_a_stage_reads_back_as_written(tmp_path):
    folder = tmp_path / "none" / "seed-0" / "finetune"
    stage = make_stage([make_result(split="validation"), make_result(metrics={"top1": 1, "loss": -0.25})])
    assert read_stage_result(folder) is None
    stage.write(folder)
    assert read_stage_result(folder) == stage
    assert json.loads((folder / "result.json").read_text())["metrics"] == {
        "validation": {"top1": 0.5},
        "test": {"top1": 1, "loss": -0.25},
    }


def test_numbers_of_attributes_read_back_as_written_and_are_in_the_lines(tmp_path):
    attributes = {"jaccard": (0.25, 0.5), "auc": (0.75, math.nan)}
    result = make_result(attributes=attributes)
    write_results(tmp_path, [result])
    gather_results(tmp_path)
    written = json.loads((tmp_path / "results.jsonl").read_text())
    assert written["attributes"] == {"jaccard": [0.25, 0.5], "auc": [0.75, None]}
    (read,) = read_results(tmp_path)
    assert read.attributes["jaccard"] == (0.25, 0.5)
    assert math.isnan(read.attributes["auc"][1])


def test_a_write_that_fails_leaves_the_stage_as_it_was(tmp_path):
    folder = tmp_path / "none" / "seed-0" / "finetune"
    make_stage([make_result()]).write(folder)
    broken = make_stage([make_result(versions={})])
    broken.versions["python"] = object()
    with pytest.raises(TypeError):
        broken.write(folder)
    assert read_stage_result(folder) == make_stage([make_result()])
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_results_are_the_lines_of_all_stage_files_in_the_order_of_the_experiment(tmp_path):
    make_experiment(("own", "none")).write(tmp_path)
    lines = [
        make_result(seed, arm, eval=stage, split=split)
        for arm in ("own", "none", "elsewhere")
        for seed in (0, 2, 10)
        for stage, splits in (("pretrain", ("train", "validation")), ("knn", ("test",)), ("finetune", ("test",)))
        for split in splits
    ]
    write_results(tmp_path, lines[::-1])
    assert read_results(tmp_path) == lines


def test_without_an_experiment_results_are_in_the_order_of_arms_names(tmp_path):
    write_results(tmp_path, [make_result(0, "own"), make_result(0, "none")])
    assert [result.arm for result in read_results(tmp_path)] == ["none", "own"]


def test_a_run_without_results_has_none_and_gathering_none_leaves_no_file(tmp_path):
    assert read_results(tmp_path) == []
    assert read_results(tmp_path / "missing") == []
    gather_results(tmp_path)
    assert not (tmp_path / "results.jsonl").exists()


def test_gathered_results_read_the_same_without_the_stage_files(tmp_path):
    lines = [
        *make_scores("none", [0.5, 0.6]),
        make_result(0, "own", metrics={"top1": 1, "loss": -0.25}, draws=(0.5, 1)),
    ]
    write_results(tmp_path, lines)
    gather_results(tmp_path)
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    (recorded / "results.jsonl").write_bytes((tmp_path / "results.jsonl").read_bytes())
    assert read_results(recorded) == read_results(tmp_path) == lines
    assert (recorded / "results.jsonl").read_text().count("\n") == 3
    # A recorded run is not emptied by gathering.
    gather_results(recorded)
    assert read_results(recorded) == lines


def test_stage_files_count_where_there_are_both(tmp_path):
    write_results(tmp_path, [make_result(metrics={"top1": 0.1})])
    gather_results(tmp_path)
    write_results(tmp_path, [make_result(metrics={"top1": 0.9})])
    assert read_results(tmp_path) == [make_result(metrics={"top1": 0.9})]


def write_some(workdir, first):
    for seed in range(first, first + 50):
        write_results(workdir, [make_result(seed)])
        gather_results(workdir)


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(write_some, tmp_path, 50 * part) for part in range(4)]:
            done.result()
    assert [result.seed for result in read_results(tmp_path)] == list(range(200))
    # Whoever gathered last may have missed a stage that was being written, but no line is cut.
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert {len(unsealed(json.loads(line))) for line in lines} == {len(dataclasses.fields(Result))}
    gather_results(tmp_path)
    assert (tmp_path / "results.jsonl").read_text().count("\n") == 200


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"experiment": "de', "no stage's result"),
        (b"[1, 2]", "should be an object"),
        (b'{"experiment": "demo"}', "arm is missing"),
        (b"\xff\xfe", "no stage's result"),
        (b"", "no stage's result"),
    ],
)
def test_a_damaged_stage_is_named_with_what_to_do(tmp_path, text, reason):
    folder = tmp_path / "none" / "seed-0" / "finetune"
    folder.mkdir(parents=True)
    (folder / "result.json").write_bytes(text)
    for read in (lambda: read_stage_result(folder), lambda: read_results(tmp_path), lambda: gather_results(tmp_path)):
        with pytest.raises(InputError) as caught:
            read()
        assert str(caught.value).startswith(str(folder / "result.json"))
        assert reason in str(caught.value)
        assert "delete this file to measure the stage again" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["own/seed-0/finetune", "none/seed-1/finetune", "none/seed-0/knn"])
def test_a_stage_of_another_folder_is_foreign(tmp_path, place):
    make_stage([make_result()]).write(tmp_path / place)
    with pytest.raises(InputError, match=r"is the result of none/seed-0/finetune: delete this file"):
        read_stage_result(tmp_path / place)


WRONG_VALUES = [
    ("seed", "0"), ("seed", True), ("arm", 3), ("seconds", "long"), ("versions", []), ("pretrain", 1),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [*WRONG_VALUES, ("stage", "guess"), ("metrics", {"dev": {}}), ("metrics", {"test": {"top1": "high"}})],
)
def test_a_field_of_the_wrong_kind_in_a_stage_is_named(tmp_path, name, value):
    result = make_result()
    write_results(tmp_path, [result])
    path = stage_folder(tmp_path, result) / "result.json"
    path.write_text(json.dumps(read_sealed(path) | {name: value}))
    with pytest.raises(
        InputError, match=rf"result\.json is no stage's result.*{name if value != {'dev': {}} else 'dev'}"
    ):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [*WRONG_VALUES, ("metrics", {"top1": "high"}), ("eval", "guess"), ("split", "dev")],
)
def test_a_field_of_the_wrong_kind_in_a_line_is_named(tmp_path, name, value):
    line = dataclasses.asdict(make_result()) | {name: value}
    (tmp_path / "results.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=rf"line 1.*{name}"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"experiment": "de', "line 2"),
        (b"[1, 2]", "should be an object"),
        (b'{"experiment": "demo"}', "arm is missing"),
        (b"\xff\xfe", "line 2"),
    ],
)
def test_a_bad_line_of_a_recorded_run_is_named_with_its_number(tmp_path, line, reason):
    path = tmp_path / "results.jsonl"
    good = json.dumps(dataclasses.asdict(make_result())).encode() + b"\n"
    path.write_bytes(good + line + b"\n" + good)
    with pytest.raises(InputError, match=r"results\.jsonl, line 2 is no result") as caught:
        read_results(tmp_path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_diverged_loss_is_valid_json_and_reads_back_as_nan(tmp_path):
    result = make_result(metrics={"loss": math.nan, "z_spread": math.inf, "top1": 0.1})
    write_results(tmp_path, [result])
    gather_results(tmp_path)
    plain = {"loss": None, "z_spread": None, "top1": 0.1}
    assert json.loads((stage_folder(tmp_path, result) / "result.json").read_text())["metrics"]["test"] == plain
    assert json.loads((tmp_path / "results.jsonl").read_text())["metrics"] == plain
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    (tmp_path / "results.jsonl").rename(recorded / "results.jsonl")
    for workdir in (tmp_path, recorded):
        metrics = read_results(workdir)[0].metrics
        assert math.isnan(metrics["loss"])
        assert math.isnan(metrics["z_spread"])
        assert metrics["top1"] == 0.1


def test_a_numpy_scalar_among_the_metrics_is_written_as_a_number(tmp_path):
    stage = make_stage([make_result()])
    stage.metrics["test"]["top1"] = np.float32(0.25)
    stage.write(tmp_path / "none" / "seed-0" / "finetune")
    assert read_results(tmp_path)[0].metrics["top1"] == 0.25


def test_a_log_gives_its_good_lines_and_counts_the_others(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1}\n{"epoch": 2, "lo{"epoch": 2}\n\n{"epoch": 3}\n[4]\n{"ep')
    assert read_log(path) == ([{"epoch": 1}, {"epoch": 3}], 3)
    assert read_log(tmp_path / "missing.jsonl") == ([], 0)


def test_a_log_may_begin_with_the_untrained_network(tmp_path):
    lines = [{"epoch": 0, "knn_top1": 0.4}, {"epoch": 1, "loss": -0.5, "knn_top1": 0.5}]
    write_log(tmp_path, lines)
    assert read_log(tmp_path / "metrics.jsonl") == (lines, 0)
