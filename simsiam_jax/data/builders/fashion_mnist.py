"""Fashion-MNIST (Xiao et al. 2017), prepared without TensorFlow into TFDS's own fashion_mnist/3.0.1."""

import gzip
import hashlib
import http.client
import struct
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8
from tensorflow_datasets.core import registered
from tensorflow_datasets.core.download import download_manager
from tensorflow_datasets.image_classification import mnist

from simsiam_jax.config import InputError, require
from simsiam_jax.data.builders.png import encode_png

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
PROBE_SECONDS = 10


class Archive(NamedTuple):
    """One of the four original files: its size in bytes, sha256, and the time in its gzip header."""

    size: int
    sha256: str
    mtime: int


ARCHIVES = {
    "train-images-idx3-ubyte.gz": Archive(
        26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 1504176606
    ),
    "train-labels-idx1-ubyte.gz": Archive(
        29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 1504176606
    ),
    "t10k-images-idx3-ubyte.gz": Archive(
        4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 1504176627
    ),
    "t10k-labels-idx1-ubyte.gz": Archive(
        5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 1504176627
    ),
}


def parse_idx(data: bytes, dimensions: int, source: str) -> UInt8[np.ndarray, "..."]:
    """The array in an IDX file of bytes.

    The format: two zero bytes, the type (8: unsigned byte), the number of dimensions, each dimension as a
    big-endian 32-bit number, then the values, the last dimension running fastest.

    Args:
        data: the whole file, uncompressed.
        dimensions: expected of the array: 1 for labels, 3 for images.
        source: the file's name, for the error.

    Returns:
        A read-only view of `data`.

    Raises:
        InputError: if the header or the length is not what the format says.
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
    """The original gzip file from Debian's, whose header lost the file name and the time.

    Args:
        data: a gzip file with the plain header of 10 bytes.
        name: of the file, with `.gz`.
        mtime: the time in the original's header, Unix seconds.

    Returns:
        The original, byte for byte.
    """
    header = struct.pack("<4BIBB", 0x1F, 0x8B, 8, 8, mtime, 0, 3)
    return header + name.removesuffix(".gz").encode() + b"\0" + data[10:]


def read_archive(path: Path, name: str) -> bytes:
    """The content of one of the four files, original or Debian's, once its checksum is verified.

    Args:
        path: where it lies; a download is stored under another name.
        name: which of the four it is.

    Returns:
        The IDX file within.

    Raises:
        InputError: if the file is truncated or altered in any way.
    """
    archive = ARCHIVES[name]
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    for original in (data, restore_header(data, name, archive.mtime)):
        if len(original) == archive.size and hashlib.sha256(original).hexdigest() == archive.sha256:
            return gzip.decompress(original)
    raise InputError(
        f"{path} is truncated or altered: its {len(data):,} bytes do not have the checksum of "
        "Fashion-MNIST's original file; replace it"
    )


def find_archives(manual_dir: Path | None) -> dict[str, Path] | None:
    """Where the four files lie on this machine: in `manual_dir`, else where Debian's package puts them.

    Args:
        manual_dir: a folder that the user named, if any; without any of the four it is passed over.

    Returns:
        File name to path, or None if neither folder has them.

    Raises:
        InputError: if a folder holds some of the four files but not all.
    """
    for folder in (manual_dir, DEBIAN_FOLDER):
        if folder is None:
            continue
        paths = {name: folder / name for name in ARCHIVES}
        missing = [name for name, path in paths.items() if not path.is_file()]
        if not missing:
            return paths
        require(
            len(missing) == len(ARCHIVES),
            f"{folder} lacks {' and '.join(missing)}, of Fashion-MNIST's four files; put all of them there",
        )
    return None


def download_archives(dl_manager: Any, url: str) -> dict[str, Path]:
    """The four files through TFDS's downloader, which keeps them and verifies their checksums.

    Args:
        dl_manager: TFDS's download manager.
        url: of the folder that holds them, with the final slash.

    Returns:
        File name to path; the paths have other names than the files.

    Raises:
        InputError: if they cannot be had, naming the package, flag and folder that would help.
    """
    try:
        # TFDS tries an unreachable host for minutes before it gives up: ask once first.
        request = urllib.request.Request(url + next(iter(ARCHIVES)), method="HEAD")
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS):
            pass
        paths = dl_manager.download({name: url + name for name in ARCHIVES})
    # Most errors of urllib and requests are OSErrors; TFDS's own mean a bad status and a wrong checksum.
    except (
        OSError,
        http.client.HTTPException,
        tfds.download.DownloadError,
        download_manager.NonMatchingChecksumError,
    ) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
        raise InputError(
            f"fashion_mnist is not installed and cannot be downloaded ({reason}): install the Debian package "
            f"{DEBIAN_PACKAGE} (it fills {DEBIAN_FOLDER}), or put {', '.join(ARCHIVES)} into a folder "
            "and name it with --manual_dir"
        ) from error
    return {name: Path(path) for name, path in paths.items()}


def read_archives(
    paths: dict[str, Path],
) -> dict[str, tuple[UInt8[np.ndarray, "..."], UInt8[np.ndarray, " n"]]]:
    """Images (n, 28, 28, 1) and labels of the splits `train` and `test`, from the four files.

    Raises:
        InputError: if a file is not what it should be, or images and labels differ in number.
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
        """The stock builder (same version, features, splits, keys and order) with preparation of our own."""

        name = "fashion_mnist"
        # Without it TFDS refuses to say where the manual folder is.
        MANUAL_DOWNLOAD_INSTRUCTIONS = "Fashion-MNIST's four original files, or those of Debian's package."

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            try:
                manual_dir = Path(dl_manager.manual_dir)
            except AssertionError:  # There is none, or it is empty.
                manual_dir = None
            paths = find_archives(manual_dir) or download_archives(dl_manager, self.URL)
            return {
                split: self._generate_examples(images, labels)
                for split, (images, labels) in read_archives(paths).items()
            }

        def _generate_examples(
            self, images: UInt8[np.ndarray, "n height width 1"], labels: UInt8[np.ndarray, " n"]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield index, {"image": encode_png(image), "label": int(label)}
