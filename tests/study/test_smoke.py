"""Every table, figure and search at its smallest, from archives in the official formats to the last file of its report.

The images are noise, so nothing here is about accuracy. Each launcher is a test of its own, and they share what the
compiler makes; test_study.py has the demo, test_own_images.py images of one's own.
"""

import csv
import html
import re
from typing import NamedTuple

import pytest

from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.results import read_results
from tests.support.archives import prepare
from tests.support.launchers import json_lines, launch

PAGE = {"index.html", "report.md", "table.csv", "table.tex"}
PRETRAINED = {"loss.png", "spread.png", "knn.png", "rank.png", "pairs.png", "samples.png"}
COMPARED = {"accuracy.png", "difference.png"}
NEIGHBOURS = {"neighbours.png", "map.png"}
FINETUNED = {"finetune.png", "confusion.png"}
WHOLE = PAGE | PRETRAINED | COMPARED | NEIGHBOURS | FINETUNED
EVALS = ("knn", "linear", "finetune")
RESNET_ARMS = "resnet18-none,resnet18-in_domain,resnet18-imagenet"
NO_WEIGHTS = frozenset(f"{backbone}-imagenet" for backbone in ("resnet18", "efficientnet_b0", "vit_s", "pit_ti"))


class Launcher(NamedTuple):
    """What a launcher reads, evaluates and leaves."""

    dataset: str
    arms: int
    files: set[str]
    evals: tuple[str, ...] = EVALS
    splits: tuple[str, ...] = ("validation", "test")
    absent: frozenset[str] = frozenset()
    flags: tuple[str, ...] = ()
    exhaustive: bool = True


# The longest first. Of the launchers whose backbones another one has compiled, ResNet-18 is enough. CI runs one of each
# kind: classes and attributes, official archives and a package, the ablation.
LAUNCHERS = {
    "table2_stl10": Launcher("stl10", 12, WHOLE | {"figure3.png"}, absent=NO_WEIGHTS),
    # That every setting reaches the program is test_programs.py's.
    "ablate_simsiam": Launcher(
        "fashion_mnist",
        3,
        WHOLE - FINETUNED,
        evals=("knn", "linear"),
        flags=("--arms=simsiam,no-predictor,none",),
        exhaustive=False,
    ),
    "table3_solar_attributes": Launcher(
        "solar_cells", 3, WHOLE, absent=NO_WEIGHTS, flags=(f"--arms={RESNET_ARMS}",), exhaustive=False
    ),
    "table2_solar_cells": Launcher(
        "solar_cells", 3, WHOLE | {"figure3.png"}, absent=NO_WEIGHTS, flags=(f"--arms={RESNET_ARMS}",)
    ),
    "table2_digits": Launcher("digits", 2, WHOLE | {"figure3.png"}, flags=("--arms=resnet18-none,resnet18-in_domain",)),
    "table3_celeba": Launcher("celeb_a", 3, WHOLE, absent=NO_WEIGHTS, flags=(f"--arms={RESNET_ARMS}",)),
    "table1_cifar10": Launcher("cifar10", 3, WHOLE, flags=("--arms=none,random,in_domain",), exhaustive=False),
    "table1_fashion_mnist": Launcher("fashion_mnist", 3, WHOLE),
    "label_efficiency": Launcher(
        "fashion_mnist",
        10,
        (WHOLE - NEIGHBOURS) | {"labels-linear.png", "labels-finetune.png"},
        evals=("linear", "finetune"),
    ),
    "search_augmentation": Launcher(
        "fashion_mnist", 5, WHOLE - FINETUNED - NEIGHBOURS, evals=("knn", "linear"), splits=("validation",)
    ),
    "search_recipe": Launcher(
        "fashion_mnist",
        2,
        WHOLE - FINETUNED - NEIGHBOURS,
        evals=("linear",),
        splits=("validation",),
        flags=(
            "--dataset=fashion_mnist",
            "--arms=none,practice-lars",
        ),
    ),
}


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(name, marks=pytest.mark.exhaustive if launcher.exhaustive else pytest.mark.slow)
        for name, launcher in LAUNCHERS.items()
    ],
)
def test_a_launcher_goes_all_the_way_from_archives_to_its_report(module, tmp_path, monkeypatch):
    expected = LAUNCHERS[module]
    data_dir, workdir = tmp_path / "data", tmp_path / "run"
    prepare(expected.dataset, data_dir, tmp_path / "archives", monkeypatch)
    result = launch(
        module,
        *("--preset=smoke", f"--data_dir={data_dir}", f"--workdir={workdir}", *expected.flags),
        HF_ENDPOINT="http://127.0.0.1:9",  # nothing is there to be fetched
    )
    assert result.returncode == 0, result.stderr
    experiment, results = read_experiment(workdir), read_results(workdir)
    assert len(experiment.arms) == expected.arms
    assert {arm.name for arm in experiment.arms if arm.absent} == expected.absent & {a.name for a in experiment.arms}
    ran = [arm for arm in experiment.arms if not arm.absent]
    measured = {(each.arm, each.eval, each.split) for each in results if each.eval != "pretrain"}
    assert measured == {(arm.name, name, split) for arm in ran for name in expected.evals for split in expected.splits}
    assert all(0 <= each.metrics[experiment.metric] <= 1 for each in results if each.eval != "pretrain")
    pretrained = {each.arm for each in results if each.eval == "pretrain"}
    assert pretrained == {arm.name for arm in ran if arm.pretrain != "none" and not arm.shares}
    check_report(workdir / "report", expected.files, [arm.title for arm in ran])


def check_report(report, files, titles):
    """Every file is there and whole, and every arm in it."""
    assert {path.name for path in report.iterdir()} == files
    assert all(path.stat().st_size > 200 for path in report.iterdir())
    text = (report / "report.md").read_text()
    assert set(re.findall(r"\]\(([a-z0-9-]+\.png)\)", text)) == {name for name in files if name.endswith(".png")}
    page = html.unescape((report / "index.html").read_text())
    assert "could not" not in page
    for title in titles:
        assert title.replace("_", r"\_") in text
        assert title in page
    with (report / "table.csv").open() as file:
        assert {row["arm"] for row in csv.DictReader(file)} >= {
            line["arm"] for line in json_lines(report.parent / "results.jsonl")
        }
    tex = (report / "table.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 1
