"""Compiles our programs for an H100, which need not be there, and counts kernels, bytes, launches and memory of a step.

A step of pretraining is a micro-batch of 64 pairs, one of fine-tuning a batch of 64 images, and one of feature
extraction a call for 256 images. Times are the least that the card's bandwidth and peak rates allow: no measurements.

Command: python -m experiments.benchmark.audit --backbone=resnet18                   (two minutes on two cores)
         python -m experiments.benchmark.audit --backbone=vit_s --image_size=96 --stage=pretrain,features --top=15
         python -m experiments.benchmark.audit --summarise=FOLDER                    (the table of all its files)
Result: OUT/audit-NAME.json for each program, and their table. It needs pip install -e ".[audit]".
"""

import dataclasses
import os
from pathlib import Path

from absl import flags

from experiments.benchmark.audit import table
from experiments.benchmark.audit.programs import STAGES
from experiments.benchmark.audit.record import audit
from simsiam_jax.cli import launch
from simsiam_jax.cli.flags import define, explicit, value
from simsiam_jax.cli.guard import run
from simsiam_jax.errors import require
from simsiam_jax.files import write_json
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.settings.schema import Config

SETTINGS = ("backbone", "stem", "width", "patch_size", "drop_path", "dtype", "micro_batch_size", "accumulation")


def main() -> None:
    if value("summarise") is not None:
        print(table.markdown_table(table.read_records(_folder(value("summarise")))))
        return
    config, folder, stages = config_from_flags(), _folder(value("out")), value("stage")
    for stage in stages:
        require(stage in STAGES, f"--stage={stage}: unknown stage; known: {', '.join(STAGES)}")
    # XLA reads them when it first compiles.
    given = (value("xla_flags") or "").split()
    for each in given:
        require(each.startswith("--xla_"), f"--xla_flags holds {each!r}; give flags of XLA's, as --xla_name=value")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *given]).strip()
    records = []
    for stage in stages:
        record, work = audit(config, stage, value("devices"))
        record["xla_flags"] = [*given, *record["xla_flags"]]
        records.append(record)
        write_json(folder / table.file_name(record), record)
        if value("top"):
            print(f"{stage}\n{table.top_kernels(work, value('top'))}\n")
    print(f"{table.markdown_table(records)}\n\nresults  {folder}")


def config_from_flags() -> Config:
    """The paper's settings with those of the flags, for a backbone that has them."""
    recipe = recipe_config(value("recipe"), dataset="random_images", image_size=value("image_size"))
    config = with_settings(recipe, {"dtype": "bfloat16", **explicit(SETTINGS)})
    backbone = launch.own_fields_alone(config.program.backbone)
    return dataclasses.replace(config, program=dataclasses.replace(config.program, backbone=backbone))


def _folder(path: str) -> Path:
    return Path(path).expanduser().absolute()


if __name__ == "__main__":
    define(["recipe", "image_size", *SETTINGS], image_size=32)
    flags.DEFINE_list("stage", ["pretrain"], f"Programs to compile: {', '.join(STAGES)}.")
    flags.DEFINE_integer("devices", 1, "Number of cards.", lower_bound=1)
    flags.DEFINE_string("out", "runs/audit", "Folder that receives a JSON file for each program.")
    flags.DEFINE_string("xla_flags", None, "Flags of XLA's to compile with, as --xla_name=value with blanks between.")
    flags.DEFINE_integer(
        "top", 0, "List so many kinds of kernels of a step, those that move the most bytes first.", lower_bound=0
    )
    flags.DEFINE_string("summarise", None, "Only print the table of the results in this folder.")
    run(main)
