"""A user's folder: its layouts, splits that stay, CSV labels, and one line for every mistake."""

import os
import random
import socket
from pathlib import Path

import numpy as np
import pytest

from simsiam_jax.data.folders import list_folder
from simsiam_jax.errors import InputError


def make(root, *names):
    """Empty files: listing a folder opens none of them."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def images(folder, count, start=0):
    return [f"{folder}/{index:04d}.jpg" for index in range(start, start + count)]


def split_names(listing):
    return {split: {listing.files[at] for at in positions} for split, positions in listing.splits.items()}


def class_of(listing):
    """File name to class name, or to None."""
    names = (*listing.class_names, None)
    return {file: names[label] for file, label in zip(listing.files, listing.labels, strict=True)}


def complaint(path, labels=None):
    """The error's message, which must be one line."""
    with pytest.raises(InputError) as error:
        list_folder(path, labels)
    message = str(error.value)
    assert "\n" not in message
    return message


def csv_file(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return str(path)


def test_class_folders_are_divided_by_class_into_three_splits(tmp_path):
    make(tmp_path, *images("cat", 50), *images("dog/deeper/still", 20), *images("bird", 3))
    listing = list_folder(tmp_path, None)
    assert listing.label_kind == "classes"
    assert listing.class_names == ("bird", "cat", "dog")
    assert listing.files == sorted(listing.files)
    assert all(name == file.split("/")[0] for file, name in class_of(listing).items())
    counts = {split: np.bincount(listing.labels[at]).tolist() for split, at in listing.splits.items()}
    # Test is a fifth of 3, 50 and 20, at least 1; validation a fifth of the other 2, 40 and 16.
    assert counts == {"train": [1, 32, 13], "validation": [1, 8, 3], "test": [1, 10, 4]}
    together = np.concatenate(list(listing.splits.values()))
    assert sorted(together.tolist()) == list(range(73))
    assert listing.labels.dtype == np.int32


def test_splits_depend_on_names_only_and_adding_images_moves_few(tmp_path):
    make(tmp_path / "a", *images("cat", 200), *images("dog", 200))
    make(tmp_path / "b", *random.Random(0).sample(images("cat", 200) + images("dog", 200), 400))
    before = split_names(list_folder(tmp_path / "a", None))
    assert split_names(list_folder(tmp_path / "b", None)) == before
    make(tmp_path / "a", *images("cat", 20, start=1000))
    after = split_names(list_folder(tmp_path / "a", None))
    moved = {split: before[split] - after[split] for split in before}
    assert all("dog" not in name for names in moved.values() for name in names)
    # A tenth more cats: no test image leaves but to others of its kind, validation's bounds shift by a few.
    assert sum(len(names) for names in moved.values()) <= 20


@pytest.mark.parametrize("validation", ["validation", "val", "valid"])
def test_split_folders_are_taken_as_they_are(tmp_path, validation):
    make(tmp_path, *images("train/cat", 5), *images("train/dog", 5), *images(f"{validation}/cat", 2))
    make(tmp_path, *images("test/dog", 3), *images("unlabeled/a/b/c", 2), "unlabeled/x.jpg")
    listing = list_folder(tmp_path, None)
    assert list(listing.splits) == ["train", "validation", "test", "unlabelled"]
    for split, folder in zip(listing.splits, ("train", validation, "test", "unlabeled"), strict=True):
        assert split_names(listing)[split] == {name for name in listing.files if name.startswith(f"{folder}/")}
    assert class_of(listing)["train/dog/0000.jpg"] == "dog"
    assert class_of(listing)["unlabeled/a/b/c/0000.jpg"] is None


def test_a_split_without_a_folder_is_held_out_of_train(tmp_path):
    make(tmp_path, *images("train/cat", 20), *images("train/dog", 20), *images("test/dog", 3))
    listing = list_folder(tmp_path, None)
    assert {split: len(at) for split, at in listing.splits.items()} == {"train": 32, "validation": 8, "test": 3}
    assert all(name.startswith("train/") for name in split_names(listing)["validation"])


def test_a_flat_folder_has_no_labels(tmp_path):
    make(tmp_path / "small", "a.jpg", "b.jpg")
    listing = list_folder(tmp_path / "small", None)
    assert (listing.label_kind, listing.class_names, listing.labels.tolist()) == ("none", (), [-1, -1])
    assert {split: len(at) for split, at in listing.splits.items()} == {"train": 1, "validation": 1}
    make(tmp_path / "any", *images("a/b", 20), *images("c", 9), "d.png")
    listing = list_folder(tmp_path / "any", "none")
    assert {split: len(at) for split, at in listing.splits.items()} == {"train": 27, "validation": 3}


def test_validation_of_a_large_flat_folder_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("simsiam_jax.data.folder_labels.FLAT_VALIDATION_MAX", 4)
    listing = list_folder(make(tmp_path, *images(".", 100)), None)
    assert len(listing.splits["validation"]) == 4


def test_only_images_that_are_not_hidden_are_listed(tmp_path):
    good = [
        f"x{index}{suffix}" for index, suffix in enumerate((".jpg", ".JPEG", ".jpe", ".jfif", ".PnG", ".webp", ".bmp"))
    ]
    make(tmp_path, *good, ".hidden.jpg", "notes.txt", "labels.csv", "x.gif", ".git/x.jpg", "__MACOSX/x.jpg", "jpg")
    assert list_folder(tmp_path, "none").files == sorted(good)


def test_links_are_followed_and_never_for_ever(tmp_path):
    outside, root = make(tmp_path / "outside", *images("far", 3)), tmp_path / "root"
    make(root, *images("cat", 3), *images("dog", 3))
    (root / "dog/linked.jpg").symlink_to(outside / "far/0000.jpg")
    (root / "dog/nowhere.jpg").symlink_to(tmp_path / "missing")
    (root / "far").symlink_to(outside / "far")
    (root / "cat/up").symlink_to(root)
    (root / "cat2").symlink_to(root / "cat")
    (root / "cat/self").symlink_to(root / "cat/self")
    (outside / "far/round").symlink_to(outside / "far")
    listing = list_folder(root, None)
    expected = [*images("cat", 3), *images("dog", 3), "dog/linked.jpg", "dog/nowhere.jpg", *images("far", 3)]
    assert listing.files == sorted(expected)
    (tmp_path / "link").symlink_to(root)
    assert list_folder(tmp_path / "link", None).files == listing.files


def test_a_folder_is_listed_once_whatever_leads_to_it(tmp_path, caplog):
    # Eleven levels of two links to the next one: 2,048 paths lead to each of two images.
    for level in range(11):
        (tmp_path / f"away/{level}").mkdir(parents=True)
        for side in ("left", "right"):
            (tmp_path / f"away/{level}/{side}").symlink_to(tmp_path / f"away/{level + 1}")
    make(tmp_path / "away", "11/one.jpg", "11/two.jpg")
    (tmp_path / "root").mkdir()
    for name in ("b", "a"):
        (tmp_path / "root" / name).symlink_to(tmp_path / "away/0")
    (tmp_path / "away/11/up").symlink_to(tmp_path / "root")
    listing = list_folder(tmp_path / "root", "none")
    assert listing.files == ["a/" + "left/" * 11 + name for name in ("one.jpg", "two.jpg")]
    outside, again = [record.getMessage() for record in caplog.records]
    assert outside == f"{tmp_path}/root: links out of the folder are followed: 2 (a, b)"
    # A second link of each level, `b`, and the one back up.
    assert again.startswith(f"{tmp_path}/root: links to folders that are listed already are passed over: 13 (a/")
    list_folder(tmp_path / "root", "none")
    assert len(caplog.records) == 2


def test_links_out_of_the_folder_are_followed_and_counted(tmp_path, caplog):
    make(tmp_path, "pool/a.jpg", "pool/b.jpg", "root/own.jpg")
    (tmp_path / "root/a.jpg").symlink_to("../pool/a.jpg")
    (tmp_path / "root/more").symlink_to(tmp_path / "pool")
    (tmp_path / "root/same.jpg").symlink_to("own.jpg")
    listing = list_folder(tmp_path / "root", "none")
    assert listing.files == ["a.jpg", "more/a.jpg", "more/b.jpg", "own.jpg", "same.jpg"]
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path}/root: links out of the folder are followed: 2 (a.jpg, more)"


