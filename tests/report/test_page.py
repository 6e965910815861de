"""The page stands on its own, and shows what a run has left, finished, damaged or not begun."""

import dataclasses
import html.parser
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simsiam_jax.errors import DivergenceError, InputError
from simsiam_jax.records.failures import read_failures, write_failure
from simsiam_jax.records.results import gather_results
from simsiam_jax.report import render
from simsiam_jax.report.page import PICTURES, write_report
from simsiam_jax.report.summary import ATTRIBUTE_NUMBERS, summarise
from tests.support.made_up import (
    made_up_workdir,
    make_arm,
    make_experiment,
    make_result,
    make_scores,
    write_log,
    write_results,
)


def write_run(workdir, experiment, results, logs=True):
    experiment.write(workdir)
    write_results(workdir, results)
    for arm in experiment.arms if logs else ():
        for stage, values in (
            ("pretrain", {"loss": -0.9, "heldout_loss": -0.8, "z_spread": 0.9, "knn_top1": 0.5}),
            ("finetune", {"loss": 0.5, "validation_top1": 0.7}),
        ):
            lines = [{"epoch": epoch, "images_per_second": 100.0 * epoch, **values} for epoch in (1, 2, 3)]
            write_log(workdir / arm.name / "seed-0" / stage, lines)


class Addresses(html.parser.HTMLParser):
    """Collects what the page would fetch or link to, its elements and its text."""

    def __init__(self):
        super().__init__()
        self.addresses, self.tags, self.text = [], set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name.split(":")[-1] in ("src", "href", "action", "srcset")]

    def handle_data(self, data):
        self.text += data


def read_page(path):
    parsed = Addresses()
    parsed.feed(path.read_text())
    return parsed


def full_run(workdir, logs=True, **changes):
    experiment = make_experiment(("none", "own"), ("knn", "finetune"), **changes)
    results = [
        *make_scores("none", [0.70, 0.72, 0.77]),
        *make_scores("own", [0.73, 0.76, 0.79]),
        *make_scores("none", [0.5, 0.5, 0.6], eval="knn"),
        *make_scores("own", [0.6, 0.7, 0.7], eval="knn"),
        make_result(0, "own", eval="pretrain", split="train", seconds=100, metrics={"loss": -0.93, "updates": 540}),
    ]
    write_run(workdir, experiment, results, logs)
    images = np.zeros((2, 4, 4, 3), np.uint8)
    np.savez(workdir / "pairs.npz", originals=images, view1=images / np.float32(1), view2=images / np.float32(1))


def test_the_report_is_one_page_that_asks_nothing_of_the_network(tmp_path):
    full_run(tmp_path)
    path = write_report(tmp_path)
    assert path == tmp_path / "report" / "index.html"
    parsed = read_page(path)
    assert parsed.addresses  # the figures' own glyphs
    assert all(address.startswith(("#", "data:")) for address in parsed.addresses)
    assert not parsed.tags & {"script", "link", "iframe", "object"}
    text = path.read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"@import|url\((?!#)", text)
    drawn = ("accuracy", "difference", "loss", "knn", "spread", "finetune", "pairs")
    assert {file.name for file in path.parent.iterdir()} == {
        "index.html", "report.md", "table.csv", "table.tex", *(f"{name}.png" for name in drawn),
    }  # fmt: skip


def test_the_page_says_what_was_measured_and_how(tmp_path):
    full_run(tmp_path)
    text = read_page(write_report(tmp_path)).text.replace("\u00a0", " ")
    for words in (
        "Does it help?",
        "changed fine-tuned test accuracy by +3.00 ± 1.00 points against “none” (95 % interval +0.52 to +5.48",
        "all 12 evaluations done",
        "73.00 ± 3.61",
        "python -m experiments.demo",
        "optimizer.name",
        "abc123",
        "2 CPU cores",
        "3.11.2",
        "1 min 40 s",
        "540",
        "−0.930",
    ):
        assert words in text, words


