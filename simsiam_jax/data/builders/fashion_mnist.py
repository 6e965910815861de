"""Fashion-MNIST (Xiao et al. 2017), prepared without TensorFlow into TFDS's own fashion_mnist/3.0.1."""

import gzip
import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tensorflow_datasets.core import registered
from tensorflow_datasets.image_classification import mnist

from simsiam_jax.data.builders.archives import Archive, download_files, find_files, manual_folder, reading, url_infos
from simsiam_jax.data.builders.png import encode_png
from simsiam_jax.errors import InputError, require

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

ARCHIVES = {
    name: Archive(size, sha256, mnist.FashionMNIST.URL + name)
    for name, size, sha256 in (
        (
            "train-images-idx3-ubyte.gz",
            26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        ("train-labels-idx1-ubyte.gz", 29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
        ("t10k-images-idx3-ubyte.gz", 4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        ("t10k-labels-idx1-ubyte.gz", 5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
    )
}
# The times in the originals' gzip headers, in Unix seconds.
TIMES = {"train": 1504176606, "t10k": 1504176627}


def parse_idx(data: bytes, dimensions: int, source: str) -> UInt8[np.ndarray, "..."]:
    """The array in an IDX file of bytes.

    An IDX file has two zero bytes, the type (8 for unsigned bytes), the number of dimensions, each dimension as a
    big-endian 32-bit number, and then the values, of which the last dimension runs fastest.

    Args:
      data: The whole file, uncompressed.
      dimensions: Number of dimensions that the array must have: 1 for labels, 3 for images.
      source: Name of the file, for the error.

    Returns:
      A read-only view of `data`.

    Raises:
      InputError: If the header or the length is not as the format says.
    """
    header = 4 + 4 * dimensions
    magic = bytes((0, 0, 8, dimensions))
    require(data[:4] == magic, f"{source} is not an IDX file of bytes in {dimensions} dimensions; replace it")
    require(len(data) >= header, f"{source} ends within its header; replace it")
    shape = struct.unpack_from(f">{dimensions}I", data, 4)
    expected = int(np.prod(shape, dtype=np.int64))
    require(
        len(data) - header == expected,
        f"{source} holds {len(data) - header:,} values, its header says {expected:,}; replace it",
    )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def restore_header(data: bytes, name: str, mtime: int) -> bytes:
    """The original gzip file from Debian's, whose header lacks the file name and the time.

    Args:
      data: A gzip file with a header of 10 bytes.
      name: Name of the file, with `.gz`.
      mtime: Time in the original's header, in Unix seconds.

    Returns:
      The original file, byte for byte.
    """
    header = struct.pack("<4BIBB", 0x1F, 0x8B, 8, 8, mtime, 0, 3)
    return header + name.removesuffix(".gz").encode() + b"\0" + data[10:]


def read_archive(path: Path, name: str) -> bytes:
    """The verified content of one of the four files, original or Debian's.

    Args:
      path: Path of the file; a download has another name than the original.
      name: Name of the original.

    Returns:
      The IDX file in it.

    Raises:
      InputError: If the file is truncated or altered.
    """
    archive = ARCHIVES[name]
    with reading(path):
        data = path.read_bytes()
    for original in (data, restore_header(data, name, TIMES[name[:5].rstrip("-")])):
        if len(original) == archive.size and hashlib.sha256(original).hexdigest() == archive.sha256:
            return gzip.decompress(original)
    raise InputError(
        f"{path} is truncated or altered: its {len(data):,} bytes do not have the checksum of "
        "Fashion-MNIST's original file; replace it"
    )


def find_archives(manual_dir: Path | None) -> dict[str, Path] | None:
    """Finds the four files in `manual_dir`, else where Debian's package puts them.

    Args:
      manual_dir: Folder that the user named, if any; a folder without any of the four files is passed over.

    Returns:
      Paths by name, or None if neither folder has the files.

    Raises:
      InputError: If a folder holds some of the four files but not all.
    """
    return find_files(ARCHIVES, manual_dir, "fashion_mnist") or find_files(ARCHIVES, DEBIAN_FOLDER, "fashion_mnist")


def read_archives(
    paths: dict[str, Path],
) -> dict[str, tuple[UInt8[np.ndarray, "..."], UInt8[np.ndarray, " n"]]]:
    """Images (n, 28, 28, 1) and labels of the splits `train` and `test`, from the four files.

    Raises:
      InputError: If a file is altered or damaged, or images and labels differ in number.
    """
    splits = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        arrays = []
        for kind, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
            name = f"{prefix}-{kind}-ubyte.gz"
            arrays.append(parse_idx(read_archive(paths[name], name), dimensions, str(paths[name])))
        images, labels = arrays
        require(
            len(images) == len(labels),
            f"{paths[f'{prefix}-images-idx3-ubyte.gz']} holds {len(images):,} images but its labels file "
            f"{len(labels):,} labels; replace both",
        )
        splits[split] = (images[..., None], labels)
    return splits


# The stock builder was registered by its import above, and stays what `tfds.builder` finds by this name.
with registered.skip_registration():

    class FashionMNIST(mnist.FashionMNIST):
        """The stock builder, with the same version, features, splits, keys and order, and preparation of our own."""

        name = "fashion_mnist"
        # Without it TFDS refuses to say where the manual folder is.
        MANUAL_DOWNLOAD_INSTRUCTIONS = "Fashion-MNIST's four original files, or those of Debian's package."

        @property
        def url_infos(self) -> dict[str, Any]:
            return url_infos(ARCHIVES)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            advice = (
                f"install the Debian package {DEBIAN_PACKAGE} (it fills {DEBIAN_FOLDER}), or put "
                f"{', '.join(ARCHIVES)} into a folder and name it with --manual_dir"
            )
            paths = find_archives(manual_folder(dl_manager))
            paths = paths or download_files(dl_manager, ARCHIVES, self.name, advice)
            return {
                split: self._generate_examples(images, labels)
                for split, (images, labels) in read_archives(paths).items()
            }

        def _generate_examples(
            self, images: UInt8[np.ndarray, "n height width 1"], labels: UInt8[np.ndarray, " n"]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield index, {"image": encode_png(image), "label": int(label)}