def test_pipes_and_sockets_are_named_and_never_opened(tmp_path, monkeypatch, caplog):
    make(tmp_path, "a.jpg", "b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "labels.csv")
    # The path of a socket has little room.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket\x1b.png")
    assert list_folder(tmp_path, None).files == ["a.jpg", "b.jpg"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}: pipes, sockets and devices that are called like images are passed over: 2 "
        "(pipe.jpg, socket\\x1b.png)"
    )
    assert "is no regular file" in complaint(tmp_path, str(tmp_path / "labels.csv"))


def test_any_change_changes_the_digest_and_moving_the_folder_does_not(tmp_path):
    root = make(tmp_path / "root", *images("cat", 5), *images("dog", 5))
    digests = [list_folder(root, None).digest]
    assert list_folder(root, None).digest == digests[0]
    os.utime(root / "cat/0000.jpg", (1, 1))
    digests.append(list_folder(root, None).digest)
    (root / "cat/0000.jpg").write_bytes(b"x")
    os.utime(root / "cat/0000.jpg", (1, 1))
    digests.append(list_folder(root, None).digest)
    (root / "cat/0000.jpg").rename(root / "cat/new.jpg")
    digests.append(list_folder(root, None).digest)
    (root / "cat").rename(root / "cow")
    digests.append(list_folder(root, None).digest)
    digests.append(list_folder(root, "none").digest)
    lines = [f"{name},{'ab'[index % 2]}" for index, name in enumerate(list_folder(root, None).files)]
    digests.append(list_folder(root, csv_file(tmp_path, "\n".join(["file,label", *lines]))).digest)
    lines[0] = lines[0].replace(",a", ",b")
    digests.append(list_folder(root, csv_file(tmp_path, "\n".join(["file,label", *lines]))).digest)
    assert len(set(digests)) == len(digests)
    before = list_folder(root, None).digest
    root.rename(tmp_path / "moved")
    assert list_folder(tmp_path / "moved", None).digest == before


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_classes_from_a_csv_file(tmp_path, separator, encoding):
    root = make(tmp_path / "root", *images("a", 10), *images("b/c", 10, start=10), "without.jpg")
    rows = [("file", "kind")]
    rows += [(name, f"{int(name[-8:-4]) % 2 * 10}") for name in images("a", 10)]
    rows += [(f"{index:04d}.jpg", "9é") for index in range(10, 20)]  # By bare names.
    text = "\r\n".join(separator.join(row) for row in rows) + "\r\n\r\n"
    listing = list_folder(root, csv_file(tmp_path, text, encoding))
    assert listing.class_names == ("0", "10", "9é")  # By name, as one is no integer.
    assert class_of(listing)["a/0003.jpg"] == "10"
    assert class_of(listing)["b/c/0015.jpg"] == "9é"
    assert split_names(listing)["unlabelled"] == {"without.jpg"}
    assert {split: len(at) for split, at in listing.splits.items()} == {
        "train": 12, "validation": 4, "test": 4, "unlabelled": 1,
    }  # fmt: skip
    text = text.replace("9é", "9")
    assert list_folder(root, csv_file(tmp_path, text)).class_names == ("0", "9", "10")


