"""What an evaluation records of classes, of unequal ones, and of attributes; features are made up."""

from types import SimpleNamespace

import numpy as np
import pytest

from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.datasets import DatasetInfo
from simsiam_jax.errors import InputError
from simsiam_jax.files import read_sealed
from simsiam_jax.metrics import choose_thresholds, headline_score
from simsiam_jax.records.experiment import LabelCounts, read_experiment
from simsiam_jax.records.results import read_stage_result
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.study import evaluations
from simsiam_jax.study.definition import Arm, Study
from simsiam_jax.study.evaluations import evaluate
from simsiam_jax.study.images import Data, check_metric
from simsiam_jax.study.programs import CompiledNetwork
from simsiam_jax.study.stages import Unit
from simsiam_jax.study.workdir import describe


def make_split(labels, seed):
    """Grey squares that hardly tell their labels, the first label the most."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels, np.int32)
    levels = labels.reshape(len(labels), -1)[:, 0] * 60 + rng.normal(80, 40, len(labels))
    images = np.clip(levels, 0, 255).astype(np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    return ImageSplit(images, labels, np.arange(len(labels), dtype=np.int32), f"{seed:016}")


class Network(CompiledNetwork):
    """Features are a few powers of an image's brightness; logits likewise."""

    def __init__(self):
        pass

    def features(self, variables, split):
        level = split.images[:, 0, 0, :1].astype(np.float32) / 255
        return np.concatenate([level, level**2, 1 - level], axis=1)

    def logits(self, variables, split):
        return 3 * self.features(variables, split)[:, : variables["columns"]] - 1

    def finetune_state(self, seed, backbone):
        return None

    finetune_epoch = None


def make_unit(tmp_path, kind, labels, *, evals=("knn", "linear"), **settings):
    classes = labels.max() + 1 if kind == "classes" else labels.shape[1]
    names = tuple("abcdef"[:classes])
    info = DatasetInfo("made_up", None, int(classes), names, 8, 8, label_kind=kind)
    config = recipe_config("paper", dataset="digits", image_size=16)
    config = with_settings(config, {"labels_per_class": None, **settings})
    study = Study(
        "made_up", "t", "q", {"none": Arm("none", "none")}, config, (0,), evals, tmp_path, tmp_path, None, "python"
    )
    train, validation, test = (make_split(labels[part::3], part) for part in range(3))
    data = Data(info, train, train, None, validation, test, asked_metric=config.evaluation.metric)
    environment = {"git_revision": "unknown", "versions": {}, "device": "none"}
    return Unit(study, Network(), None, data, "none", 0, environment)


