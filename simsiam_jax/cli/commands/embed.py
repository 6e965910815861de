"""Writes the features of every image of a folder, by a pretrained backbone or that of a fine-tuned network.

Example: simsiam embed photos --checkpoint=runs/study-photos/in_domain/seed-0/pretrain --out=features.parquet

Result: the columns `file`, relative to FOLDER, and `features`, float32, a row for each image at any depth; a .npz file
has two arrays of these names. Subfolders are no labels here. Images that cannot be read are left out and named.
"""

import io
import itertools
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from simsiam_jax.cli.apply import FLAGS, Outputs, images_word, images_words, out_flag, over_images, written_out
from simsiam_jax.cli.checkpoint import one_checkpoint
from simsiam_jax.cli.flags import define as define_flags
from simsiam_jax.data.folders import Listing
from simsiam_jax.inference import TRAINED, open_model
from simsiam_jax.study.programs import EVALUATION_BATCH
from simsiam_jax.terminal import say

WORDS = ("FOLDER",)
# Rows that a row group of a parquet file has, and that wait in memory for it.
_ROW_GROUP = 4096


def define() -> None:
    """Defines the flags."""
    define_flags(FLAGS)


def main(folder: str) -> None:
    """Writes the features of a folder's images."""
    out = out_flag((".parquet", ".npz"))
    listing = images_word(folder)
    # In float32, as the program of `simsiam export` computes them.
    model = open_model(one_checkpoint(TRAINED), dtype="float32")
    say(f"checkpoint  {model.trained.folder}: {model.words}")
    write = _write_parquet if out.suffix.lower() == ".parquet" else _write_npz
    with written_out(out) as temporary:
        rows, width = write(temporary, over_images(model, listing, model.features), listing)
    say(f"features  {out}: {width:,} features of each of {images_words(rows, listing)}")


def _write_parquet(path: Path, batches: Iterator[Outputs], listing: Listing) -> tuple[int, int]:
    """Writes a parquet file in row groups, and returns the numbers of its rows and features."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Parquet's texts are UTF-8. Where a name is none, all are given as the bytes that they are.
    names_are_text = all(map(_is_text, listing.files))
    kind = pa.string() if names_are_text else pa.binary()
    groups = _row_groups(batches)
    first = next(groups)
    width = first.values.shape[1]
    schema = pa.schema([("file", kind), ("features", pa.list_(pa.float32(), width))])
    rows = 0
    with pq.ParquetWriter(path, schema) as writer:
        for group in itertools.chain([first], groups):
            names = group.names if names_are_text else [os.fsencode(name) for name in group.names]
            features = pa.FixedSizeListArray.from_arrays(pa.array(group.values.ravel(), pa.float32()), width)
            writer.write_table(pa.Table.from_arrays([pa.array(names, kind), features], schema=schema))
            rows += len(names)
    return rows, width


def _row_groups(batches: Iterator[Outputs]) -> Iterator[Outputs]:
    """The batches, at least one, joined to groups of `_ROW_GROUP` rows."""
    for group in iter(lambda: list(itertools.islice(batches, _ROW_GROUP // EVALUATION_BATCH)), []):
        names = [name for each in group for name in each.names]
        yield Outputs(names, np.concatenate([each.values for each in group]))


def _write_npz(path: Path, batches: Iterator[Outputs], listing: Listing) -> tuple[int, int]:
    """Writes an .npz file, and returns the numbers of its rows and features.

    An array's header says its length, which is known at the end: until then the features lie in a file without a name.
    """
    names, width = [], 0
    with tempfile.TemporaryFile(dir=path.parent) as rows:
        for batch in batches:
            width = batch.values.shape[1]
            names += batch.names
            rows.write(np.ascontiguousarray(batch.values, "<f4").data)
        rows.seek(0)
        with zipfile.ZipFile(path, "w") as archive:
            with archive.open("file.npy", "w") as file:
                _save(file, np.array(names))
            with archive.open("features.npy", "w", force_zip64=True) as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(names), width)}
                np.lib.format.write_array_header_1_0(file, header)
                while block := rows.read(2**24):
                    file.write(block)
    return len(names), width


def _save(file: IO[bytes], array: np.ndarray) -> None:
    whole = io.BytesIO()
    np.save(whole, array, allow_pickle=False)
    file.write(whole.getvalue())


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