def test_a_csv_column_says_the_split(tmp_path):
    root = make(tmp_path / "root", *images("x", 8))
    splits = ["train", "Train", "val", "validation", "test", "test", "train", "train"]
    rows = [
        f"{name},{split},{index % 2}" for index, (name, split) in enumerate(zip(images("x", 8), splits, strict=True))
    ]
    listing = list_folder(root, csv_file(tmp_path, "\n".join(["file,split,label", *rows])))
    assert {split: at.tolist() for split, at in listing.splits.items()} == {
        "train": [0, 1, 6, 7], "validation": [2, 3], "test": [4, 5],
    }  # fmt: skip
    assert listing.labels.tolist() == [0, 1] * 4


def test_folders_named_like_splits_say_the_split_of_a_csvs_files(tmp_path):
    root = make(tmp_path / "root", *images("train", 20), *images("test", 6), *images("more", 2))
    names = images("train", 20) + images("test", 6)
    rows = [f"{name},{'ab'[index % 2]}" for index, name in enumerate(names)]
    listing = list_folder(root, csv_file(tmp_path, "\n".join(["file,label", *rows])))
    assert split_names(listing)["test"] == set(images("test", 6))
    assert split_names(listing)["unlabelled"] == set(images("more", 2))
    assert len(listing.splits["validation"]) == 4


@pytest.mark.parametrize("attributes", [False, True])
def test_the_images_of_a_group_are_held_out_together(tmp_path, attributes):
    names = images("x", 60)
    root = make(tmp_path / "root", *names)
    # Groups of 3 images of one class, or of a single image where the cell is empty.
    rows = [f"{name},p{at // 3 if at < 45 else ''},{at // 3 % 2}".replace(",p,", ",,") for at, name in enumerate(names)]
    if attributes:
        rows = [f"{row},{at % 2}" for at, row in enumerate(rows)]
    listing = list_folder(root, csv_file(tmp_path, "\n".join(["file,Group,a" + ",b" * attributes, *rows])))
    assert listing.label_kind == ("attributes" if attributes else "classes")
    split_of = {at: split for split, members in listing.splits.items() for at in members.tolist()}
    assert all(len({split_of[at] for at in range(first, first + 3)}) == 1 for first in range(0, 45, 3))
    # A fifth of 60 is 12, and a fifth of the other 48 about 10.
    assert 9 <= len(listing.splits["test"]) <= 12
    assert 7 <= len(listing.splits["validation"]) <= 10
    if not attributes:
        assert all(len(set(listing.labels[members])) == 2 for members in listing.splits.values())


