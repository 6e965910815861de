"""Predicts the class, or the attributes, of every image of a folder by a fine-tuned network.

Example: simsiam predict photos --checkpoint=runs/study-photos/in_domain/seed-0/finetune --out=predictions.csv

Result: a CSV file in UTF-8 with a row for each image at any depth: `file`, relative to FOLDER; `class`, and `p_NAME`,
the probability of each class. For attributes `is_NAME` (0 or 1) and `p_NAME` of each. A text that a spreadsheet would
take for a formula is marked: a file's name by `./`, a class by an apostrophe. Images that cannot be read are left out
and named. A folder `finetune` holds the network of the first draw of labelled images, `finetune/draw-K` a further one.
"""

import csv
import re

import numpy as np

from simsiam_jax.cli.apply import FLAGS, images_word, images_words, out_flag, over_images, written_out
from simsiam_jax.cli.checkpoint import one_checkpoint
from simsiam_jax.cli.flags import define as define_flags
from simsiam_jax.inference import open_model
from simsiam_jax.terminal import say

WORDS = ("FOLDER",)
# First characters by which spreadsheets know formulas.
_FORMULA = tuple("=+-@\t\r")
# Classes whose counts are printed.
_SHOWN = 10
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def define() -> None:
    """Defines the flags."""
    define_flags(FLAGS)


def main(folder: str) -> None:
    """Writes the predictions for a folder's images."""
    out = out_flag((".csv",))
    listing = images_word(folder)
    model = open_model(one_checkpoint(("finetune",)))
    say(f"checkpoint  {model.trained.folder}: {model.words}")
    names, attributes = model.trained.class_names, model.trained.label_kind == "attributes"
    thresholds = np.array(model.thresholds)
    counts = np.zeros(len(names), int)
    rows = 0
    with (
        written_out(out) as temporary,
        # A name that is no UTF-8 keeps its bytes.
        temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.writer(file)
        decided = [f"is_{name}" for name in names] if attributes else ["class"]
        table.writerow(["file", *decided, *(f"p_{name}" for name in names)])
        for batch in over_images(model, listing, model.logits):
            probabilities = model.probabilities(batch.values)
            present = probabilities >= thresholds if attributes else None
            classes = np.argmax(batch.values, axis=1)
            for place, name in enumerate(batch.names):
                shown = [f"{each:.6g}" for each in probabilities[place]]
                answer = [_cell(names[classes[place]])] if present is None else present[place].astype(int).tolist()
                table.writerow([f"./{name}" if name.startswith(_FORMULA) else name, *answer, *shown])
            counts += np.bincount(classes, minlength=len(names)) if present is None else present.sum(axis=0)
            rows += len(batch.names)
    often = np.argsort(-counts, kind="stable")
    more = f" and {len(often) - _SHOWN:,} others" if len(often) > _SHOWN else ""
    say("predicted  " + ", ".join(f"{names[at]} {counts[at]:,}" for at in often[:_SHOWN]) + more)
    say(f"predictions  {out}: {images_words(rows, listing)}")


def _cell(text: str) -> str:
    """A class's name as a spreadsheet takes it for a text; a number is none that could do harm."""
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
