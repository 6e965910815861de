"""What a run has trained is of use: embeddings, predictions and exports say what its results say."""

import csv
import json
import os
import shutil

import jax.export
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from simsiam_jax.data.decode import decode_file
from simsiam_jax.data.folders import list_folder
from simsiam_jax.data.views import evaluation_view
from simsiam_jax.errors import InputError
from simsiam_jax.export import CARD_FILE
from simsiam_jax.files import read_sealed
from simsiam_jax.inference import find_stages, open_model, read_stage
from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.results import read_results, read_stage_result
from simsiam_jax.settings.recipes import PRESETS, recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.study import run as studies
from simsiam_jax.study.definition import THREE_ARMS, Study
from tests.support.launchers import launch_in_one_process, refused
from tests.support.timm_models import import_timm

pytestmark = pytest.mark.slow

SIZE = 16
# A name that a spreadsheet takes for a formula, one of two lines, and one that is no UTF-8.
ODD = ("=1+1.png", "two\nlines.png", os.fsdecode(b"\xff.png"))
CLASSES = ("-stripes", "blobs")


def _pixels(kind, generator):
    height, width = generator.integers(24, 40, 2)
    rows, columns = np.mgrid[:height, :width]
    if kind == "blobs":
        return 250 * np.exp(-((rows - height / 2) ** 2 + (columns - width / 2) ** 2) / 60)
    return 200 * (np.sin(columns / 2 + generator.uniform(0, 6)) > 0)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Thirty images of each of two classes, some deeper down; one file is no image."""
    folder, generator = tmp_path_factory.mktemp("use") / "photos", np.random.default_rng(0)
    for kind in CLASSES:
        names = [f"{'deep/er/' if number % 7 == 0 else ''}{number}.png" for number in range(30)]
        for name in (*names, *(ODD if kind == "blobs" else ())):
            path = folder / kind / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(_pixels(kind, generator).astype(np.uint8)).save(path)
    (folder / "blobs" / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def unit(photos):
    """The folder of a unit that was pretrained and fine-tuned on the photos."""
    settings = {name: value for name, value in PRESETS["smoke"].items() if name != "seeds"}
    changes = {"width": 1 / 16, "epochs": 1, "micro_batch_size": 16, "dtype": "float32", "patch_size": None}
    changes |= {"labels_per_class": 12, "finetune_epochs": 25, "finetune_learning_rate": 0.01}
    config = recipe_config("paper", dataset=f"folder:{photos}", image_size=SIZE)
    study = Study(
        experiment="study",
        title="",
        question="",
        arms={"in_domain": THREE_ARMS["in_domain"]},
        config=with_settings(config, {**settings, **changes}),
        seeds=(0,),
        evaluations=("finetune",),
        workdir=photos.parent / "run",
        data_dir=photos.parent / "data",
        manual_dir=None,
        command="",
    )
    assert studies.run(study) == ()
    return study.workdir / "in_domain" / "seed-0"


@pytest.fixture(scope="module")
def unfinished(unit, photos):
    """A copy of the pretraining that was to have three epochs."""
    folder = photos.parent / "other" / "in_domain" / "seed-0" / "pretrain"
    shutil.copytree(unit / "pretrain", folder)
    values = read_sealed(folder / "config.json")
    values["config"]["pretrain"]["epochs"] = 3
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def attributes(unit, photos):
    """A copy of the fine-tuning whose two outputs are attributes, with thresholds of their own."""
    folder = photos.parent / "attributes" / "in_domain" / "seed-0" / "finetune"
    shutil.copytree(unit / "finetune", folder)
    values = read_sealed(folder / "config.json")
    values |= {"label_kind": "attributes", "class_names": ["striped", "=round"]}
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "thresholds.json").write_text("[0.5, 1e-6]")
    return folder


@pytest.fixture(scope="module")
def done(unit, photos, unfinished, attributes):
    """What each command printed, by its name here; what it wrote lies in `out`."""
    out, photos_ = photos.parent / "out", str(photos)
    pretrain, finetune = f"--checkpoint={unit / 'pretrain'}", f"--checkpoint={unit / 'finetune'}"
    evaluate = ["evaluate", "--evals=knn", f"--data_dir={photos.parent / 'data'}"]
    commands = {
        "predict": ["predict", photos_, finetune, f"--out={out / 'predictions.csv'}"],
        "attributes": ["predict", photos_, f"--checkpoint={attributes}", f"--out={out / 'attributes.csv'}"],
        "embed": ["embed", photos_, pretrain, f"--out={out / 'features.parquet'}"],
        "embed_tuned": ["embed", photos_, finetune, f"--out={out / 'tuned.npz'}"],
        # An arm's folder stands for the one pretraining in it.
        "evaluate": [*evaluate, f"--checkpoint={unit.parent}"],
        "again": [*evaluate, pretrain],
        "both": [*evaluate, f"{pretrain},{unfinished}", "--labels_per_class=3"],
        "export": ["export", pretrain, f"--out={out / 'backbone'}"],
        "export_tuned": ["export", finetune, f"--out={out / 'classifier'}"],
    }
    results = dict(
        zip(commands, launch_in_one_process([["simsiam", *each] for each in commands.values()]), strict=True)
    )
    for name, result in results.items():
        assert result.returncode == 0, f"{name}: {result.stderr}"
    return out, results


def _rows(path):
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def _decoded(photos, names):
    return np.stack([decode_file(photos / name, SIZE) for name in names])


def test_predictions_agree_with_the_test_accuracy_to_the_last_image(done, unit, photos):
    rows = {row["file"]: row for row in _rows(done[0] / "predictions.csv")}
    listing = list_folder(photos, None)
    readable = {name for name in listing.files if not name.endswith("broken.png")}
    assert {name.removeprefix("./") for name in rows} == readable
    tested = [int(at) for at in listing.splits["test"] if listing.files[int(at)] in readable]
    right = []
    for at in tested:
        name = listing.files[at]
        row = rows.get(name) or rows[f"./{name}"]
        right.append(row["class"].removeprefix("'") == listing.class_names[listing.labels[at]])
    result = read_stage_result(unit / "finetune")
    assert result is not None
    assert len(tested) > 10
    assert np.mean(right) == result.draws["test"][0] > 0.6
    # Both classes are predicted, or the accuracy would be that of a constant.
    assert len({row["class"] for row in rows.values()}) == 2


def test_a_row_has_the_probability_of_each_class_and_texts_that_are_no_formulas(done, unit):
    out, results = done
    rows = _rows(out / "predictions.csv")
    assert list(rows[0]) == ["file", "class", "p_-stripes", "p_blobs"]
    for row in rows:
        found = {name: float(row[f"p_{name}"]) for name in CLASSES}
        assert sum(found.values()) == pytest.approx(1, abs=2e-6)
        assert found[row["class"].removeprefix("'")] == max(found.values())
    assert {row["class"] for row in rows} <= {"'-stripes", "blobs"}
    names = {row["file"] for row in rows}
    assert {f"blobs/{name}" for name in ODD} <= names
    assert sum(name.startswith("./-stripes/") for name in names) == 30
    assert "63 images; 1 of 64 could not be read\n" in results["predict"].stdout
    assert f"{unit / 'finetune'}: epoch " in results["predict"].stdout


def test_attributes_are_predicted_from_their_own_thresholds_on(done):
    rows = _rows(done[0] / "attributes.csv")
    assert list(rows[0]) == ["file", "is_striped", "is_=round", "p_striped", "p_=round"]
    for row in rows:
        assert int(row["is_striped"]) == (float(row["p_striped"]) >= 0.5)
        assert int(row["is_=round"]) == (float(row["p_=round"]) >= 1e-6)
    assert any(float(row["p_=round"]) < 0.5 and row["is_=round"] == "1" for row in rows)


def test_embeddings_are_those_of_the_exported_program_and_of_timm(done, photos, monkeypatch):
    table = pyarrow.parquet.read_table(done[0] / "features.parquet")
    # One name is no UTF-8, so that all are bytes.
    names = [os.fsdecode(name) for name in table["file"].to_pylist()]
    features = np.array(table["features"].to_pylist(), np.float32)
    assert names == [name for name in list_folder(photos, "none").files if not name.endswith("broken.png")]
    assert np.abs(features).max() > 0.1
    # The network sees what is decoded at a size a little larger; the program takes images of the network's size.
    stored = np.stack([decode_file(photos / name, 18) for name in names])
    folder = done[0] / "backbone"
    model = open_model(photos.parent / "run" / "in_domain" / "seed-0" / "pretrain")
    assert model.stored_size == 18  # 16 × 8 / 7
    np.testing.assert_allclose(features, model.features(stored), rtol=0, atol=1e-5)
    small = _decoded(photos, names)
    here = model.features(small)
    program = jax.export.deserialize((folder / "features.stablehlo").read_bytes())
    np.testing.assert_allclose(program.call(small), here, rtol=0, atol=1e-5)

    torch, _ = import_timm()
    card, namespace = json.loads((folder / CARD_FILE).read_text()), {}
    monkeypatch.chdir(folder)
    exec(card["timm"]["build"] + card["timm"]["load"], namespace)
    # timm is given the very views that these features are of.
    views = np.asarray(evaluation_view(stored, spec=model.trained.config.program.views))
    with torch.no_grad():
        theirs = namespace["model"](torch.from_numpy(views.copy()).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(features, theirs, rtol=0, atol=1e-5)


def test_a_fine_tuned_network_goes_out_with_its_classifier(done, unit, photos, monkeypatch):
    folder, names = done[0] / "classifier", [f"blobs/{number}.png" for number in range(1, 6)]
    card, images = json.loads((folder / CARD_FILE).read_text()), _decoded(photos, names)
    assert card["classifier"]["class_names"] == list(CLASSES)
    assert card["classifier"]["probabilities"].startswith("softmax")
    assert card["pretraining"]["epochs"] == 1
    result = read_stage_result(unit / "finetune")
    assert result is not None
    measured = {(line["eval"], line["split"]): line["values"] for line in card["metrics"]}
    assert measured["finetune", "test"] == result.metrics["test"]

    model = open_model(unit / "finetune")
    program = jax.export.deserialize((folder / "classifier.stablehlo").read_bytes())
    outputs = program.call(images)
    np.testing.assert_allclose(outputs["logits"], model.logits(images), rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs["features"], model.features(images), rtol=0, atol=1e-5)
    assert np.ptp(outputs["logits"]) > 0

    torch, _ = import_timm()
    namespace = {}
    monkeypatch.chdir(folder)
    exec(card["timm"]["build"] + card["timm"]["load"], namespace)
    views = np.asarray(evaluation_view(images, spec=model.trained.config.program.views))
    with torch.no_grad():
        theirs = namespace["model"](torch.from_numpy(views.copy()).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(outputs["logits"], theirs, rtol=0, atol=1e-5)


def test_a_fine_tuned_networks_embeddings_are_its_backbones(done, unit, photos):
    with np.load(done[0] / "tuned.npz") as found:
        names, features = found["file"].tolist(), found["features"]
    assert f"blobs/{ODD[2]}" in names  # with its byte
    model = open_model(unit / "finetune")
    some = slice(0, 5)
    stored = np.stack([decode_file(photos / name, model.stored_size) for name in names[some]])
    assert features.shape[0] == len(names)
    np.testing.assert_allclose(features[some], model.features(stored), rtol=0, atol=1e-5)


def test_an_evaluation_stands_beside_the_untrained_network_and_goes_on_in_its_folder(done, unit):
    out, results = done
    (first, _) = sorted((unit / "evaluate").iterdir(), key=lambda path: len(read_experiment(path).arms))
    assert [arm.words for arm in read_experiment(first).arms] == [
        "no pretraining",
        "pretrained on photos (epoch 1 of 1)",
    ]
    name = open_model(unit / "pretrain").arm_name
    found = [(result.arm, result.seed, result.split) for result in read_results(first)]
    assert found == [(arm, 0, split) for arm in ("none", name) for split in ("validation", "test")]
    for each in ("evaluate", "again"):
        assert f"{unit / 'pretrain'}: epoch 1 of 1\n" in results[each].stdout
        assert f"results  {first / 'results.jsonl'}" in results[each].stdout
    card = json.loads((out / "backbone" / CARD_FILE).read_text())
    assert {line["labels_per_class"] for line in card["metrics"] if line["eval"] == "knn"} == {12, 3}


def test_several_pretrainings_are_in_one_table_and_an_unfinished_one_is_named(done, unit, unfinished):
    _, second = sorted((unit / "evaluate").iterdir(), key=lambda path: len(read_experiment(path).arms))
    assert [arm.words for arm in read_experiment(second).arms] == [
        "no pretraining",
        "pretrained on photos (epoch 1 of 1, epochs=1)",
        "pretrained on photos (epoch 1 of 3, not finished, epochs=3)",
    ]
    assert f"{unfinished}: epoch 1 of 3: the pretraining was not finished" in done[1]["both"].stdout


def test_mistakes_are_one_line_that_says_what_a_folder_is(done, unit, photos, tmp_path):
    pretrain, finetune = (f"--checkpoint={unit / stage}" for stage in ("pretrain", "finetune"))
    out, folder = f"--out={tmp_path / 'new.csv'}", str(photos)
    (tmp_path / "empty").mkdir()
    mistakes = (
        (["predict", folder, pretrain, out], ["is a pretraining", "no classes", "--evals=finetune"]),
        (["predict", folder, finetune, f"--out={done[0] / 'predictions.csv'}"], ["exists", "nothing is overwritten"]),
        (["predict", folder, finetune, "--out=table.xlsx"], ["--out=table.xlsx", ".csv"]),
        (["predict", folder, finetune], ["--out=FILE.csv is needed"]),
        (["predict", folder, out], ["--checkpoint=WORKDIR/ARM/seed-K/finetune is needed"]),
        (["predict", str(tmp_path / "empty"), finetune, out], ["holds no images"]),
        (["predict", folder, finetune, out, "--max_bad_images=0"], ["--max_bad_images=0", "broken.png"]),
        (["embed", folder, f"--checkpoint={unit}", "--out=x.npz"], ["means 2 networks", "give one of them"]),
        (
            ["embed", folder, f"--checkpoint={unit / 'pretrain' / 'checkpoints'}", "--out=x.npz"],
            ["lies within a stage"],
        ),
        (["evaluate", finetune], ["is a fine-tuned network", "seed-K/pretrain"]),
    )
    results = launch_in_one_process([["simsiam", *words] for words, _ in mistakes])
    for result, (_, words) in zip(results, mistakes, strict=True):
        # What is skipped is named before.
        result.stderr = result.stderr.splitlines()[-1]
        refused(result, *words)
        assert "delete" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_path_with_several_pretrainings_means_all_of_them(tmp_path):
    folders = [tmp_path / "run" / "arm" / f"seed-{seed}" / "pretrain" for seed in (0, 1)]
    for folder in folders:
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.json").write_text('{"stage": "pretrain"}')
    for path in (tmp_path / "run", tmp_path / "run" / "arm"):
        assert find_stages(path) == folders
    assert find_stages(folders[1].parent) == find_stages(folders[1]) == folders[1:]
    with pytest.raises(InputError, match=r"config\.json is damaged or of another version"):
        read_stage(folders[0])
    (folders[0] / "config.json").write_text('{"stage": "knn"}')
    with pytest.raises(InputError, match="is the evaluation knn, which leaves no network; give WORKDIR"):
        find_stages(folders[0])
