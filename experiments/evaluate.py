"""Evaluates a checkpoint of experiments.pretrain, or of any table's arm: kNN, linear probe, fine-tuning.

Command: python -m experiments.evaluate --eval=linear --checkpoint=runs/mine/in_domain/seed-0/pretrain
Result: results.jsonl and a report, in a folder `evaluate` beside the checkpoint's unless --workdir says otherwise.
"""

from pathlib import Path

from absl import flags

from simsiam_jax.cli import launch
from simsiam_jax.data.datasets import dataset_title
from simsiam_jax.errors import require
from simsiam_jax.settings.schema import EVALS, OVERRIDES, Row, Study, with_overrides

EXPERIMENT = "evaluate"


def main() -> None:
    values = flags.FLAGS
    require(values.checkpoint is not None, "--checkpoint=WORKDIR/ARM/seed-K/pretrain is needed: what to evaluate")
    folder = Path(values.checkpoint).expanduser().absolute()
    pretrained = launch.open_pretrained(folder)
    config = pretrained.config
    if values.dataset is not None or values.labels is not None:
        config = launch.on_dataset(config, values.dataset or config.dataset, launch.labels_flag())
    launch.check_same_network(pretrained)
    config = with_overrides(config, {**launch.given(OVERRIDES), "init": "random"})  # the source tells of any other
    source = dataset_title(pretrained.source)
    folders = launch.folders(workdir=values.workdir or str(folder.parent / "evaluate"))
    launch.run_study(
        Study(
            experiment=EXPERIMENT,
            title=f"{config.backbone.name} pretrained on {source}, evaluated on {dataset_title(config.dataset)}",
            question="What are the pretrained features worth?",
            rows={source: Row(pretrained.source, f"pretrained on {source}")},
            config=config,
            seeds=(pretrained.seed,),
            evals=tuple(values.eval),
            command=launch.command(EXPERIMENT),
            **folders,
        ),
        folder,
    )


if __name__ == "__main__":
    flags.DEFINE_string("checkpoint", None, "Folder of a pretraining: WORKDIR/ARM/seed-K/pretrain.")
    flags.DEFINE_list("eval", list(EVALS), f"Evaluations, comma-separated, of {', '.join(EVALS)}.")
    launch.define_folder_flags(workdir=None, dataset=None)
    launch.define_network_flags()
    launch.define_evaluation_flags()
    launch.run(main)