def test_a_group_larger_than_a_share_leaves_no_class_without_held_out_images(tmp_path):
    names = [*images("cat", 15), *images("dog", 15)]
    root = make(tmp_path / "root", *names)
    rows = [f"{name},{name[:3]},{name[:3]}{at // 5}" for at, name in enumerate(names)]
    listing = list_folder(root, csv_file(tmp_path, "\n".join(["file,class,group", *rows])))
    assert {split: len(members) for split, members in listing.splits.items()} == {
        "train": 10, "validation": 10, "test": 10,
    }  # fmt: skip
    two = [f"{name},{name[:3]},{name[:3]}{at // 8}" for at, name in enumerate(names)]
    message = complaint(root, csv_file(tmp_path, "\n".join(["file,class,group", *two])))
    assert "too few groups of images that stay together" in message
    assert "cat" in message


def test_several_columns_are_attributes_with_gaps(tmp_path):
    root = make(tmp_path / "root", *images("x", 15))
    cells = ["1,0,yes", "TRUE,False,no", ",nan,NA", "?,1.0,0.0", "true,false,Yes"]
    rows = [f"{name},{cells[index % 5]}" for index, name in enumerate(images("x", 14))]
    listing = list_folder(root, csv_file(tmp_path, "\n".join(["file,smile,hat,old", *rows])))
    assert (listing.label_kind, listing.class_names) == ("attributes", ("smile", "hat", "old"))
    assert listing.labels[:5].tolist() == [[1, 0, 1], [1, 0, 0], [-1, -1, -1], [-1, 1, 0], [1, 0, 1]]
    assert listing.labels[14].tolist() == [-1, -1, -1]
    # A fifth of 14 is 3; of the other 11, 2.
    assert {split: len(at) for split, at in listing.splits.items()} == {
        "train": 9, "validation": 2, "test": 3, "unlabelled": 1,
    }  # fmt: skip


def test_names_that_are_no_utf8_are_listed(tmp_path):
    for index in range(3):
        make(tmp_path, f"a/{index}.jpg")
        strange = os.fsencode(tmp_path) + b"/\xff\nb"
        os.makedirs(strange, exist_ok=True)
        Path(os.fsdecode(strange + b"/%d\xfe.jpg" % index)).touch()
    listing = list_folder(tmp_path, None)
    assert listing.class_names == ("a", "\\udcff\\nb")
    assert len(listing.files) == 6


