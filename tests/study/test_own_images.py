"""The launchers on images of one's own: folders of mixed formats, labels by folder and by file, solar cells."""

import csv
import importlib.util
import json

import numpy as np
import pytest
from PIL import Image

from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.results import read_results
from tests.support.launchers import launch

CLASSES = ("blobs", "noise", "stripes")
FORMATS = ("jpg", "png", "webp", "bmp")
SMOKE = ("--preset=smoke", "--image_size=32", "--micro_batch_size=16")
METRICS = {
    f"{mean}_{name}" for mean in ("macro", "micro") for name in ("jaccard", "accuracy", "auc", "average_precision")
}

# test_from_folder_to_use.py goes the same way by the commands of `simsiam`.
pytestmark = pytest.mark.exhaustive


def _pixels(kind, generator):
    height, width = generator.integers(40, 90, 2)
    rows, columns = np.mgrid[:height, :width]
    if kind == "stripes":
        return 200 * (np.sin(columns / 3 + generator.uniform(0, 6)) > 0)
    if kind == "blobs":
        return 250 * np.exp(-((rows - height / 2) ** 2 + (columns - width / 2) ** 2) / 200)
    return generator.integers(0, 256, (height, width))


def _save(path, kind, generator, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(_pixels(kind, generator).astype(np.uint8)).convert(mode).save(path)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """`photos` with a folder for each class, `attributes.csv` for the same files, and `more` without labels."""
    folder = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    with (folder / "attributes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "striped", "round", "even"])
        for kind in CLASSES:
            for number in range(40):
                name = f"{kind}/{number}.{FORMATS[number % 4]}"
                _save(folder / "photos" / name, kind, generator, mode=("RGB", "L", "RGBA", "RGB")[number % 4])
                unknown = number % 5 == 0
                table.writerow([name, int(kind == "stripes"), int(kind == "blobs"), "" if unknown else number % 2])
    for number in range(60):
        _save(folder / "more" / f"day-{number % 3}" / "raw" / f"{number}.png", CLASSES[number % 3], generator)
    return folder


def run(places, module, *flags):
    """The finished process of a launcher; its data folder is shared, as a user's is."""
    data = () if module == "export" else (f"--data_dir={places / 'data'}",)
    result = launch(module, *data, *flags)
    assert result.returncode == 0, result.stderr
    return result


def numbers(workdir):
    """What was measured, of arms that are pretrained."""
    return {(result.eval, result.split): result.metrics for result in read_results(workdir) if result.arm != "none"}


@pytest.fixture(scope="module")
def pretrained(places):
    workdir = places / "run"
    run(places, "pretrain", f"--dataset=folder:{places / 'photos'}", f"--workdir={workdir}", *SMOKE)
    return workdir


def test_pretraining_on_a_folder_of_mixed_formats_leaves_a_checkpoint(places, pretrained):
    experiment = read_experiment(pretrained)
    assert experiment.dataset == f"folder:{places / 'photos'}"
    assert experiment.title == "SimSiam pretraining on photos"
    # 40 of each class: 8 for test, then a fifth of 32, rounded, for validation.
    assert {name: values["images"] for name, values in experiment.data.items()} == {
        "train": 78,
        "unlabelled": 78,
        "validation": 18,
        "test": 24,
    }
    assert 0 <= numbers(pretrained)["pretrain", "validation"]["knn_top1"] <= 1
    # Two epochs of four updates of 16 images.
    assert (pretrained / "in_domain/seed-0/pretrain/checkpoints/8").is_dir()


def test_a_checkpoint_is_evaluated_with_the_folders_as_labels(pretrained, places):
    checkpoint = pretrained / "in_domain/seed-0/pretrain"
    result = run(places, "evaluate", f"--checkpoint={checkpoint}", "--evals=knn,linear", f"--workdir={places / 'by'}")
    found = numbers(places / "by")
    assert set(found) == {(name, split) for name in ("knn", "linear") for split in ("validation", "test")}
    # Stripes, blobs and noise are easily told apart: chance is 1/3.
    assert found["linear", "test"]["top1"] > 0.6
    assert "pretrained on photos" in result.stdout


def test_a_checkpoint_is_evaluated_with_attributes_from_a_file(pretrained, places):
    checkpoint = pretrained / "in_domain/seed-0/pretrain"
    flags = (f"--labels={places / 'attributes.csv'}", f"--workdir={places / 'file'}", "--finetune_epochs=15")
    result = run(places, "evaluate", f"--checkpoint={checkpoint}", *flags)
    found = numbers(places / "file")
    assert set(found) == {(name, split) for name in ("knn", "linear", "finetune") for split in ("validation", "test")}
    for metrics in found.values():
        assert set(metrics) >= METRICS
        assert all(0 <= metrics[name] <= 1 for name in METRICS)
    assert found["linear", "test"]["micro_auc"] > 0.6  # chance: 0.5
    assert "Macro Jaccard" in result.stdout
    assert (places / "file" / "report" / "index.html").is_file()


def test_an_exported_card_tells_a_folders_name_and_not_where_it_lies(pretrained, places):
    checkpoint = pretrained / "in_domain/seed-0/pretrain"
    run(places, "export", f"--checkpoint={checkpoint}", f"--out={places / 'out'}")
    text = (places / "out" / "model.json").read_text()
    assert str(places) not in text
    pretraining = json.loads(text)["pretraining"]
    assert (pretraining["data"], pretraining["images"], pretraining["config"]["dataset"]) == ("photos", 78, "photos")


def test_labels_and_unlabelled_images_may_lie_in_different_folders(places):
    workdir = places / "elsewhere"
    folders = (f"--dataset=folder:{places / 'photos'}", f"--pretrain_dataset=folder:{places / 'more'}")
    run(places, "pretrain", *folders, f"--workdir={workdir}", "--feed=streamed", *SMOKE)
    data = read_experiment(workdir).data
    assert (data["unlabelled"]["images"], data["train"]["images"]) == (54, 78)  # 60 less a tenth
    (result, *_) = read_results(workdir)
    assert result.pretrain == f"folder:{places / 'more'}"


def test_images_without_labels_can_be_pretrained_on_alone(places):
    workdir = places / "alone"
    folder = f"--dataset=folder:{places / 'more'}"
    run(places, "pretrain", folder, "--labels=none", f"--workdir={workdir}", "--feed=resident", *SMOKE)
    assert set(numbers(workdir)["pretrain", "validation"]) == {"loss", "z_spread", "rank", "untrained_rank"}
    assert (workdir / "report" / "index.html").is_file()


def test_a_folder_that_changed_is_not_mixed_with_earlier_results(places):
    workdir, folder = places / "changed", places / "small"
    for kind in CLASSES[:2]:
        for number in range(30):
            _save(folder / kind / f"{number}.png", kind, np.random.default_rng(number))
    command = ("pretrain", f"--dataset=folder:{folder}", f"--workdir={workdir}", "--epochs=1", *SMOKE)
    run(places, *command)
    before = (workdir / "results.jsonl").read_bytes()
    run(places, *command)
    assert (workdir / "results.jsonl").read_bytes() == before
    _save(folder / CLASSES[0] / "new.png", CLASSES[0], np.random.default_rng(99))
    with pytest.raises(AssertionError, match=r"error: the \w+ images of --dataset=.* are no longer those"):
        run(places, *command)
    assert (workdir / "results.jsonl").read_bytes() == before


def test_prepare_data_says_what_there_is_and_repeats_nothing(places):
    flags = (f"--dataset=folder:{places / 'photos'}", f"--labels={places / 'attributes.csv'}")
    result = run(places, "prepare_data", *flags)
    assert "3 attributes: striped, round, even" in result.stdout
    counts = {line.split()[0]: int(line.split()[1]) for line in result.stdout.splitlines()[2:]}
    assert sum(counts.values()) == 120
    records = {path: path.stat().st_mtime_ns for path in (places / "data").rglob("*.array_record*")}
    run(places, "prepare_data", *flags)
    assert {path: path.stat().st_mtime_ns for path in (places / "data").rglob("*.array_record*")} == records


@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed")
def test_solar_cells_are_pretrained_on_and_evaluated(places):
    workdir = places / "cells"
    run(places, "pretrain", "--dataset=solar_cells", f"--workdir={workdir}", *SMOKE)
    checkpoint = f"--checkpoint={workdir / 'in_domain/seed-0/pretrain'}"
    run(places, "evaluate", checkpoint, "--evals=linear", f"--workdir={places / 'cells-by'}")
    assert 0.5 < numbers(places / "cells-by")["linear", "validation"]["top1"] <= 1
    both = ("--dataset=solar_cells:attributes", f"--workdir={places / 'cells-both'}")
    run(places, "evaluate", checkpoint, "--evals=linear,knn", *both)
    assert set(numbers(places / "cells-both")["knn", "test"]) >= METRICS
    saved = json.loads((places / "cells-both" / "experiment.json").read_text())
    assert saved["metric"] == "macro_jaccard"
