"""Writes a trained network for use elsewhere: weights for timm, a program for jax alone, a model card.

Example: simsiam export --checkpoint=runs/pretrain-photos/in_domain/seed-0/pretrain --out=exported/photos
         simsiam export --checkpoint=runs/study-photos/in_domain/seed-0/finetune --out=exported/classifier

Result: OUT/model.safetensors, features.stablehlo and model.json; the last says how to load the other two. A fine-tuned
network keeps its classifier: the program is classifier.stablehlo, which gives features and logits.
"""

import textwrap
from pathlib import Path

from simsiam_jax import export
from simsiam_jax.cli.checkpoint import one_checkpoint
from simsiam_jax.cli.flags import define as define_flags
from simsiam_jax.cli.flags import value
from simsiam_jax.errors import require
from simsiam_jax.inference import TRAINED
from simsiam_jax.terminal import say


def define() -> None:
    """Defines the flags."""
    define_flags(["checkpoint", "out"])


def main() -> None:
    """Exports the checkpoint that the flags name."""
    require(bool(value("out")), "--out=FOLDER is needed: where to write the files")
    out = Path(value("out")).expanduser().absolute()
    card = export.export_model(one_checkpoint(TRAINED), out)
    for name in (*card["files"], export.CARD_FILE):
        say(str(out / name))
    say(f"\nIn that folder, with timm and safetensors:\n{_indented(card['timm']['build'] + card['timm']['load'])}")
    say(f"\nor with {card['jax']['needs']}, for uint8 images:\n{_indented(card['jax']['load'])}")


def _indented(code: str) -> str:
    return textwrap.indent(code.rstrip(), "    ")
