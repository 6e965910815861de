"""From folders as people have them to an answer and to its use, by paths alone: every command, one after the other."""

import csv
import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from simsiam_jax.files import read_sealed
from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.results import read_results, read_stage_result
from tests.support.launchers import launch_in_one_process

pytestmark = pytest.mark.slow

# Small networks and few updates: no test is about time.
SMOKE = ("--preset=smoke", "--image_size=16")


def _save(path, kind, generator):
    """A picture of 20 × 20 pixels with stripes across, stripes along or a blob, in a colour and with noise."""
    rows, columns = np.mgrid[:20, :20]
    shapes = {
        "rare": lambda: 200 * (np.sin(columns / 2 + generator.uniform(0, 6)) > 0),
        "few": lambda: 200 * (np.sin(rows / 2 + generator.uniform(0, 6)) > 0),
        "many": lambda: 250 * np.exp(-((rows - generator.uniform(5, 15)) ** 2 + (columns - 10) ** 2) / 30),
    }
    pixels = shapes[kind]()[..., None] * generator.uniform(0.5, 1, 3) + generator.integers(0, 60, (20, 20, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def _unequal(folder, generator):
    for kind, count in (("rare", 3), ("few", 40), ("many", 2000)):
        for number in range(count):
            _save(folder / "unequal" / kind / f"{number}.png", kind, generator)
    return ()


def _described(folder, generator):
    """Pictures in no folders, with four attributes in a file, of which 8 % are unknown."""
    with (folder / "labels.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "striped", "blob", "first half", "seldom"])
        for number in range(240):
            kind = ("rare", "few", "many")[number % 3]
            _save(folder / "described" / f"{number}.png", kind, generator)
            row = [kind != "many", kind == "many", number < 120, number % 40 == 0]
            table.writerow([f"{number}.png", *("" if generator.random() < 0.08 else int(each) for each in row)])
    return (f"--labels={folder / 'labels.csv'}",)


def _pool(folder, generator):
    """Train and test folders of two classes, and pictures without labels, twelve of which are test images, too."""
    for split, count in (("train", 60), ("test", 30)):
        for kind in ("few", "many"):
            for number in range(count):
                _save(folder / "pool" / split / kind / f"{number}.png", kind, generator)
    for number in range(120):
        _save(folder / "pool" / "unlabelled" / f"{number}.png", ("few", "many")[number % 2], generator)
    for number in range(12):
        copy = folder / "pool" / "unlabelled" / f"copy-{number}.png"
        shutil.copy(folder / "pool" / "test" / "many" / f"{number}.png", copy)
    return ("--pretrain_split=unlabelled",)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of all three folders, the flags of each beyond its path, and what the commands printed."""
    root = tmp_path_factory.mktemp("use")
    generator = np.random.default_rng(0)
    flags = {make.__name__[1:]: make(root, generator) for make in (_unequal, _described, _pool)}
    commands = {}
    for name, given in flags.items():
        folder, data = str(root / name), f"--data_dir={root / 'data'}"
        runs = {command: root / f"{command}-{name}" for command in ("study", "pretrain", "evaluate")}
        unit = runs["study"] / "in_domain" / "seed-0"
        evaluated = [each for each in given if each.startswith("--labels=")]
        # One report and one study of all arms are enough.
        short = () if name == "unequal" else ("--arms=none,in_domain", "--noreport")
        commands |= {
            (name, "study"): [
                *(folder, *given, data, f"--workdir={runs['study']}", "--evals=linear,finetune", *SMOKE, *short)
            ],
            (name, "pretrain"): [folder, *given, data, f"--workdir={runs['pretrain']}", "--noreport", *SMOKE],
            (name, "evaluate"): [
                *(folder, *evaluated, data, f"--workdir={runs['evaluate']}", "--evals=knn", "--noreport"),
                f"--checkpoint={runs['pretrain']}",
            ],
            (name, "embed"): [folder, f"--checkpoint={runs['pretrain']}", f"--out={root / name}.parquet"],
            (name, "predict"): [folder, f"--checkpoint={unit / 'finetune'}", f"--out={root / name}.csv"],
            (name, "export"): [f"--checkpoint={unit / 'finetune'}", f"--out={root / name}-exported"],
        }
    results = launch_in_one_process([["simsiam", command, *words] for (_, command), words in commands.items()])
    found = dict(zip(commands, results, strict=True))
    for key, result in found.items():
        assert result.returncode == 0, f"{key}: {result.stderr}"
    return root, found


def test_classes_of_3_and_2000_images_are_named_and_measured_apart(made):
    root, results = made
    study = results["unequal", "study"]
    assert "2,043 images in 3 classes" in study.stdout
    # Of three images one each is held out for test and for validation.
    assert "many 1,280, few 26, rare 1 (in train)" in study.stdout
    assert "all of these are used: 1 of rare" in study.stderr
    assert "always “many”" in study.stdout
    assert read_experiment(root / "study-unequal").metric == "balanced_accuracy"
    assert "class 2" not in study.stdout + study.stderr


def test_attributes_with_gaps_are_named_and_have_numbers_and_thresholds_each(made):
    root, results = made
    text = results["described", "study"].stdout
    assert all(name in text for name in ("striped", "blob", "first half", "seldom"))
    assert "attribute 3" not in text
    linear = [each for each in read_results(root / "study-described") if (each.eval, each.split) == ("linear", "test")]
    assert all(len(values) == 4 for each in linear for values in each.attributes.values())
    thresholds = read_sealed(root / "study-described/in_domain/seed-0/finetune/thresholds.json")["thresholds"]
    assert len(thresholds) == 4


@pytest.mark.parametrize("command", ["study", "pretrain", "evaluate"])
def test_test_images_among_those_pretrained_on_are_counted_by_every_command(made, command):
    root, results = made
    (leak,) = [
        each
        for each in read_experiment(root / f"{command}-pool").leaks
        if (each.split, each.among) == ("test", "pretraining")
    ]
    assert leak.exact == 12
    assert 12 <= leak.shared < 20
    assert "pixel for pixel" in results["pool", command].stderr


@pytest.mark.parametrize(("name", "images"), [("unequal", 2043), ("described", 240), ("pool", 312)])
def test_what_was_learned_is_of_use(made, name, images):
    root, _ = made
    features = pyarrow.parquet.read_table(root / f"{name}.parquet")
    assert len(features) == images
    with (root / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == images
    card = json.loads((root / f"{name}-exported" / "model.json").read_text())
    assert len(card["classifier"]["class_names"]) == {"unequal": 3, "described": 4, "pool": 2}[name]


def test_predictions_agree_with_the_recorded_accuracy_to_the_last_image(made):
    root, _ = made
    with (root / "pool.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    tested = [row for name, row in rows.items() if name.startswith("test/")]
    right = sum(row["class"] == row["file"].split("/")[1] for row in tested)
    result = read_stage_result(root / "study-pool" / "in_domain" / "seed-0" / "finetune")
    assert len(tested) == 60
    assert right / 60 == pytest.approx(result.metrics["test"]["top1"], abs=1e-9)
