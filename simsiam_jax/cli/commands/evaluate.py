"""Evaluates a checkpoint of `simsiam pretrain`, or of any study's arm: kNN, linear probe, fine-tuning.

Example: simsiam evaluate --checkpoint=runs/pretrain-photos/in_domain/seed-0/pretrain --evals=linear

Result: results.jsonl and a report, in a folder `evaluate` beside the checkpoint's unless --workdir says otherwise.
"""

from simsiam_jax.cli import checkpoint, launch
from simsiam_jax.cli.flags import define as define_flags
from simsiam_jax.cli.flags import explicit, value
from simsiam_jax.data.datasets import dataset_title
from simsiam_jax.records.experiment import EVALUATIONS
from simsiam_jax.settings.resolve import SETTINGS, check_warmup, with_settings
from simsiam_jax.study.definition import Arm, Study

EXPERIMENT = "evaluate"
EVALUATION = [name for name, each in SETTINGS.items() if each.group == "evaluation"]
DATA = ("dataset", "labels", "max_bad_images", "cached_size", "group_duplicates")


def define() -> None:
    """Defines the flags: those of evaluations, and those that say what is evaluated on."""
    define_flags(["checkpoint", "evals", *launch.FOLDERS, *checkpoint.NETWORK, *EVALUATION, *DATA], evals=EVALUATIONS)


def main() -> None:
    """Evaluates the checkpoint that the flags name."""
    pretrained = checkpoint.checkpoint_flag()
    config = pretrained.config
    if value("dataset") is not None or value("labels") is not None:
        config = checkpoint.on_dataset(config, value("dataset") or config.dataset, launch.labels_flag())
    checkpoint.check_same_network(pretrained)
    given = {name: each for name, each in explicit(SETTINGS).items() if name not in ("dataset", "labels")}
    config = with_settings(config, {**given, "init": "random"})  # the source tells of any other
    check_warmup(config, given)
    source, backbone = dataset_title(pretrained.source), config.program.backbone.name
    launch.run_study(
        Study(
            experiment=EXPERIMENT,
            title=f"{backbone} pretrained on {source}, evaluated on {dataset_title(config.dataset)}",
            question="What are the pretrained features worth?",
            arms={source: Arm(pretrained.source, f"pretrained on {source}")},
            config=config,
            seeds=(pretrained.seed,),
            evaluations=value("evals"),
            command=launch.command(EXPERIMENT),
            **launch.folders(workdir=value("workdir") or str(pretrained.folder.parent / "evaluate")),
        ),
        pretrained.folder,
    )
