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
from simsiam_jax.settings.schema import OVERRIDES, Config, recipe_config, with_overrides

EXPERIMENT = "benchmark"


def main() -> None:
    values = flags.FLAGS
    if values.summarise is not None:
        print(table.markdown_table(table.read_records(_folder(values.summarise))))
        return
    workload, record = measure(
        Settings(
            config=config_from_flags(),
            stage=values.stage,
            images=values.images,
            source_size=values.source_size,
            contenders=values.contenders,
            variants=values.variant,
            rounds=values.rounds,
            seconds=values.seconds,
            trace=_folder(values.trace) if values.trace else None,
        ),
    )
    from simsiam_jax.files import write_json

    path = _folder(values.workdir) / table.file_name(workload, record["platform"])
    write_json(path, {"command": launch.command(EXPERIMENT), **record})
    print(f"\n{table.terminal_table(record)}\n\nresult  {path}")


def config_from_flags() -> Config:
    values = flags.FLAGS
    recipe = recipe_config(values.recipe, dataset="random_images", image_size=values.image_size)
    config = with_overrides(recipe, launch.given(OVERRIDES))
    return dataclasses.replace(config, backbone=launch.fitted(config.backbone))


def _folder(path: str) -> Path:
    return Path(path).expanduser().absolute()


if __name__ == "__main__":
    launch.define_network_flags()
    flags.DEFINE_enum("stage", "step", STAGES, "What to measure.")
    flags.DEFINE_string("recipe", "paper", "Method: paper, code, reference.")
    flags.DEFINE_integer("image_size", 32, "Side of the views in pixels.")
    flags.DEFINE_integer("micro_batch_size", None, "Images of a micro-batch; 64 in the paper.")
    flags.DEFINE_integer("accumulation", None, "Micro-batches of an update; 8 in the paper.")
    flags.DEFINE_string("dtype", None, "Compute type: float32 or bfloat16.")
    flags.DEFINE_integer("images", None, "Number of images on the device that a stage goes round.")
    flags.DEFINE_integer("source_size", None, "Side of these images in pixels; the views' by default.")
    flags.DEFINE_list("contenders", None, f"Who takes part, of {', '.join(CONTENDERS)}.")
    flags.DEFINE_multi_string("variant", [], "Ours with other flags: NAME=--xla_flag=VALUE, or NAME=lax.")
    flags.DEFINE_integer("rounds", 5, "Number of turns of each contender.")
    flags.DEFINE_float("seconds", 5.0, "Approximate length of a turn in seconds.")
    flags.DEFINE_string("workdir", f"runs/{EXPERIMENT}", "Folder for the result.")
    flags.DEFINE_string("trace", None, "Folder for a trace of a few of our calls, for JAX's profiler.")
    flags.DEFINE_string("summarise", None, "Only print the table of the results in this folder.")
    launch.run(main)
