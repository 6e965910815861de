"""An experiment reads back as it was written, and a bad experiment.json is one clear line."""

import dataclasses
import json
import math

import numpy as np
import pytest

from simsiam_jax.errors import InputError
from simsiam_jax.files import read_sealed
from simsiam_jax.metrics import HEADLINE, scores
from simsiam_jax.records.experiment import (
    HEADLINES,
    AnalysisPlan,
    ArmRecord,
    Column,
    LabelCounts,
    Layout,
    Leak,
    read_experiment,
)
from tests.support.made_up import make_arm, make_experiment


def test_an_experiment_with_every_field_reads_back_as_written(tmp_path):
    arm = ArmRecord(
        name="resnet18-own",
        label="own\nimages",
        position=3,
        published={"test": 71.25, "test/macro_auc": 80},
        pretrain="in_domain",
        group="ResNet-18",
        shares="resnet18-none",
        settings={"labels_per_class": 5, "crop_scale": [0.2, 1.0]},
        changes=("evaluation.labels_per_class: null -> 5",),
        labels=50,
        absent="no weights at hand",
        init={"sha256": "0" * 64},
    )
    written = make_experiment(
        (make_arm("none"),),
        ("knn", "finetune"),
        paper_source="Table 2",
        seeds=(0, 1),
        init={"name": "imagenet"},
        metric="macro_jaccard",
        label_kind="attributes",
        class_names=("a", "b"),
        layout=Layout((Column("test", "finetune", "test", "macro_auc"),), pivot=True),
        figure3=True,
        plan=AnalysisPlan("finetune", ("resnet18-own",), (2, 4), 100, 0.5, 0.1),
        label_draws={"knn": 20, "finetune": 3},
        metric_reason="because --metric asks for it",
        label_counts={"train": LabelCounts((3, 4), (7, 6))},
    )
    written = dataclasses.replace(written, arms=(*written.arms, arm), leaks=(Leak("test", "train", 400, 12, 9),))
    for each in (written, arm, written.layout, written.layout.columns[0], written.plan, written.label_counts["train"]):
        unset = [field.name for field in dataclasses.fields(each) if getattr(each, field.name) == field.default]
        assert unset == []
    written.write(tmp_path)
    assert read_experiment(tmp_path) == written


def test_the_names_in_the_file_are_those_that_other_programs_know(tmp_path):
    layout = Layout((Column("test", "finetune", "test"),))
    make_experiment((make_arm("none", published={"test": 75.5}),), layout=layout).write(tmp_path)
    values = json.loads((tmp_path / "experiment.json").read_text())
    assert values["arms"][0]["published"] == {"test": 75.5}
    assert values["arms"][0]["position"] == 0
    assert values["layout"] == {
        "columns": [{"heading": "test", "eval": "finetune", "split": "test", "metric": None}],
        "pivot": False,
    }


def test_an_empty_or_missing_workdir_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match=r"--workdir=.* holds no experiment\.json"):
        read_experiment(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        read_experiment(tmp_path / "missing")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"experiment": "demo", "title": 3}'])
def test_a_damaged_experiment_file_is_named(tmp_path, text):
    (tmp_path / "experiment.json").write_text(text)
    with pytest.raises(InputError, match=r"experiment\.json") as caught:
        read_experiment(tmp_path)
    assert "\n" not in str(caught.value)
    assert "give the folder that a launcher wrote" in str(caught.value)


def change_file(workdir, **changes):
    make_experiment().write(workdir)
    path = workdir / "experiment.json"
    path.write_text(json.dumps(read_sealed(path) | changes))


def test_an_experiment_shows_top1_unless_it_names_another_known_number(tmp_path):
    change_file(tmp_path)
    assert read_experiment(tmp_path).metric == "top1"
    change_file(tmp_path, metric="macro_jaccard")
    assert read_experiment(tmp_path).metric == "macro_jaccard"
    change_file(tmp_path, metric="f1")
    with pytest.raises(InputError, match=r"experiment\.json .*metric must be one of top1, .*macro_jaccard"):
        read_experiment(tmp_path)
    for metric in (None, ["top1"]):
        change_file(tmp_path, metric=metric)
        with pytest.raises(InputError, match=r"experiment\.json .*metric should be a text"):
            read_experiment(tmp_path)


ARM = {"name": "none", "label": "none", "position": 0}
COLUMN = {"heading": "test", "eval": "finetune", "split": "test", "metric": "top1"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arms": []}, "arms must name at least one arm"),
        ({"arms": [{"name": "none", "label": "none"}]}, r"arms\[0\]\.position is missing"),
        ({"arms": [ARM | {"paper": {}}]}, r"arms\[0\]\.paper is unknown"),
        ({"arms": [ARM | {"published": {"test": "75"}}]}, r"arms\[0\]\.published\.test should be a number"),
        ({"arms": [ARM | {"published": {"test": math.nan}}]}, "published number 'test' of none is not finite"),
        ({"arms": [ARM | {"labels": True}]}, r"arms\[0\]\.labels should be a whole number"),
        ({"evals": ["guess"]}, "evals must be one of knn, linear, finetune"),
        ({"evals": ["pretrain"]}, "evals must be one of knn, linear, finetune"),
        ({"seeds": [0, "1"]}, r"seeds\[1\] should be a whole number"),
        ({"figure3": None}, "figure3 should be true or false"),
        ({"config": []}, "config should be an object"),
        ({"layout": {"columns": []}}, "a layout must have at least one column"),
        ({"layout": {"columns": [COLUMN, COLUMN], "pivot": True}}, "exactly one column"),
        ({"layout": {"columns": [COLUMN | {"eval": "pretrain"}]}}, "eval must be one of knn"),
        ({"layout": {"columns": [COLUMN | {"split": "dev"}]}}, "split must be one of train, validation, test"),
        ({"layout": {"columns": [COLUMN | {"metric": "f1"}]}}, "metric must be one of top1"),
        ({"layout": {"columns": [["finetune", "test", "top1", "test"]]}}, r"columns\[0\] should be an object"),
    ],
)
def test_a_bad_value_is_named(tmp_path, changes, reason):
    change_file(tmp_path, **changes)
    with pytest.raises(InputError, match=rf"experiment\.json does not describe a run \(.*{reason}"):
        read_experiment(tmp_path)


def test_the_numbers_that_tables_show_are_those_that_are_measured():
    # Two lists, because a report is made without jax.
    rng = np.random.default_rng(0)
    attributes = set(scores(rng.random((20, 3)), rng.integers(0, 2, (20, 3))))
    classes = set(scores(rng.random((20, 2)), np.arange(20) % 2))
    assert set(HEADLINES) == attributes | classes > set(HEADLINE.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"evaluation": "pretrain"}, "the deciding evaluation must be one of"),
        ({"looks": (3, 3)}, "looks must be ascending"),
        ({"looks": ()}, "looks must be ascending"),
        ({"smallest_effect": -1.0}, "smallest_effect must be 0 or more"),
        ({"alpha": 0.0}, "alpha must lie between 0 and 1"),
    ],
)
def test_a_plan_that_cannot_decide_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        AnalysisPlan(**{"evaluation": "linear", "primary": ("own",), "looks": (3, 5)} | changes)


def test_a_plan_has_the_seeds_of_its_last_look():
    assert AnalysisPlan("linear", ("own",), (2, 4), first_seed=100).seeds == (100, 101, 102, 103)
