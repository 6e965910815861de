"""A folder's images as they are wanted: in order, by batch, and what cannot be read is named and left out."""

import numpy as np
import pytest
from PIL import Image

from simsiam_jax.data.decode import decode_file
from simsiam_jax.data.folder_images import in_order
from simsiam_jax.data.folders import list_images
from simsiam_jax.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Seventy images at two depths, more than a thread takes at a time, and one file that is none."""
    generator = np.random.default_rng(0)
    for number in range(70):
        path = tmp_path / ("a/b" if number % 2 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (9, 12, 3), np.uint8)).save(path)
    (tmp_path / "a" / "broken.jpg").write_bytes(b"none")
    return tmp_path


def test_batches_hold_every_readable_image_once_in_order(folder, caplog):
    listing = list_images(folder)
    batches = list(in_order(listing, size=8, batch_size=16, max_bad_images=0.01))
    assert [len(batch.names) for batch in batches] == [16, 16, 16, 16, 6]
    names = [name for batch in batches for name in batch.names]
    assert names == [name for name in sorted(listing.files) if name != "a/broken.jpg"]
    for batch in batches:
        assert batch.images.shape == (len(batch.names), 8, 8, 3)
    np.testing.assert_array_equal(batches[-1].images[-1], decode_file(folder / names[-1], 8))
    assert sum(batch.skipped for batch in batches) == 1
    assert "a/broken.jpg: not a JPEG, PNG, WebP or BMP file" in caplog.text


def test_more_unreadable_files_than_allowed_are_refused(folder):
    with pytest.raises(InputError, match=r"--max_bad_images=0 allows, 0 of 71: a/broken\.jpg"):
        list(in_order(list_images(folder), size=8, batch_size=16, max_bad_images=0.0))


def test_a_folder_without_a_readable_image_is_refused(tmp_path):
    (tmp_path / "one.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no image of .* is readable"):
        list(in_order(list_images(tmp_path), size=8, batch_size=16, max_bad_images=1.0))
    with pytest.raises(InputError, match="does not exist; name a folder of images"):
        list_images(tmp_path / "nowhere")
