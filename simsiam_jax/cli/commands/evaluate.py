"""What is a pretraining worth? kNN, linear probe and fine-tuning, beside those of the untrained network.

Example: simsiam evaluate --checkpoint=runs/pretrain-photos/in_domain/seed-0/pretrain --evals=linear
         simsiam evaluate photos --checkpoint=runs/pretrain-photos           (all its seeds, on the classes of photos)
         simsiam evaluate photos --checkpoint=FOLDER,FOLDER                  (several pretrainings in one table)

Result: results.jsonl and a report, in a folder of `evaluate/` beside the first checkpoint that is named after the
settings, unless --workdir says otherwise. The same command goes on there.
"""

import dataclasses
from collections.abc import Sequence

from simsiam_jax.cli import checkpoint, launch
from simsiam_jax.cli.flags import define as define_flags
from simsiam_jax.cli.flags import explicit, value
from simsiam_jax.cli.folder import take_folder
from simsiam_jax.data.datasets import dataset_title
from simsiam_jax.errors import require
from simsiam_jax.files import digest
from simsiam_jax.inference import Model, open_model, read_stage, slug
from simsiam_jax.records.experiment import EVALUATIONS
from simsiam_jax.settings.declare import plain_text
from simsiam_jax.settings.resolve import SETTINGS, check_warmup, values_of, with_settings
from simsiam_jax.settings.schema import Config
from simsiam_jax.settings.values import to_dict
from simsiam_jax.study.definition import Arm, Study
from simsiam_jax.terminal import say

EXPERIMENT = "evaluate"
WORDS = ("[FOLDER]",)
EVALUATION = [name for name, each in SETTINGS.items() if each.group == "evaluation"]
DATA = ("dataset", "labels", "max_bad_images", "cached_size", "group_duplicates")
_UNTRAINED = "none"


def define() -> None:
    """Defines the flags: those of evaluations, and those that say what is evaluated on."""
    names = ["checkpoint", "baseline", "evals", *launch.RUNNING, *checkpoint.NETWORK, *EVALUATION, *DATA]
    define_flags(names, evals=EVALUATIONS)


def main(folder: str | None = None) -> None:
    """Evaluates the checkpoints that the flags name, and the untrained network."""
    take_folder(folder)
    folders = checkpoint.checkpoint_flag(("pretrain",))
    stages = [read_stage(each) for each in folders]
    checkpoint.check_same_network(stages)
    configs = _evaluated([stage.config for stage in stages])
    models = [open_model(each) for each in folders]
    for model in models:
        say(f"checkpoint  {model.trained.folder}: {model.words}")

    base = configs[0]
    units, arms, arm_configs = {}, {}, {}
    if value("baseline"):
        units |= {(_UNTRAINED, seed): None for seed in sorted({model.trained.seed for model in models})}
        arms[_UNTRAINED] = Arm("none", "no pretraining")
    for model, config in zip(models, configs, strict=True):
        name, seed = model.arm_name, model.trained.seed
        require(
            (name, seed) not in units,
            f"--checkpoint: {model.trained.folder} is the same pretraining with the same seed {seed} as one before: "
            "leave it out",
        )
        units[name, seed] = model.backbone
        arm_configs[name] = config
        arms[name] = Arm(model.trained.source, _label(model, _told_apart(model, models)))
    settings = {"config": to_dict(base), "units": [list(unit) for unit in units]}
    default = folders[0].parent / "evaluate" / f"{slug(dataset_title(base.dataset))}-{digest(settings)[:8]}"
    sources = ", ".join(dict.fromkeys(dataset_title(model.trained.source) for model in models))
    backbone = base.program.backbone.name
    launch.run_study(
        Study(
            experiment=EXPERIMENT,
            title=f"{backbone} pretrained on {sources}, evaluated on {dataset_title(base.dataset)}",
            question=f"What is pretraining on {sources} worth on {dataset_title(base.dataset)}?",
            arms=arms,
            config=base,
            seeds=tuple(sorted({seed for _, seed in units})),
            evaluations=value("evals"),
            command=launch.command(EXPERIMENT),
            configs={name: config for name, config in arm_configs.items() if config != base},
            **launch.folders(workdir=value("workdir") or str(default)),
        ),
        units,
    )


def _evaluated(pretrained: Sequence[Config]) -> list[Config]:
    """The settings of each pretraining with those of the evaluations that the flags ask for, equal for all.

    Raises:
      InputError: If the pretrainings name several data sets and the flags none, or for a flag that cannot be.
    """
    configs = list(pretrained)
    if value("dataset") is not None or value("labels") is not None:
        configs = [
            checkpoint.on_dataset(each, value("dataset") or each.dataset, launch.labels_flag()) for each in configs
        ]
    base = configs[0]
    for each in configs:
        require(
            (each.dataset, each.labels) == (base.dataset, base.labels),
            f"--checkpoint: they have several data sets, {dataset_title(base.dataset)} and "
            f"{dataset_title(each.dataset)}: say which to evaluate on, as in `simsiam evaluate FOLDER`",
        )
    given = {name: each for name, each in explicit(SETTINGS).items() if name not in ("dataset", "labels")}
    base = with_settings(base, {**given, "init": "random"})  # the source tells of any other
    check_warmup(base, given)
    ours = {"finetune_views": base.program.finetune_views, "finetune_optimizer": base.program.finetune_optimizer}
    return [
        dataclasses.replace(
            base,
            program=dataclasses.replace(each.program, **ours),
            recipe=each.recipe,
            pretrain=each.pretrain,
            noise=each.noise,
        )
        for each in configs
    ]


def _label(model: Model, told_apart: str) -> str:
    """What tables call a pretraining."""
    unfinished = "" if model.ended else ", not finished"
    return (
        f"pretrained on {dataset_title(model.trained.source)} "
        f"(epoch {model.epoch} of {model.epochs_planned}{unfinished}{told_apart})"
    )


def _told_apart(model: Model, models: Sequence[Model]) -> str:
    """The settings that tell a pretraining from others of the same data, at most three."""
    title = dataset_title(model.trained.source)
    own = values_of(model.trained.config.pretraining_part())
    others = [
        values_of(other.trained.config.pretraining_part())
        for other in models
        if dataset_title(other.trained.source) == title and other.arm_name != model.arm_name
    ]
    differing = [name for name in own if any(other[name] != own[name] for other in others)]
    return "".join(f", {name}={plain_text(own[name])}" for name in differing[:3])