FOLDER_MISTAKES = {
    "no folder": ([], ["does not exist", "--dataset"]),
    "a file": (["../root"], ["is a file"]),
    "no images": (["cat/x.txt", ".x.jpg"], ["holds no images", ".webp"]),
    "an empty class": (["cat/x.jpg", "dog/x.txt"], ["folder", "root/dog holds no images"]),
    "an empty split": ([*images("train/a", 5), *images("train/b", 5), "test/a/x.txt"], ["root/test holds no images"]),
    "an empty class of a split": (
        [*images("train/a", 5), *images("train/b", 5), "test/a/x.txt", "test/b/x.jpg"],
        ["root/test/a holds no images"],
    ),
    "images beside classes": (["cat/1.jpg", "dog/2.jpg", "x.jpg"], ["beside", "such as x.jpg", "--labels=none"]),
    "one class": (images("cat", 5), ["'cat' is the only class"]),
    "few images of some classes": (
        [*images("cat", 3), *images("cow", 1), *images("dog", 2)],
        ["which takes 3 of a class: 'cow' (1), 'dog' (2);", "train/, validation/ and test/"],
    ),
    "few images of a class": ([*images("cat", 5), *images("dog", 2)], ["of a class: 'dog' (2); add images, merge"]),
    "test only": ([*images("test/a", 5), *images("val/b", 5)], ["has test/ but no train/"]),
    "a split beside a class": ([*images("train/a", 5), *images("bus", 5)], ["train/, a split, beside bus/, a class"]),
    "two of one split": (["train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"], ["val/, valid/", "merge"]),
    "no class in a split": (["train/a/1.jpg", "train/2.jpg"], ["root/train/2.jpg lies in no class folder", "--labels"]),
    "a class not in train": (
        [*images("train/a", 5), *images("train/b", 5), "test/c/1.jpg"],
        ["root/test/c/1.jpg", "class 'c' of test has no image in train"],
    ),
    "a single image": (["x.jpg"], ["a single image"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", FOLDER_MISTAKES)
def test_a_mistake_in_the_folder_is_one_line(tmp_path, mistake):
    names, parts = FOLDER_MISTAKES[mistake]
    make(tmp_path / "root", *names) if names != ["../root"] else (tmp_path / "root").touch()
    message = complaint(tmp_path / "root")
    assert all(part in message for part in [*parts, str(tmp_path / "root")]), message


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    make(tmp_path, *images("cat", 5), *images("secret", 5))
    scandir = os.scandir

    def refuse(path):
        # Tests may run as root, whom no permission stops.
        if str(path).rstrip("/").endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    message = complaint(tmp_path)
    assert f"{tmp_path / 'secret'} cannot be read (Permission denied)" in message


CSV_MISTAKES = {
    "": ["is empty"],
    "\n\n": ["is empty"],
    "file,label\n": ["has no rows"],
    "file\nx/0000.jpg": ["no column of labels"],
    "file,split\nx/0000.jpg,train": ["no column of labels"],
    "file,label,\nx/0000.jpg,a,": ["line 1: column 3 has no name"],
    "file,a,a\nx/0000.jpg,1,0": ["line 1: two columns are called 'a'"],
    "file,label\nx/0000.jpg,a\nx/0001.jpg": ["line 3 has 1 cells, the first line 2"],
    "file,label\nx/0000.jpg,a,b": ["line 2 has 3 cells"],
    "file,label\nx/0000.jpg,": ["line 2: 'x/0000.jpg' has no label"],
    "file,label\nx/0000.jpg,a\n./x/0000.jpg,b": ["line 3: './x/0000.jpg' has a row already, line 2"],
    "file,label\nx/none.jpg,a": ["line 2: 'x/none.jpg' does not exist"],
    "file,label\nx/notes.txt,a": ["line 2: 'x/notes.txt' is no image"],
    "file,label\nsame.jpg,a": ["line 2: 'same.jpg' is x/same.jpg and y/same.jpg"],
    "file,label\nx/0000.jpg,a\nx/0001.jpg,a": ["'a' is the only class"],
    "file,split,label\nx/0000.jpg,dev,a": ["line 2: split is 'dev'; allowed are train, validation and test"],
    "file,split,label\nx/0000.jpg,,a": ["line 2: split is ''"],
    "file,split,group,label\nx/0000.jpg,train,p7,a\nx/0001.jpg,train,p8,b\nx/0002.jpg,test,p8,a": [
        "line 3: group 'p8' lies in train and test",
    ],
    "file,split,label\nx/0000.jpg,test,a": ["no image in split train"],
    "file,split,label\nx/0000.jpg,train,a\nx/0001.jpg,train,b\nx/0002.jpg,test,c": ["line 4: class 'c' of test has no"],
    "file,label\nx/0000.jpg,a\nx/0001.jpg,b\nx/0002.jpg,b": [
        "line 2: too few images to hold out test",
        "'a' (1), 'b' (2)",
    ],
    "file,p,q\nx/0000.jpg,1,-1": ["line 2: q is '-1'; allowed are 1 or 0"],
    "file,p,q\nx/0000.jpg,1,2": ["line 2: q is '2'"],
    "file,p,q\nx/0000.jpg,1,1\nx/0001.jpg,1,1": ["train has too few images (2)"],
    'file,label\n"x/0000.jpg,a': ["no proper CSV"],
}


@pytest.mark.parametrize("text", CSV_MISTAKES)
def test_a_mistake_in_the_csv_file_is_one_line_with_its_number(tmp_path, text):
    root = make(tmp_path / "root", *images("x", 5), "x/same.jpg", "y/same.jpg", "x/notes.txt")
    path = csv_file(tmp_path, text)
    message = complaint(root, path)
    assert all(part in message for part in [*CSV_MISTAKES[text], path]), message


def test_a_csv_file_that_cannot_be_read_is_one_line(tmp_path):
    root = make(tmp_path / "root", *images("x", 5))
    assert "--labels=" in complaint(root, str(tmp_path / "missing.csv"))
    assert "Is a directory" in complaint(root, str(tmp_path))
    latin = csv_file(tmp_path, "file,label\nx/0000.jpg,caf\xe9", "latin-1")
    assert "no text in UTF-8" in complaint(root, latin)
    assert "no text in UTF-8" in complaint(root, csv_file(tmp_path, "file,label\nx/0000.jpg,a", "utf-16"))
    assert "line" in complaint(root, csv_file(tmp_path, "file,label\nx/0000.jpg,a\0b"))
