"""Pretrains one backbone with SimSiam and leaves an Orbax checkpoint for experiments.evaluate.

Command: python -m experiments.pretrain --dataset=fashion_mnist --preset=small --workdir=runs/mine
         python -m experiments.pretrain --dataset=folder:PATH --workdir=runs/mine       (your own images)
Result: WORKDIR/in_domain/seed-K/pretrain: config.json, metrics.jsonl, checkpoints/, tensorboard/.
"""

from simsiam_jax.cli import launch
from simsiam_jax.cli.flags import value
from simsiam_jax.cli.guard import run
from simsiam_jax.cli.plan import seeds_of
from simsiam_jax.data.datasets import dataset_title
from simsiam_jax.errors import require
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import THREE_ARMS, Study

EXPERIMENT = "pretrain"


def main() -> None:
    config, planned = launch.config_from_flags(PRESETS)
    require(len(planned) == 1, "--seeds=auto: pretraining alone answers no question; give a number of seeds")
    seeds = seeds_of(planned)
    folders = launch.folders()
    launch.run_study(
        Study(
            experiment=EXPERIMENT,
            title=f"SimSiam pretraining on {dataset_title(config.pretrain.dataset or config.dataset)}",
            question="What did pretraining learn, and did it collapse?",
            arms={"in_domain": THREE_ARMS["in_domain"]},
            config=config,
            seeds=seeds,
            evaluations=(),
            command=launch.command(EXPERIMENT),
            known_arms=tuple(THREE_ARMS),
            **folders,
        )
    )
    for seed in () if value("show_config") or value("dry_run") else seeds:
        print(f"checkpoint  {folders['workdir']}/in_domain/seed-{seed}/pretrain")


if __name__ == "__main__":
    launch.define_study_flags(experiment=EXPERIMENT, dataset="digits", preset="small", recipe="practice")
    run(main, values=lambda: launch.help_values(PRESETS))
