"""CelebA (Liu et al. 2015), prepared without TensorFlow into TFDS's own celeb_a/2.1.0."""

import array
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int32
from tensorflow_datasets.core import registered

from simsiam_jax.data.builders.archives import AGAIN, Archive, obtain, reading, url_infos
from simsiam_jax.errors import InputError, require

PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
IMAGES = "img_align_celeba.zip"
PARTITION = "list_eval_partition.txt"
ATTRIBUTES = "list_attr_celeba.txt"
LANDMARKS = "list_landmarks_align_celeba.txt"
IDENTITIES = "identity_CelebA.txt"
DRIVE = "https://drive.google.com/uc?export=download&id="
ARCHIVES = {
    IMAGES: Archive(
        1443490838,
        "46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74",
        f"{DRIVE}0B7EVK8r0v71pZjFTYXZWM3FlRnM",
    ),
    PARTITION: Archive(
        2836386,
        "fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7",
        f"{DRIVE}0B7EVK8r0v71pY0NSMzRuSXJEVkk",
    ),
    ATTRIBUTES: Archive(
        26721026,
        "f0e5da289d5ccf75ffe8811132694922b60f2af59256ed362afa03fefba324d0",
        f"{DRIVE}0B7EVK8r0v71pblRyaVFSWGxPY0U",
    ),
    LANDMARKS: Archive(
        12156055,
        "6c02a87569907f6db2ba99019085697596730e8129f67a3d61659f198c48d43b",
        f"{DRIVE}0B7EVK8r0v71pd0FJY3Blby1HUTQ",
    ),
    IDENTITIES: Archive(
        3424458,
        "c6143857c3e2630ac2da9f782e9c1232e5e59be993a9d44e8a7916c78a6158c0",
        f"{DRIVE}1_ee_0u7vcNLOfNLegJRHmolfH5ICW-XS",
    ),
}
FOLDER = "img_align_celeba/"
SPLITS = ("train", "validation", "test")  # The order is that of the partition's numbers.
LARGEST_IMAGE_BYTES = 178 * 218 * 3  # No JPEG file of these images is larger than their pixels.


class Table(NamedTuple):
    """One of the lists, in which `values[rows[name]]` are an image's numbers in the order of `columns`.

    Attributes:
      path: Path of the list.
      columns: Names of the numbers.
      rows: Row of each image by its name.
      values: The numbers, a row for each image.
    """

    path: Path
    columns: Sequence[str]
    rows: dict[str, int]
    values: Int32[np.ndarray, "n columns"]

    def check_has(self, names: Iterable[str]) -> None:
        """Raises `InputError` unless the list has all images of these names."""
        missing = next((name for name in names if name not in self.rows), None)
        require(missing is None, f"{self.path} lacks {missing}, which the partition lists; {AGAIN}")

    def record(self, name: str) -> dict[str, int]:
        """An image's numbers by column."""
        return dict(zip(self.columns, self.values[self.rows[name]].tolist(), strict=True))


def read_table(path: Path, columns: Sequence[str], *, heading: bool, allowed: Collection[int] | None = None) -> Table:
    """Reads a list with a line for each image: its name and its numbers.

    Args:
      path: Path of the list.
      columns: Names of the numbers, in the list's order unless the list has a heading.
      heading: Whether the list begins with a line that counts the images and a line that names the columns.
      allowed: The numbers that are allowed; None allows any.

    Raises:
      InputError: If it is no such list, or names an image twice; the message names the line.
    """
    rows: dict[str, int] = {}
    values = array.array("i")
    announced = None
    with reading(path), path.open(encoding="utf-8", errors="replace") as file:
        lines = enumerate(file, 1)
        if heading:
            announced = next(lines, (1, ""))[1].strip()
            names = next(lines, (2, ""))[1].split()
            require(
                sorted(names) == sorted(columns),
                f"{path}, line 2: does not name the {len(columns)} columns {columns[0]} to {columns[-1]}; {AGAIN}",
            )
            columns = names
        for number, line in lines:
            where = f"{path}, line {number}"
            name, *fields = line.split() or [""]
            require(
                len(fields) == len(columns),
                f"{where}: {len(fields)} numbers after the name, not {len(columns)}; {AGAIN}",
            )
            require(name not in rows, f"{where}: {name} is there a second time; {AGAIN}")
            try:
                row = [int(field) for field in fields]
                values.extend(row)
            except (ValueError, OverflowError) as error:
                raise InputError(f"{where}: {' '.join(fields)[:40]!r} are not whole numbers; {AGAIN}") from error
            wrong = [] if allowed is None else [value for value in row if value not in allowed]
            require(not wrong, f"{where}: {wrong[:1]} is none of {allowed}; {AGAIN}")
            rows[name] = len(rows)
    require(len(rows) > 0, f"{path} lists no images; {AGAIN}")
    require(
        announced in (None, str(len(rows))), f"{path}, line 1: announces {announced!r} images, not {len(rows)}; {AGAIN}"
    )
    return Table(path, columns, rows, np.frombuffer(values, np.int32).reshape(len(rows), len(columns)))


