"""What a study says before it trains: a summary of ordinary folders, names in messages, and leaks."""

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from simsiam_jax.cli.commands.study import SMALL
from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.datasets import dataset_info
from simsiam_jax.records.experiment import Leak
from simsiam_jax.report.words import leak_sentence
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.study.definition import THREE_ARMS, Study
from simsiam_jax.study.images import Data, find_leaks, load_data
from simsiam_jax.study.overview import overview
from tests.data.test_duplicates import picture, saved_again


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder with classes of 3, 40 and 200 images."""
    folder, seed = tmp_path_factory.mktemp("own") / "photos", 0
    for name, count in (("cow", 3), ("cat", 40), ("dog", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture(seed).save(folder / name / f"{number}.png")
            seed += 1
    return folder


def make_study(places, dataset, **changes):
    info = dataset_info(dataset)
    config = recipe_config("practice", dataset=info.name, image_size=32, backbone="resnet18")
    taken = {name: value for name, value in SMALL.items() if name in ("labels_per_class", "epochs")}
    values = {
        "experiment": "study",
        "title": "t",
        "question": "q",
        "arms": THREE_ARMS,
        "config": with_settings(config, taken),
        "seeds": (0, 1),
        "evaluations": ("linear",),
        "workdir": places / "run",
        "data_dir": places / "data",
        "manual_dir": None,
        "command": "simsiam study photos",
    }
    return Study(**{**values, **changes})


def test_unequal_classes_go_to_units_without_a_flag_and_are_named_once(photos, caplog):
    study = make_study(photos.parent, f"folder:{photos}")
    with caplog.at_level(logging.WARNING):
        data = load_data(study)
    said = [record.getMessage() for record in caplog.records if "--labels_per_class" in record.getMessage()]
    # Of 3 images one is held out for test and one for validation.
    assert said == [
        "--labels_per_class=20: there are fewer training images of some classes, and all of these are used: 1 of cow"
    ]
    # 40 less 8 for test, less 6 of 32 for validation; 200 less 40, less 32.
    lines = {line.split()[0]: line for line in overview(study, data)}
    assert lines["data"].endswith("photos: 243 images in 3 classes")
    assert lines["classes"].endswith(" dog 128, cat 26, cow 1 (in train)")
    assert "dog is 83% of the training images" in lines["majority"]
    assert lines["sizes"].endswith("kept at 37×37 pixels, views of 32×32")
    assert lines["splits"].endswith("155 train, 39 validation, 49 test")
    assert "learn from 41 of 155 labelled" in lines["labels"]
    assert "3 arms × 2 seeds, 6 units" in lines["units"]
    assert 8 <= len(lines) <= 12


def test_a_summary_of_many_classes_stays_short_and_escapes_names():
    names = ("evil\x1b[31m", *(f"class {number}" for number in range(99)))
    info = dataclasses.replace(dataset_info("digits"), num_classes=100, class_names=names)
    labels = np.repeat(np.arange(100), np.arange(200, 100, -1)).astype(np.int32)
    images = np.zeros((len(labels), 8, 8, 3), np.uint8)
    split = ImageSplit(images, labels, np.arange(len(labels), dtype=np.int32), "0" * 16)
    data = Data(info, split, split, None, split, None, (Leak("validation", "train", 90, 7, 2),))
    text = "\n".join(overview(make_study(Path("runs"), "digits"), data))
    assert "evil\\x1b[31m 200, class 0 199" in text
    assert "and 94 more (in train; the smallest class 98 101)" in text
    assert "7 images of validation also in train" in text
    assert "\x1b" not in text


def test_leaks_are_counted_between_all_pools_and_named(caplog):
    images = [picture(seed) for seed in range(40)]

    def split(first, pictures):
        pixels = np.stack([np.asarray(image) for image in pictures])
        ids = np.arange(first, first + len(pixels), dtype=np.int32)
        return ImageSplit(pixels, np.zeros(len(pixels), np.int32), ids, "0" * 16)

    pools = {
        "train": split(0, images[:20]),
        "validation": split(20, images[20:25]),
        "test": split(25, [*images[30:35], images[2], saved_again(images[3], 60)]),
        "pretraining": split(40, [*images[20:22], *images[35:]]),
    }
    with caplog.at_level(logging.WARNING):
        found = find_leaks(pools, lambda ids: [f"{number}\n.png" for number in ids.tolist()])
    assert set(found) == {Leak("test", "train", 7, 2, 1), Leak("validation", "pretraining", 5, 2, 2)}
    test, validation = (record.getMessage() for record in caplog.records)
    assert test.startswith(leak_sentence(found[0]))
    assert "Among them: 30\\n.png, 31\\n.png" in test
    assert "pretraining images, all pixel for pixel" in validation


def test_leak_sentences_say_how_many_are_equal():
    assert leak_sentence(Leak("test", "train", 400, 12, 9)) == (
        "12 of the 400 test images also lie among the training images, 9 pixel for pixel and 3 nearly."
    )
    assert leak_sentence(Leak("test", "pretraining", 40, 1, 1)) == (
        "1 of the 40 test images also lies among the pretraining images, pixel for pixel."
    )
    assert leak_sentence(Leak("test", "validation", 40, 2, 0)) == (
        "2 of the 40 test images also lie among the validation images, all nearly."
    )


def test_a_pool_of_unlabelled_images_that_overlaps_the_test_images_is_noticed(photos, tmp_path):
    many = tmp_path / "many"
    shutil.copytree(photos, many)
    study = make_study(photos.parent, f"folder:{photos}")
    study = dataclasses.replace(study, config=with_settings(study.config, {"pretrain_dataset": f"folder:{many}"}))
    leaks = {(leak.split, leak.among): leak for leak in load_data(study).leaks}
    # The pool holds out a tenth, 24 images, by the same hash of names, so that these are test images here.
    assert leaks["test", "pretraining"] == Leak("test", "pretraining", images=49, shared=25, exact=25)
    assert ("test", "train") not in leaks
