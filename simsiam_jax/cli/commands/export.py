"""Writes a pretrained backbone for use elsewhere: weights for timm, a feature extractor for jax alone, a model card.

Example: simsiam export --checkpoint=runs/pretrain-photos/in_domain/seed-0/pretrain --out=exported/photos

Result: OUT/model.safetensors, features.stablehlo and model.json; the last says how to load the other two.
"""

import textwrap
from pathlib import Path

from simsiam_jax import export
from simsiam_jax.cli.checkpoint import checkpoint_flag
from simsiam_jax.cli.flags import define as define_flags
from simsiam_jax.cli.flags import value
from simsiam_jax.errors import require


def define() -> None:
    """Defines the flags."""
    define_flags(["checkpoint", "out"])


def main() -> None:
    """Exports the checkpoint that the flags name."""
    pretrained = checkpoint_flag()
    require(bool(value("out")), "--out=FOLDER is needed: where to write the files")
    out = Path(value("out")).expanduser().absolute()
    card = export.export_checkpoint(
        pretrained.folder, out, config=pretrained.config, source=pretrained.source, seed=pretrained.seed
    )
    for name in (export.WEIGHTS_FILE, export.PROGRAM_FILE, export.CARD_FILE):
        print(out / name)
    print(f"\nIn that folder, with timm and safetensors:\n{_indented(card['timm']['build'] + card['timm']['load'])}")
    print(f"\nor with {card['jax']['needs']}, for uint8 images:\n{_indented(card['jax']['load'])}")


def _indented(code: str) -> str:
    return textwrap.indent(code.rstrip(), "    ")
