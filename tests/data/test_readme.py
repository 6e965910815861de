"""The page on data: its Python runs as it stands, and its table names the data sets of the registry."""

import re
from pathlib import Path
from typing import Any

import numpy as np

import simsiam_jax
from simsiam_jax.data import DATASETS, dataset_info, load_split

PAGE = (Path(simsiam_jax.__file__).parent / "data/README.md").read_text()


def run(number) -> dict[str, Any]:
    """The names that the page's fenced Python block leaves, counted from 0."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "block"}
    exec(compile(blocks[number], "README.md", "exec"), names)
    return names


def test_the_table_names_the_data_sets_of_the_registry():
    rows = re.findall(r"^\| (`[^|]*`) \| [^|]* \| [^|]* \| [^|]* \|$", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)} - {"--dataset", "folder:PATH"}
    assert all(dataset_info(name).name == name for name in named)
    evaluated = {name for name, info in DATASETS.items() if info.num_classes}
    assert {name.partition(":")[0] for name in named} == evaluated
    assert {f"solar_cells:{variant}" for variant in DATASETS["solar_cells"].variants} < named


def test_a_split_is_loaded_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(0)
    assert capsys.readouterr().out == "(1197, 8, 8, 3) uint8\n30\n"


def test_the_data_set_shown_is_prepared_and_loaded(tmp_path):
    info = run(1)["info"]
    splits = {split: load_split(info, split, data_dir=tmp_path) for split in info.splits}
    assert {name: np.bincount(split.labels).tolist() for name, split in splits.items()} == {
        "train": [40, 40],
        "validation": [10, 10],
        "test": [10, 10],
    }
    for image, label in zip(splits["test"].images, splits["test"].labels, strict=True):
        assert (image[:, ::4] == 255).all() == label
