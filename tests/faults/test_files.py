"""Every kind of file that is read back, cut short, emptied, deleted and with a flipped bit: what may come of it.

`TABLE` is the whole promise. Whatever is read must be what was written, unless the file is named; a traceback is a
failure, and so is a wrong value without a word.
"""

import shutil

import numpy as np
import pytest
from PIL import Image

from simsiam_jax.data import load_split, storage
from simsiam_jax.data.datasets import dataset_info
from simsiam_jax.errors import InputError
from simsiam_jax.files import write_sealed
from simsiam_jax.inference import read_stage, thresholds_of
from simsiam_jax.records.experiment import read_experiment
from simsiam_jax.records.results import gather_results, read_results
from simsiam_jax.report.curves import read_curves
from simsiam_jax.report.exhibit_files import read_arrays, read_counts
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.values import to_dict
from simsiam_jax.study import exhibits
from simsiam_jax.study.definition import Arm, Study
from simsiam_jax.study.workdir import open_workdir
from simsiam_jax.train.checkpoints import Checkpoints
from tests.support.made_up import (
    made_up_split,
    make_arm,
    make_experiment,
    make_result,
    stage_folder,
    write_log,
    write_results,
)

SEED = 20261125
DAMAGES = ("truncated", "emptied", "deleted", "flipped")
# As it was, without a word: what was hit says nothing, or is not needed.
UNHARMED = "unharmed"
# Named, and as it was: made again, or the one before taken.
REBUILT = "named and rebuilt"
# One line of error that names the file.
REFUSED = "named and refused"
# Named in the report's notes, and not shown.
LEFT_OUT = "named and left out"
# Not there, and nothing is shown of it.
ABSENT = "absent"

CACHE, PREPARED = "decoded/**/", "image_folder/*/*/"
STAGE = "in_domain/seed-0/"
# Of each file: how it is read, its pattern, and what may come of the four damages. One bit of a JSON file may be a
# blank, or lie in the name of its digest: then all values are as they were.
TABLE = {
    ("cached", f"{CACHE}images.npy"): [{REBUILT}] * 4,
    ("cached", f"{CACHE}labels.npy"): [{REBUILT}] * 4,
    ("cached", f"{CACHE}sample_ids.npy"): [{REBUILT}] * 4,
    ("cached", f"{CACHE}split.json"): [{REBUILT}] * 3 + [{REBUILT, UNHARMED}],
    ("cached", f"{PREPARED}skipped_images.json"): [{REBUILT}] * 4,
    ("prepared", f"{PREPARED}dataset_info.json"): [{REBUILT}] * 4,
    ("prepared", f"{PREPARED}features.json"): [{REBUILT}] * 4,
    ("prepared", f"{PREPARED}label.labels.txt"): [{REBUILT}] * 4,
    ("prepared", f"{PREPARED}*-train.array_record*"): [{REBUILT}] * 4,
    ("prepared", f"{PREPARED}checksums.json"): [{REBUILT}, {REBUILT}, {UNHARMED}, {REBUILT, UNHARMED}],
    # What takes a download to make again is never removed.
    ("downloaded", f"{PREPARED}dataset_info.json"): [{REFUSED}] * 4,
    ("downloaded", f"{PREPARED}features.json"): [{REFUSED}] * 4,
    ("downloaded", f"{PREPARED}*-train.array_record*"): [{REFUSED}] * 4,
    ("downloaded", f"{PREPARED}checksums.json"): [{REFUSED}, {REFUSED}, {UNHARMED}, {REFUSED, UNHARMED}],
    ("experiment", "experiment.json"): [{REFUSED}] * 3 + [{REFUSED, UNHARMED}],
    ("results", f"{STAGE}linear/result.json"): [{REFUSED}] * 2 + [{ABSENT}] + [{REFUSED, UNHARMED}],
    ("rerun", f"{STAGE}linear/result.json"): [{REBUILT}] * 2 + [{UNHARMED}] + [{REBUILT, REFUSED, UNHARMED}],
    ("rerun", "results.jsonl"): [{UNHARMED}] * 4,
    ("recorded", "results.jsonl"): [{REFUSED}, {ABSENT}, {ABSENT}, {REFUSED, UNHARMED}],
    ("config", f"{STAGE}finetune/config.json"): [{REFUSED}] * 3 + [{REFUSED, UNHARMED}],
    ("thresholds", f"{STAGE}finetune/thresholds.json"): [{REFUSED}] * 3 + [{REFUSED, UNHARMED}],
    ("curves", f"{STAGE}pretrain/metrics.jsonl"): [{LEFT_OUT}] * 3 + [{LEFT_OUT, UNHARMED}],
    ("counts", f"{STAGE}finetune/confusion.json"): [{LEFT_OUT}] * 2 + [{ABSENT}] + [{LEFT_OUT, UNHARMED}],
    ("samples", "samples.npz"): [{LEFT_OUT}] * 2 + [{ABSENT}] + [{LEFT_OUT, UNHARMED}],
    ("mistakes", f"{STAGE}finetune/mistakes.npz"): [{LEFT_OUT}] * 2 + [{ABSENT}] + [{LEFT_OUT, UNHARMED}],
    ("checkpoint", "2/**/*"): [{REBUILT, UNHARMED}] * 4,
}  # fmt: skip


