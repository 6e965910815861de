"""Solar cells under electroluminescence, defective or not (Buerhop-Lutz et al. 2018, Deitsch et al. 2019).

The images belong to the Python package elpv-dataset, which the user installs: its data is CC BY-NC-SA 4.0, that is not
for commercial use, and none of it is part of this project.
"""

import importlib.util
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int
from tensorflow_datasets.core import registered

from simsiam_jax.data.builders.archives import reading
from simsiam_jax.data.subsets import stratified_split
from simsiam_jax.errors import InputError, require

PACKAGE = "elpv-dataset"
MODULE = "elpv_dataset"
CLASSES = ("functional", "defective")
TYPES = ("mono", "poly")
SIDE = 300
DEFECTIVE_ABOVE = 0.5
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.2  # The share is of what the test leaves.
SPLIT_SEED = 0
PNG_HEADER = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s2I2B", 13, b"IHDR", SIDE, SIDE, 8, 0)
REINSTALL = f"install {PACKAGE} again"


class Cell(NamedTuple):
    """A line of the package's list.

    Attributes:
      path: Path of the image.
      probability: Probability of a defect, 0..1.
      type: One of `TYPES`, for mono- or polycrystalline.
    """

    path: Path
    probability: float
    type: str

    @property
    def label(self) -> str:
        """The cell's class, one of `CLASSES`."""
        return CLASSES[self.probability > DEFECTIVE_ABOVE]


def data_folder() -> Path:
    """The folder in which the installed package, which is not imported, keeps its data.

    Raises:
      InputError: If the package is not installed.
    """
    spec = importlib.util.find_spec(MODULE)
    if spec is None or spec.origin is None:
        raise InputError(
            f"solar_cells needs the Python package {PACKAGE} (90 MB, its images for non-commercial use only): "
            f"pip install {PACKAGE}"
        )
    return Path(spec.origin).parent / "data"


def read_cells(folder: Path) -> list[Cell]:
    """Reads the list of cells, `labels.csv`: path, probability and type, separated by blanks.

    Args:
      folder: Folder that holds the list and, at the paths in it, the images.

    Raises:
      InputError: If a line is not of this form, or repeats an image; the message names the line.
    """
    cells: dict[str, Cell] = {}
    source = folder / "labels.csv"
    with reading(source):
        lines = source.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            name, probability, kind = line.split()
            cell = Cell(folder / name, float(probability), kind)
        except ValueError as error:
            raise InputError(f"{source}, line {number}: not path, probability and type; {REINSTALL}") from error
        require(
            0 <= cell.probability <= 1 and kind in TYPES,
            f"{source}, line {number}: no probability in 0..1 and one of {', '.join(TYPES)}; {REINSTALL}",
        )
        require(cell.path.name not in cells, f"{source}, line {number}: {name} is there a second time; {REINSTALL}")
        cells[cell.path.name] = cell
    require(len(cells) > 0, f"{source} lists no images; {REINSTALL}")
    return list(cells.values())


def split_indices(cells: list[Cell]) -> dict[str, Int[np.ndarray, " part"]]:
    """The fixed division, stratified by class and type: a fifth for the test, a fifth of the rest for validation.

    The division is ours. The package does not tell which cells were cut from one module, so that parts may share
    modules.

    Returns:
      Sorted positions in `cells` by the split's name; the parts are disjoint and cover all cells.
    """
    strata = np.array([CLASSES.index(cell.label) * len(TYPES) + TYPES.index(cell.type) for cell in cells])
    rest, test = stratified_split(strata, TEST_FRACTION, SPLIT_SEED)
    train, validation = stratified_split(strata[rest], VALIDATION_FRACTION, SPLIT_SEED)
    return {"train": rest[train], "validation": rest[validation], "test": test}


def read_image(path: Path) -> bytes:
    """The content of a cell's file.

    Raises:
      InputError: If it is missing, or no grey PNG image of 300×300 pixels.
    """
    with reading(path):
        data = path.read_bytes()
    require(data.startswith(PNG_HEADER), f"{path} is no grey PNG image of {SIDE}×{SIDE} pixels; {REINSTALL}")
    return data


with registered.skip_registration():

    class SolarCells(tfds.core.GeneratorBasedBuilder):
        """2,624 cells of 44 modules, 821 of them defective."""

        name = "solar_cells"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            return tfds.core.DatasetInfo(
                builder=self,
                description="Electroluminescence images of solar cells with the probability of a defect (elpv).",
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(SIDE, SIDE, 1)),
                        "label": tfds.features.ClassLabel(names=list(CLASSES)),
                        "type": tfds.features.ClassLabel(names=list(TYPES)),
                        "probability": np.float32,
                        "name": tfds.features.Text(),
                    }
                ),
                supervised_keys=("image", "label"),
                homepage="https://github.com/zae-bayern/elpv-dataset",
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            cells = read_cells(data_folder())
            return {
                split: self._generate_examples([cells[index] for index in indices])
                for split, indices in split_indices(cells).items()
            }

        def _generate_examples(self, cells: list[Cell]) -> Iterator[tuple[str, dict[str, Any]]]:
            for cell in cells:
                yield (
                    cell.path.name,
                    {
                        "image": read_image(cell.path),
                        "label": cell.label,
                        "type": cell.type,
                        "probability": cell.probability,
                        "name": cell.path.name,
                    },
                )