def check_images(path: Path, names: Iterable[str]) -> None:
    """Checks that the zip file has each of these images once, with a plausible size.

    Raises:
      InputError: If an image is missing, double, empty or too large; the message names the first.
    """
    sizes: dict[str, int] = {}
    with reading(path), zipfile.ZipFile(path) as archive:
        for info in archive.filelist:
            require(info.filename not in sizes, f"{path} has {info.filename} twice; {AGAIN}")
            sizes[info.filename] = info.file_size
    for name in names:
        size = sizes.get(FOLDER + name)
        require(size is not None, f"{path} lacks {FOLDER}{name}, which the partition lists; {AGAIN}")
        require(
            0 < (size or 0) <= LARGEST_IMAGE_BYTES,
            f"{path}: {FOLDER}{name} has {size:,} bytes, which is no image of 178×218 pixels; {AGAIN}",
        )


StockCelebA: Any = tfds.builder_cls("celeb_a")

with registered.skip_registration():

    class CelebA(StockCelebA):
        """The stock builder, with the same version, features, splits, keys and order, and preparation of our own."""

        name = "celeb_a"
        pkg_dir_path = StockCelebA.pkg_dir_path  # Its description lies there.
        # Without it TFDS refuses to say where the manual folder is.
        MANUAL_DOWNLOAD_INSTRUCTIONS = f"{', '.join(ARCHIVES)} from {PAGE}"

        @property
        def url_infos(self) -> dict[str, Any]:
            return url_infos(ARCHIVES)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            paths = obtain(dl_manager, ARCHIVES, self.name, PAGE)
            columns = {name: list(self.info.features[name]) for name in ("attributes", "landmarks", "identity")}
            partition = read_table(paths[PARTITION], ["partition"], heading=False, allowed=range(len(SPLITS)))
            tables = {
                "attributes": read_table(paths[ATTRIBUTES], columns["attributes"], heading=True, allowed=(-1, 1)),
                "landmarks": read_table(paths[LANDMARKS], columns["landmarks"], heading=True),
                "identity": read_table(paths[IDENTITIES], columns["identity"], heading=False),
            }
            for table in tables.values():
                table.check_has(partition.rows)
            check_images(paths[IMAGES], partition.rows)
            names = {split: [] for split in SPLITS}
            for name, row in partition.rows.items():
                names[SPLITS[partition.values[row, 0]]].append(name)
            for split, number in zip(SPLITS, range(len(SPLITS)), strict=True):
                require(len(names[split]) > 0, f"{paths[PARTITION]} has no images of partition {number}; {AGAIN}")
            return {split: self._generate_examples(paths[IMAGES], names[split], tables) for split in SPLITS}

        def _generate_examples(
            self, path: Path, names: list[str], tables: dict[str, Table]
        ) -> Iterator[tuple[str, dict[str, Any]]]:
            with reading(path), zipfile.ZipFile(path) as archive:
                for name in names:
                    record: dict[str, Any] = {key: table.record(name) for key, table in tables.items()}
                    record["attributes"] = {key: value > 0 for key, value in record["attributes"].items()}
                    yield name, {"image": archive.read(FOLDER + name), **record}