CONFIG = recipe_config("paper", dataset="digits", image_size=16)
EVALUATIONS = ("knn", "linear", "finetune")
RESULTS = [make_result(0, arm, eval=stage) for arm in ("none", "in_domain") for stage in EVALUATIONS]
RESULTS.append(make_result(0, "in_domain", eval="pretrain", split="train"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of 24 images of two classes."""
    root = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for kind in ("cat", "dog"):
        (root / kind).mkdir()
        for number in range(12):
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).save(root / kind / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def originals(tmp_path_factory, photos):
    """Whole folders, which the cases copy: of data, of a run and of checkpoints."""
    data, run, checkpoints = (tmp_path_factory.mktemp(name) for name in ("data", "run", "checkpoints"))
    load_split(dataset_info(f"folder:{photos}"), "train", data_dir=data, size=8)

    config = to_dict(CONFIG)
    arms = [make_arm("none"), make_arm("in_domain", pretrain="in_domain")]
    make_experiment(arms, EVALUATIONS, config=config).write(run)
    write_results(run, RESULTS)
    gather_results(run)
    folder = run / STAGE / "finetune"
    test = made_up_split(24, "classes")
    outputs = np.random.default_rng(0).random((24, 3)).astype(np.float32)
    exhibits.save_samples(run, test, label_kind="classes")
    exhibits.save_confusion(folder, outputs, test.labels, threshold=0.5, num_classes=3)
    exhibits.save_mistakes(folder, test, outputs, threshold=0.5)
    write_sealed(folder / "thresholds.json", {"thresholds": [0.25, 0.75]})
    about = {"stage": "finetune", "arm": "in_domain", "pretrain": "digits", "seed": 0}
    names = {"label_kind": "attributes", "class_names": ["striped", "round"]}
    write_sealed(folder / "config.json", {**about, **names, "config": config})
    write_log(run / STAGE / "pretrain", [{"epoch": epoch, "update": epoch, "loss": -0.5} for epoch in range(1, 4)])

    with Checkpoints(checkpoints) as saved:
        for update in (1, 2):
            saved.save(update, {"w": np.full(50, update, np.float32)}, {"epoch": update})
    kinds = dict.fromkeys(("cached", "prepared", "downloaded"), data) | {"checkpoint": checkpoints}
    return {kind: kinds.get(kind, run) for kind, _ in TABLE}


def load(root, photos):
    split = load_split(dataset_info(f"folder:{photos}"), "train", data_dir=root, size=8)
    return [split.images.tobytes(), split.labels.tolist(), split.sample_ids.tolist(), split.fingerprint]


def load_without_cache(root, photos):
    shutil.rmtree(root / "decoded")
    return load(root, photos)


def run_again(root):
    """What a run does with the folder of an earlier one; a stage that is missing is measured, to the same numbers."""
    arms = {name: Arm(name, name) for name in ("none", "in_domain")}
    places = {"workdir": root, "data_dir": root, "manual_dir": None}
    open_workdir(Study("demo", "Digits", "Does it help?", arms, CONFIG, (0,), EVALUATIONS, command="demo", **places))
    write_results(root, [each for each in RESULTS if not (stage_folder(root, each) / "result.json").exists()])
    gather_results(root)
    assert (root / "results.jsonl").read_text().count("\n") == len(RESULTS)
    return read_results(root)


def recorded(root):
    """The results of a run of which nothing but its record was kept."""
    for arm in ("none", "in_domain"):
        shutil.rmtree(root / arm)
    return read_results(root)


def listed(arrays):
    return [(name, array.dtype.str, array.tolist()) for name, array in (arrays or {}).items()]


def curves(root, notes):
    found, more = read_curves(root, read_experiment(root), "pretrain")
    notes += more
    return [line for arm in found for lines in arm.seeds.values() for line in lines]


def restored(root):
    with Checkpoints(root) as checkpoints:
        update, tree, meta = checkpoints.restore_latest({"w": np.zeros(50, np.float32)})
    assert meta == {"epoch": update}
    # The second checkpoint, or, with a word, the first.
    return [set(tree["w"].tolist()) == {update}]


def counts(root, notes):
    kind, found = read_counts(root, make_arm("in_domain"), notes)
    return [] if found is None else [(kind, found.tolist())]


# How each kind of file is read: functions of the folder, the images and a list that takes the report's notes.
READERS = {
    "cached": lambda root, photos, _: load(root, photos),
    "prepared": lambda root, photos, _: load_without_cache(root, photos),
    "downloaded": lambda root, photos, _: load_without_cache(root, photos),
    "experiment": lambda root, *_: [read_experiment(root)],
    "results": lambda root, *_: read_results(root),
    "rerun": lambda root, *_: run_again(root),
    "recorded": lambda root, *_: recorded(root),
    "config": lambda root, *_: [read_stage(root / STAGE / "finetune")],
    "thresholds": lambda root, *_: [thresholds_of(read_stage(root / STAGE / "finetune"))],
    "curves": lambda root, _, notes: curves(root, notes),
    "counts": lambda root, _, notes: counts(root, notes),
    "samples": lambda root, _, notes: listed(read_arrays(root, "samples.npz", notes)),
    "mistakes": lambda root, _, notes: listed(read_arrays(root, f"{STAGE}finetune/mistakes.npz", notes)),
    "checkpoint": lambda root, *_: restored(root),
}


def damage(path, how, draw):
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "flipped":
        content[draw.integers(len(content))] ^= 1 << int(draw.integers(8))
        path.write_bytes(content)
    else:
        path.write_bytes(content[: len(content) // 2 if how == "truncated" else 0])


def outcome(read, path, root, caplog):
    """What came of a damaged file; a value that is wrong without a word is none of the outcomes in the table."""
    notes = []
    caplog.clear()
    try:
        found = read(root, notes)
    except InputError as error:
        said, found = [str(error)], None
        assert "\n" not in said[0]
    else:
        said = [record.getMessage() for record in caplog.records] + notes
    # A checkpoint is called by its number.
    names = (path.name, f"{root / path.relative_to(root).parts[0]} ")
    named = any(name in text for text in said for name in names)
    return found, named


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize(("kind", "pattern"), TABLE, ids=lambda value: value)
def test_a_damaged_file_comes_to_what_the_table_allows(
    tmp_path, monkeypatch, caplog, originals, photos, kind, pattern, how
):
    if kind == "downloaded":
        monkeypatch.setattr(storage, "REMADE", ())
    draw = np.random.default_rng([SEED, *f"{kind}{pattern}{how}".encode()])
    flips = 6 if how == "flipped" and originals[kind].name[:4] != "data" else 1

    def read(root, notes):
        return READERS[kind](root, photos, notes)

    shutil.copytree(originals[kind], tmp_path / "whole")
    expected = read(tmp_path / "whole", [])
    assert expected
    files = [path for path in sorted(originals[kind].glob(pattern)) if path.is_file()]
    assert files
    for number, original in enumerate(files * flips):
        root = tmp_path / str(number)
        shutil.copytree(originals[kind], root)
        path = root / original.relative_to(originals[kind])
        damage(path, how, draw)
        found, named = outcome(read, path, root, caplog)
        if found is None:
            came = REFUSED if named else "refused without its name"
        elif found == expected:
            came = REBUILT if named else UNHARMED
        elif all(each in expected for each in found):
            came = LEFT_OUT if named else ABSENT
        else:
            came = "silently wrong"
        assert came in TABLE[kind, pattern][DAMAGES.index(how)], path