def attribute_run(workdir):
    """Two arms with fine-tuning measured by all numbers of attributes: the n-th, of the base + n / 100."""
    experiment = make_experiment(("none", "own"), ("knn", "finetune"), metric="macro_jaccard")
    results = [
        make_result(seed, arm, metrics={name: base + n / 100 for n, name in enumerate(ATTRIBUTE_NUMBERS)})
        for arm, bases in (("none", (0.50, 0.52, 0.57)), ("own", (0.53, 0.56, 0.59)))
        for seed, base in enumerate(bases)
    ]
    results.append(make_result(0, "own", eval="knn", metrics={"macro_jaccard": 0.4, "macro_auc": math.nan}))
    write_run(workdir, experiment, results)
    for stage, name in (("pretrain", "knn_macro_jaccard"), ("finetune", "validation_macro_jaccard")):
        line = {"epoch": 1, "loss": 0.5, name: 0.5}
        (workdir / "own" / "seed-0" / stage / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return experiment, results


def test_a_report_of_attributes_speaks_of_jaccard_and_not_of_top1(tmp_path):
    attribute_run(tmp_path)
    parsed = read_page(write_report(tmp_path))
    text = parsed.text.replace("\u00a0", " ")
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "changed fine-tuned test macro Jaccard by +3.00 ± 1.00 points against “none”" in text
    for words in (text, markdown):
        assert words.count("Macro Jaccard in % (which the paper calls macro accuracy)") == 1
        assert "op-1" not in words
        assert "test accuracy" not in words
    assert "kNN macro Jaccard by epoch of pretraining" in markdown
    assert "Validation macro Jaccard by epoch of fine-tuning" in markdown


def test_a_report_of_attributes_tells_every_number_of_every_arm_and_evaluation(tmp_path):
    experiment, results = attribute_run(tmp_path)
    details = summarise(results, experiment).details
    # 50, 52, 57 and 53, 56, 59: means 53 and 56, standard deviations 3.61 (the root of 13) and 3; a point a column.
    own = tuple(f"{56 + n:.2f} ± 3.00" for n in range(8))
    assert details == (
        ("pretraining", "evaluation", *ATTRIBUTE_NUMBERS.values()),
        ("none", "fine-tune, test", *(f"{53 + n:.2f} ± 3.61" for n in range(8))),
        ("own", "fine-tune, test", *own),
        ("own", "kNN, test", "40.00 (1 seed)", *["–"] * 7),
    )
    text = read_page(write_report(tmp_path)).text
    markdown = (tmp_path / "report" / "report.md").read_text()
    assert "| own | fine-tune, test | " + " | ".join(own) + " |" in markdown
    for words in (text, markdown):
        assert "Jaccard the present among those present or predicted" in words
        assert all(number in words for number in own)
    assert summarise(results, dataclasses.replace(experiment, metric="top1")).details == ()


def test_pretraining_on_unlabelled_images_alone_gives_a_report(tmp_path):
    experiment = make_experiment(("own",), (), seeds=(0,))
    result = make_result(0, "own", eval="pretrain", split="train", metrics={"loss": -0.93, "updates": 540})
    write_run(tmp_path, experiment, [result], logs=False)
    line = {"epoch": 1, "loss": -0.5, "z_spread": 0.9, "images_per_second": 100.0}
    write_log(tmp_path / "own" / "seed-0" / "pretrain", [line])
    path = write_report(tmp_path)
    text = read_page(path).text
    assert "1 pretraining done, no evaluation" in text
    assert "−0.930" in text
    assert "Nothing has been measured" not in text
    assert "not finished" not in text
    assert "Accuracy" not in text
    assert {file.stem for file in path.parent.glob("*.png")} == {"loss", "spread"}
    markdown = (path.parent / "report.md").read_text()
    assert "1 pretraining done, no evaluation." in markdown
    assert "op-1" not in markdown
    assert len((path.parent / "table.csv").read_text().splitlines()) == 1


def test_user_text_stays_text(tmp_path):
    evil = '<script>alert("x")</script><img src=http://a.b/c>$x$ & _y'
    arms = (make_arm("none", "none"), make_arm("own", evil))
    experiment = make_experiment(arms, title=evil, question=evil, command=evil, config={evil: evil, "group": {evil: 1}},
                                 data={evil: {evil: evil}}, dataset=evil, paper_source=evil)  # fmt: skip
    results = make_scores("none", [0.7, 0.8]) + make_scores("own", [0.8, 0.8], device=evil)
    write_run(tmp_path, experiment, results)
    parsed = read_page(write_report(tmp_path))
    assert not parsed.tags & {"script", "img"}
    assert all(address.startswith(("#", "data:")) for address in parsed.addresses)
    assert parsed.text.count('<script>alert("x")</script>') >= 8
    assert "<script" not in (tmp_path / "report" / "report.md").read_text().split("~~~")[0]


def test_an_unfinished_run_says_how_much_is_done(tmp_path):
    experiment = make_experiment(("none", "own"), ("knn", "finetune"), seeds=(0, 1, 2))
    write_run(tmp_path, experiment, make_scores("none", [0.7]), logs=False)
    text = read_page(write_report(tmp_path)).text
    assert "This run is not finished: 1 of 12 evaluations done." in text
    assert "Augmented pairs" not in text
    assert "kNN, test" in text


def test_a_run_without_any_result_still_gives_a_page(tmp_path):
    write_run(tmp_path, make_experiment(), [], logs=False)
    assert "Nothing has been measured yet." in read_page(write_report(tmp_path)).text


def test_damaged_extras_are_named_and_left_out(tmp_path):
    full_run(tmp_path)
    (tmp_path / "pairs.npz").write_bytes(b"no archive")
    with open(tmp_path / "own" / "seed-0" / "pretrain" / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    text = read_page(write_report(tmp_path)).text
    assert "pairs.npz cannot be read" in text
    assert "own/seed-0/pretrain/metrics.jsonl: 1 unreadable line left out" in text
    assert not (tmp_path / "report" / "pairs.png").exists()


def test_a_rebuild_that_fails_leaves_the_former_report(tmp_path, monkeypatch):
    full_run(tmp_path, logs=False)
    report = write_report(tmp_path).parent
    before = {file.name: file.read_bytes() for file in report.iterdir()}
    write_results(tmp_path, make_scores("own", [0.1, 0.1, 0.1]))

    def fail(table):
        raise RuntimeError("half-way")

    monkeypatch.setattr(render, "to_csv", fail)
    with pytest.raises(RuntimeError, match="half-way"):
        write_report(tmp_path)
    assert {file.name: file.read_bytes() for file in report.iterdir()} == before
    monkeypatch.undo()
    write_report(tmp_path)
    assert (report / "table.csv").read_bytes() != before["table.csv"]


def test_a_rebuild_drops_the_pictures_that_no_longer_hold(tmp_path):
    full_run(tmp_path, logs=False)
    report = write_report(tmp_path).parent
    (tmp_path / "pairs.npz").unlink()
    (report / "mine.png").write_bytes(b"a user's own")
    write_report(tmp_path)
    assert not (report / "pairs.png").exists()
    assert (report / "mine.png").exists()


def test_equal_runs_give_equal_reports(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
        full_run(folder)
    first, second = (write_report(folder).read_bytes() for folder in folders)
    assert first == second


def test_a_failed_unit_is_named(tmp_path):
    full_run(tmp_path)
    (tmp_path / "own" / "seed-2" / "error.txt").write_text("ValueError: out of luck\n\nTraceback ...\n")
    path = write_report(tmp_path)
    for text in (read_page(path).text, (path.parent / "report.md").read_text()):
        assert "Failed: own, seed-2: ValueError: out of luck." in text
        assert "Traceback" not in text


def test_a_unit_that_diverged_is_named_and_marks_its_arm_in_every_form_of_the_report(tmp_path):
    full_run(tmp_path)
    write_failure(tmp_path / "own" / "seed-2", DivergenceError("the loss is nan in epoch 2", "at update 12"))
    assert [failure.diverged for failure in read_failures(tmp_path)] == [True]
    path = write_report(tmp_path)
    for text in (" ".join(read_page(path).text.split()), (path.parent / "report.md").read_text()):
        assert "Failed: own, seed-2: diverged at update 12: the loss is nan in epoch 2." in text
        assert "diverged at update 12 of seed 2" in text
        assert "Traceback" not in text
    assert "diverged at update 12 of seed 2" in (path.parent / "table.csv").read_text()


def test_the_timing_has_trainings_length_and_the_held_out_loss(tmp_path):
    ended = [
        make_result(0, "own", eval="pretrain", split=split, metrics=metrics)
        for split, metrics in (
            ("validation", {"loss": -0.8, "z_spread": 0.9}),
            ("train", {"loss": -0.7, "z_spread": 0.6, "images_per_second": 50.0, "updates": 123}),
        )
    ]
    write_run(tmp_path, make_experiment(seeds=(0,)), [*make_scores("own", [0.5]), *ended], logs=False)
    text = " ".join(read_page(write_report(tmp_path)).text.split())
    assert "50 – 123 −0.800 0.900" in text


def test_the_page_shows_every_section_of_a_whole_run(tmp_path):
    path = write_report(made_up_workdir(tmp_path / "run"))
    names = {file.stem for file in path.parent.glob("*.png")}
    assert names == {name for name in PICTURES if not name.startswith("labels-")}
    text = read_page(path).text
    for words in (
        "paper 60.00",
        "not run",
        "Not run: ResNet-18: ImageNet, ViT-S: ImageNet (no weights at hand).",
        "collapsed in 3 of 3 seeds, lost dimensions in 3 of 3 seeds",
        "Between draws of labelled images",
        "3 seeds × 2 draws of labels",
        'backbone.name: "resnet18" -> "vit_s"',
        "What the features see",
    ):
        assert words in text, words


def test_the_page_marks_an_arm_by_its_position(tmp_path):
    experiment = make_experiment(("none", "noise", "own"), seeds=(0,))
    arms = tuple(arm for arm in experiment.arms if arm.name != "noise")
    results = make_scores("none", [0.7]) + make_scores("own", [0.8])
    write_run(tmp_path, dataclasses.replace(experiment, arms=arms), results)
    text = write_report(tmp_path).read_text()
    assert re.findall(r'class="swatch" style="background: var\(--(arm-\d)\)"', text) == ["arm-0", "arm-2"] * 2


def test_a_report_can_be_written_elsewhere(tmp_path):
    (tmp_path / "run").mkdir()
    full_run(tmp_path / "run", logs=False)
    assert write_report(tmp_path / "run", tmp_path / "out") == tmp_path / "out" / "index.html"
    assert not (tmp_path / "run" / "report").exists()


def test_a_recorded_run_gives_the_same_report_as_its_stage_files(tmp_path):
    folders = [tmp_path / "run", tmp_path / "recorded"]
    for folder in folders:
        folder.mkdir()
        full_run(folder, logs=False)
        for path in folder.glob("*/seed-*/*/result.json"):
            write_log(path.parent, [{"epoch": 1, "update": 540, "loss": 0.5}])
    gather_results(folders[1])
    for path in folders[1].glob("*/seed-*/*/result.json"):
        path.unlink()
    first, second = (write_report(folder).read_bytes() for folder in folders)
    assert first == second


def test_an_empty_workdir_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"holds no experiment\.json") as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_report_that_cannot_be_written_is_one_clear_line(tmp_path):
    full_run(tmp_path, logs=False)
    (tmp_path / "report").write_text("a file in the way")
    with pytest.raises(InputError, match=r"--workdir=.*the report cannot be written"):
        write_report(tmp_path)


def test_the_report_needs_no_jax():
    floors = tuple(f"simsiam_jax.{name}" for name in ("eval", "train", "study", "models", "data", "metrics"))
    code = (
        f"import sys, simsiam_jax.report.page; print(any(name.startswith({('jax.', *floors)}) for name in sys.modules))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
