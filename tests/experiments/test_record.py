"""A recorded run says what the run says, and nothing of the machine's folders; and it can be taken up again."""

import dataclasses

import pytest

from experiments.results.record import record
from experiments.results.restore import restore
from simsiam_jax.errors import InputError
from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.results import gather_results, read_results
from simsiam_jax.report.page import write_report
from tests.support.made_up import make_experiment, make_result, write_results

HERE, NAMED = "folder:/home/someone/my photos", "folder:my photos"
STARTS = {"none": "none", "own": HERE, "both": f"imagenet+{HERE}"}


@pytest.fixture
def workdir(tmp_path):
    """A run on a folder of images, with its report."""
    made_on = [make_result(0, arm, pretrain=pretrain) for arm, pretrain in STARTS.items()]
    make_experiment(tuple(STARTS), dataset=HERE).write(tmp_path / "run")
    write_results(tmp_path / "run", made_on)
    gather_results(tmp_path / "run")
    write_report(tmp_path / "run")
    return tmp_path / "run"


def test_a_recorded_run_has_all_numbers_and_no_path(workdir, tmp_path):
    folder = record(workdir, "mine", "accuracy.png", root=tmp_path / "results")
    assert {path.name for path in folder.iterdir()} == {
        "experiment.json",
        "results.jsonl",
        "report.md",
        "accuracy.png",
    }
    assert read_experiment(folder) == dataclasses.replace(read_experiment(workdir), dataset=NAMED)
    assert [
        dataclasses.replace(each, pretrain=each.pretrain.replace(NAMED, HERE)) for each in read_results(folder)
    ] == (read_results(workdir))
    assert {each.pretrain for each in read_results(folder)} == {"none", NAMED, f"imagenet+{NAMED}"}
    for name in ("experiment.json", "results.jsonl", "report.md"):
        assert "/home" not in (folder / name).read_text()
    assert "/home" in (workdir / "results.jsonl").read_text()


def test_its_report_is_one_of_the_recorded_numbers_and_names_no_log(workdir, tmp_path):
    log = next(workdir.rglob("finetune")) / "metrics.jsonl"
    assert f"{log.relative_to(workdir)}: there is none" in (workdir / "report" / "report.md").read_text()
    recorded = (record(workdir, "mine", root=tmp_path / "results") / "report.md").read_text()
    assert ".jsonl" not in recorded
    assert "| none |" in recorded


def test_a_run_without_the_figure_is_refused(workdir, tmp_path):
    (workdir / "report" / "accuracy.png").unlink()
    with pytest.raises(InputError, match=r"accuracy\.png is missing: run simsiam report "):
        record(workdir, "mine", "accuracy.png", root=tmp_path / "results")


def test_a_restored_run_has_every_number_of_its_record(workdir, tmp_path):
    folder = record(workdir, "mine", root=tmp_path / "results")
    again = tmp_path / "again"
    assert restore("mine", again, root=tmp_path / "results") == len(list(workdir.glob("*/seed-*/*/result.json"))) > 0
    assert read_experiment(again) == read_experiment(folder)
    gather_results(again)
    assert read_results(again) == read_results(folder)
    assert (again / "results.jsonl").read_bytes() == (folder / "results.jsonl").read_bytes()


def test_only_a_recorded_run_is_restored_and_only_into_an_empty_folder(workdir, tmp_path):
    record(workdir, "mine", root=tmp_path / "results")
    with pytest.raises(InputError, match="'other' names no recorded run"):
        restore("other", tmp_path / "again", root=tmp_path / "results")
    with pytest.raises(InputError, match="is not empty: give the name of a new folder"):
        restore("mine", workdir, root=tmp_path / "results")
