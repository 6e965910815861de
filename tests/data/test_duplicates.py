"""Duplicates: planted copies are found, images that are merely alike are not, and kept marks are made anew."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from simsiam_jax.data import dataset_info, load_split
from simsiam_jax.data.cache import open_split, write_split
from simsiam_jax.data.duplicates import MARKS_FILE, duplicate_groups, find, mark, marks_of
from simsiam_jax.data.folders import list_folder
from simsiam_jax.errors import InputError

SIZE = 64


def picture(seed):
    """Blurred noise at three scales: an image with large and small shapes, unlike any other seed's."""
    generator, image = np.random.default_rng(seed), np.zeros((SIZE, SIZE, 3))
    for cells, strength in ((4, 90), (12, 50), (32, 25)):
        noise = generator.integers(0, 256, (cells, cells, 3), np.uint8)
        layer = Image.fromarray(noise).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        image += (np.asarray(layer, float) - 128) * strength / 80
    return Image.fromarray(np.clip(128 + image, 0, 255).astype(np.uint8))


def saved_again(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def cut(image, pixels):
    return image.crop((pixels, pixels, SIZE, SIZE)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def marks(images):
    return mark(np.stack([np.asarray(image) for image in images]))


@pytest.fixture(scope="module")
def pictures():
    return [picture(seed) for seed in range(120)]


CHANGES = {
    "the same": lambda image: image,
    "saved as JPEG of quality 40": lambda image: saved_again(image, 40),
    "saved as JPEG of quality 90": lambda image: saved_again(image, 90),
    "brighter by a fifth": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "of less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "made small and large again": lambda image: image.resize((40, 40)).resize((SIZE, SIZE)),
    "cut by 2 of 64 pixels": lambda image: cut(image, 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_planted_copy_is_found_beside_its_original(pictures, change):
    copies = [CHANGES[change](image) for image in pictures[:5]]
    found = find(marks([*pictures[100:], *copies]), marks(pictures[:100]))
    assert found.positions.tolist() == [20, 21, 22, 23, 24]
    assert found.originals.tolist() == [0, 1, 2, 3, 4]
    assert found.exact.all() == (change == "the same")


def test_pictures_that_have_nothing_in_common_are_no_duplicates(pictures):
    assert len(find(marks(pictures[:60]), marks(pictures[60:]))) == 0


def test_digits_that_are_merely_alike_are_no_duplicates(tmp_path):
    train, test = (load_split("digits", split, data_dir=tmp_path) for split in ("train", "test"))
    assert len(find(marks_of(test), marks_of(train))) == 0


def test_flat_images_are_duplicates_only_where_their_pixels_are_equal():
    grey = [Image.new("RGB", (SIZE, SIZE), (level, level, level)) for level in (10, 100, 101, 200)]
    found = find(marks(grey[:2]), marks(grey[1:]))
    assert (found.positions.tolist(), found.originals.tolist(), found.exact.tolist()) == ([1], [0], [True])


def test_images_of_two_sizes_are_near_but_never_exact_duplicates(pictures):
    small = marks([image.resize((48, 48), Image.Resampling.BOX) for image in pictures[:3]])
    found = find(small, marks(pictures))
    assert found.positions.tolist() == [0, 1, 2]
    assert not found.exact.any()


def test_copies_of_copies_are_one_group(pictures):
    images = [*pictures[:30], saved_again(pictures[3], 60), ImageEnhance.Brightness(pictures[3]).enhance(1.1)]
    groups = duplicate_groups(marks(images))
    assert len(set(groups[[3, 30, 31]])) == 1
    assert len(set(groups)) == 30


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip file", None])
def test_marks_are_kept_beside_the_cached_split_and_made_anew_where_they_are_damaged(tmp_path, pictures, content):
    images = np.stack([np.asarray(image) for image in pictures[:4]])
    write_split(tmp_path / "split", [(images, np.zeros(4, np.int32))], np.arange(4, dtype=np.int32))
    split, path = open_split(tmp_path / "split"), tmp_path / "split" / MARKS_FILE
    expected = marks_of(split)
    whole = path.read_bytes()
    # The middle of the file lies within an array; a zip file keeps a checksum of it.
    at = len(whole) // 2
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] if content is None else content)
    np.testing.assert_array_equal(marks_of(split).thumbnails, expected.thumbnails)
    assert path.read_bytes() == whole
    assert list(path.parent.glob(f".{MARKS_FILE}*")) == []


def test_marks_of_other_images_are_not_taken(tmp_path, pictures):
    folders = [tmp_path / "some", tmp_path / "others"]
    for folder, few in zip(folders, (pictures[:4], pictures[4:8]), strict=True):
        images = np.stack([np.asarray(image) for image in few])
        write_split(folder, [(images, np.zeros(4, np.int32))], np.arange(4, dtype=np.int32))
    some, others = map(open_split, folders)
    expected = marks_of(others).hashes.tolist()
    marks_of(some)
    (folders[1] / MARKS_FILE).write_bytes((folders[0] / MARKS_FILE).read_bytes())
    assert marks_of(others).hashes.tolist() == expected


@pytest.mark.parametrize("layout", ["classes", "csv", "no labels"])
def test_duplicates_are_held_out_together_where_it_is_asked_for(tmp_path, pictures, layout):
    rows = ["file,class,group"]
    for number, image in enumerate(pictures[:60]):
        kind = ("cat", "dog")[number % 2]
        folder = tmp_path / "photos" / ("" if layout == "no labels" else kind)
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number}.png")
        saved_again(image, 70).save(folder / f"{number} again.jpg", quality=95)
        rows += [f"{kind}/{number}.png,{kind},p{number // 4}", f"{kind}/{number} again.jpg,{kind},"]
    (tmp_path / "photos" / ("cat" if layout != "no labels" else "") / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    labels = str(tmp_path / "labels.csv") if layout == "csv" else None

    def torn(listing):
        split_of = {listing.files[at]: split for split, members in listing.splits.items() for at in members.tolist()}
        return sum(split_of[name] != split_of[name.replace(".png", " again.jpg")] for name in split_of if "png" in name)

    plain, grouped = (list_folder(tmp_path / "photos", labels, together) for together in (False, True))
    assert torn(plain) > 5
    assert torn(grouped) == 0
    sizes = [{split: len(members) for split, members in listing.splits.items()} for listing in (plain, grouped)]
    assert sizes[0].keys() == sizes[1].keys()
    # A group has up to 8 images where the CSV file joins further ones.
    assert all(abs(sizes[0][split] - sizes[1][split]) <= 12 for split in sizes[0])


def test_grouping_is_for_folders_alone():
    with pytest.raises(InputError, match="--group_duplicates goes with --dataset=folder:PATH"):
        dataset_info("digits", group_duplicates=True)
