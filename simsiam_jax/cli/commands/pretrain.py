"""Pretrains one backbone with SimSiam and leaves an Orbax checkpoint.

Example: simsiam pretrain photos                            (images at any depth count where there are no labels)
         simsiam pretrain fashion_mnist --preset=small --workdir=runs/mine

Result: WORKDIR/in_domain/seed-K/pretrain: config.json, metrics.jsonl, checkpoints/, tensorboard/.
"""

from simsiam_jax.cli import launch
from simsiam_jax.cli.flags import value
from simsiam_jax.cli.folder import take_folder
from simsiam_jax.cli.plan import seeds_of
from simsiam_jax.data.datasets import dataset_title
from simsiam_jax.errors import require
from simsiam_jax.settings.recipes import PRESETS
from simsiam_jax.study.definition import THREE_ARMS, Study
from simsiam_jax.terminal import say

EXPERIMENT = "pretrain"
WORDS = ("[FOLDER]",)


def define() -> None:
    """Defines the flags of a study without evaluations."""
    launch.define_study_flags(experiment=EXPERIMENT, dataset="digits", preset="small", recipe="practice")


def values() -> dict[str, object]:
    """The value of every setting, for `--help`."""
    return launch.help_values(PRESETS)


def main(folder: str | None = None) -> None:
    """Pretrains on a folder, or on a data set."""
    take_folder(folder, runs=EXPERIMENT)
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
        say(f"checkpoint  {folders['workdir']}/in_domain/seed-{seed}/pretrain")
