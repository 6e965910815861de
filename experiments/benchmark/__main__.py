"""Measures our pretraining beside PyTorch's, by turns in one run on one device: rates, ratios, memory, compile times.

Command: python -m experiments.benchmark --backbone=resnet18 --stage=step             (some minutes on two cores)
         python -m experiments.benchmark --variant="no graphs=--xla_gpu_enable_command_buffer=" --contenders=jax
         python -m experiments.benchmark --summarise=experiments/results/benchmark       (the table of all its files)
Result: WORKDIR/benchmark-NAME.json, and its table. PyTorch's side needs pip install -e ".[torch]".
"""

import dataclasses
from pathlib import Path

from absl import flags

from experiments.benchmark import table
from experiments.benchmark.entrants import CONTENDERS
from experiments.benchmark.measure import Settings, measure
from experiments.benchmark.workload import STAGES
from simsiam_jax.cli import launch
from simsiam_jax.cli.flags import define, explicit, value
from simsiam_jax.cli.guard import run
from simsiam_jax.files import write_json
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.resolve import with_settings
from simsiam_jax.settings.schema import Config

EXPERIMENT = "benchmark"
# The settings that a benchmark takes beside the recipe.
NETWORK = ("backbone", "stem", "width", "patch_size", "dtype")
BATCH = ("micro_batch_size", "accumulation")


def main() -> None:
    if value("summarise") is not None:
        print(table.markdown_table(table.read_records(_folder(value("summarise")))))
        return
    workload, record = measure(
        Settings(
            config=config_from_flags(),
            stage=value("stage"),
            images=value("images"),
            source_size=value("source_size"),
            contenders=value("contenders"),
            variants=value("variant"),
            rounds=value("rounds"),
            seconds=value("seconds"),
            trace=_folder(value("trace")) if value("trace") else None,
        ),
    )
    path = _folder(value("workdir")) / table.file_name(workload, record["platform"])
    write_json(path, {"command": launch.command(EXPERIMENT), **record})
    print(f"\n{table.terminal_table(record)}\n\nresult  {path}")


def config_from_flags() -> Config:
    """The recipe's settings with those of the flags, for a backbone that has them."""
    recipe = recipe_config(value("recipe"), dataset="random_images", image_size=value("image_size"))
    config = with_settings(recipe, explicit([*NETWORK, *BATCH]))
    backbone = launch.own_fields_alone(config.program.backbone)
    return dataclasses.replace(config, program=dataclasses.replace(config.program, backbone=backbone))


def _folder(path: str) -> Path:
    return Path(path).expanduser().absolute()


if __name__ == "__main__":
    define(["recipe", "image_size", *NETWORK, *BATCH, "workdir"], image_size=32, workdir=f"runs/{EXPERIMENT}")
    flags.DEFINE_enum("stage", "step", STAGES, f"Stage to measure: {', '.join(STAGES)}.")
    flags.DEFINE_integer("images", None, "Number of images on the device that a stage goes round.")
    flags.DEFINE_integer("source_size", None, "Side of these images in pixels; the views' by default.")
    flags.DEFINE_list("contenders", None, f"Contenders that take part, of {', '.join(CONTENDERS)}.")
    flags.DEFINE_multi_string("variant", [], "Ours with other flags: NAME=--xla_flag=VALUE, or NAME=lax.")
    flags.DEFINE_integer("rounds", 5, "Number of turns of each contender.")
    flags.DEFINE_float("seconds", 5.0, "Approximate length of a turn in seconds.")
    flags.DEFINE_string("trace", None, "Folder for a trace of a few of our calls, for JAX's profiler.")
    flags.DEFINE_string("summarise", None, "Only print the table of the results in this folder.")
    run(main)
