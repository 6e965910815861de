"""Writes a pretrained backbone for use elsewhere: weights for timm, a feature extractor for jax alone, a model card.

Command: python -m experiments.export --checkpoint=runs/mine/in_domain/seed-0/pretrain --out=exported/mine
Result: OUT/model.safetensors, features.stablehlo and model.json; the last says how to load the other two.
"""

import textwrap
from pathlib import Path

from absl import flags

from simsiam_jax import export
from simsiam_jax.cli.checkpoint import checkpoint_flag
from simsiam_jax.cli.flags import value
from simsiam_jax.cli.guard import run
from simsiam_jax.errors import require


def main() -> None:
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


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Folder of a pretraining: WORKDIR/ARM/seed-K/pretrain.")
    flags.DEFINE_string("out", None, "Folder for the files, new or empty.")
    run(main)