@pytest.mark.parametrize("damage", ["deleted", "emptied"])
def test_a_finished_stage_whose_settings_are_damaged_gets_them_again(tmp_path, caplog, damage):
    unit = make_unit(tmp_path, "classes", np.arange(30) % 2)
    path = unit.stage_folder("knn") / "config.json"
    whole = path.read_bytes()
    unit.record("knn", {"test": {"top1": 0.5}}, 1.0)
    unit.mend()
    assert not caplog.records
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"")
    unit.mend()
    assert path.read_bytes() == whole
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path} is damaged (")
    # A stage that is not finished writes its settings when it runs.
    assert not (tmp_path / "none" / "seed-0" / "linear").exists()


def unequal(count=300):
    """Seven in eight of one class."""
    labels = np.zeros(count, int)
    labels[::8] = 1
    return labels


def gappy(count=240):
    """Three attributes: a common one, a rare one, and one that is mostly not known."""
    rng = np.random.default_rng(0)
    labels = np.stack([rng.random(count) < share for share in (0.5, 0.15, 0.3)], axis=1).astype(int)
    labels[rng.random(count) < 0.6, 2] = -1
    return labels


def test_of_unequal_classes_balanced_accuracy_leads_and_the_record_says_why(tmp_path):
    unit = make_unit(tmp_path, "classes", unequal())
    assert unit.data.metric == "balanced_accuracy"
    describe(unit.study, unit.data, {})
    experiment = read_experiment(tmp_path)
    assert experiment.metric == "balanced_accuracy"
    # Every third label: of 100 images 87 or 88 are of the first class.
    share = np.mean(unit.data.train.labels == 0)
    assert experiment.metric_reason == f"because one class holds {100 * share:.0f} % of the training images"
    assert experiment.label_counts["test"] == LabelCounts(tuple(np.bincount(unit.data.test.labels).tolist()))
    evaluate(unit, ("knn", "linear"), {})
    for stage in ("knn", "linear"):
        found = read_stage_result(tmp_path / "none" / "seed-0" / stage)
        assert found.draws["test"] == (found.metrics["test"]["balanced_accuracy"],)
        assert found.attributes == {}


@pytest.mark.parametrize(("labels", "metric"), [(np.arange(90) // 3 % 3, "top1"), (unequal(), "auc")])
def test_equal_classes_and_the_users_word_lead_as_they_did(tmp_path, labels, metric):
    unit = make_unit(tmp_path, "classes", labels, metric=None if metric == "top1" else metric)
    assert unit.data.metric == metric
    assert unit.data.metric_reason == ("" if metric == "top1" else "because --metric asks for it")


@pytest.mark.parametrize(
    ("kind", "classes", "metric", "known"),
    [
        ("classes", 3, "auc", "auto, top1, balanced_accuracy"),
        ("classes", 2, "macro_auc", "auto, top1, balanced_accuracy, auc"),
        ("attributes", 2, "top1", "auto, macro_jaccard"),
        ("none", 0, "top1", "leave the flag out"),
    ],
)
def test_a_number_that_the_labels_do_not_have_is_refused_in_one_line(kind, classes, metric, known):
    config = recipe_config("paper", dataset="digits", image_size=16)
    info = DatasetInfo("made_up", None, classes, ("a",) * classes, 8, 8, label_kind=kind)
    check_metric(config, info)
    with pytest.raises(InputError, match=f"--metric={metric}.*{known}") as caught:
        check_metric(with_settings(config, {"metric": metric}), info)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("asked", "used"), [(None, 50), (7, 7), (1000, 100)])
def test_the_number_of_neighbours_that_voted_is_recorded(tmp_path, asked, used):
    # 100 labelled images of two classes.
    unit = make_unit(tmp_path, "classes", unequal(), knn_k=asked)
    evaluate(unit, ("knn",), {})
    assert read_stage_result(tmp_path / "none" / "seed-0" / "knn").metrics["test"]["k"] == used


@pytest.fixture
def finetuned(monkeypatch):
    """Fine-tuning that trains nothing, so that its outputs are `Network.logits`."""

    def fit(state, labelled, plan, epoch, *, measure, select, **_):
        return SimpleNamespace(best={"columns": 3}, best_epoch=1, history=[{"update": 4}])

    monkeypatch.setattr(evaluations, "fit", fit)


def test_attributes_are_predicted_from_thresholds_chosen_on_validation(tmp_path, finetuned):
    unit = make_unit(tmp_path, "attributes", gappy(), evals=("knn", "linear", "finetune"), micro_batch_size=8)
    evaluate(unit, ("knn", "linear", "finetune"), {})
    for stage in ("knn", "linear", "finetune"):
        found = read_stage_result(tmp_path / "none" / "seed-0" / stage)
        assert set(found.attributes["test"]) == {"jaccard", "accuracy", "auc", "average_precision", "threshold"}
        assert {len(values) for values in found.attributes["test"].values()} == {3}
        for split in ("validation", "test"):
            mean = np.mean(found.attributes[split]["jaccard"])
            assert found.metrics[split]["macro_jaccard"] == pytest.approx(mean)
        assert found.attributes["validation"]["threshold"] == found.attributes["test"]["threshold"]
    thresholds = read_sealed(tmp_path / "none" / "seed-0" / "finetune" / "thresholds.json")["thresholds"]
    outputs = {
        name: 1 / (1 + np.exp(-Network().logits({"columns": 3}, split))) for name, split in unit.held_out.items()
    }
    assert thresholds == pytest.approx(choose_thresholds(outputs["validation"], unit.data.validation.labels))
    assert thresholds != [0.5] * 3
    # What was chosen on validation is what the test images are judged by.
    expected = headline_score(outputs["test"], unit.data.test.labels, threshold=np.array(thresholds))
    assert found.metrics["test"]["macro_jaccard"] == pytest.approx(expected)
    assert not (tmp_path / "none" / "seed-0" / "linear" / "thresholds.json").exists()


def test_a_threshold_that_is_given_holds_for_every_attribute(tmp_path, finetuned):
    unit = make_unit(tmp_path, "attributes", gappy(), evals=("finetune",), threshold=0.3, micro_batch_size=8)
    evaluate(unit, ("finetune",), {})
    assert read_sealed(tmp_path / "none" / "seed-0" / "finetune" / "thresholds.json") == {"thresholds": [0.3] * 3}


def test_every_evaluation_leaves_the_test_images_that_it_told_wrong(tmp_path, finetuned):
    unit = make_unit(
        tmp_path, "classes", np.arange(300) // 3 % 3, evals=("knn", "linear", "finetune"), micro_batch_size=8
    )
    evaluate(unit, ("knn", "linear", "finetune"), {})
    for stage in ("knn", "linear", "finetune"):
        found = read_stage_result(tmp_path / "none" / "seed-0" / stage)
        with np.load(tmp_path / "none" / "seed-0" / stage / "mistakes.npz") as mistakes:
            assert mistakes["total"] == 100
            assert mistakes["wrong"] == round(100 * (1 - found.metrics["test"]["top1"]))
            assert len(mistakes["images"]) == min(mistakes["wrong"], 36)
            assert (mistakes["labels"] != mistakes["predicted"]).all()
            # The surest first: the share of the class that was said, which is the largest of three.
            assert (np.diff(mistakes["certainty"]) <= 0).all()
            assert (mistakes["certainty"] > 1 / 3).all()
