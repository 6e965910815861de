"""From absl flags to a study, and from a mistake to one clear line.

Nothing heavy is imported before the flags are understood, so `--help` answers at once.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from simsiam_jax import runtime
from simsiam_jax.config import (
    EVALS,
    OVERRIDES,
    RECIPES,
    BackboneConfig,
    Config,
    InputError,
    Row,
    Study,
    from_dict,
    recipe_config,
    require,
    to_dict,
    with_overrides,
)
from simsiam_jax.data.datasets import DATASETS, dataset_info, dataset_title, pretraining_source
from simsiam_jax.data.feed import FEEDS
from simsiam_jax.models.registry import BACKBONES, backbone_fields

# The flags below belong to the launcher that asks for them, which lets --help list them.
flags.disclaim_key_flags()

# Size and length for a launcher that has no better ones for its data; `paper` changes nothing.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "smoke": {
        "width": 0.125,
        "projector_dim": 64,
        "predictor_dim": 16,
        "pretrain_images": 256,
        "noise_images": 128,
        "epochs": 2,
        "warmup_epochs": 0.5,
        "knn_every": 1,
        "micro_batch_size": 32,
        "accumulation": 1,
        "labels_per_class": 5,
        "validation_images": 100,
        "finetune_epochs": 2,
        "seeds": 1,
    },
    "small": {
        "width": 0.25,
        "epochs": 30,
        "warmup_epochs": 2.0,
        "accumulation": 1,
        "learning_rate": 1e-3,
        "labels_per_class": 10,
        "validation_images": 1000,
        "finetune_epochs": 30,
        "seeds": 2,
    },
    "paper": {"seeds": 1},
}

# The three arms of Table 1.
TABLE1_ROWS: Mapping[str, Row] = {
    "none": Row("none", "no pretraining"),
    "random": Row("random_images", "random images"),
    "in_domain": Row("in_domain", "{dataset} images, no labels"),
}


def define_folder_flags(*, workdir: str | None, dataset: str | None) -> None:
    """Defines the flags of what is read and written by a launcher that trains."""
    flags.DEFINE_string("workdir", workdir, "Folder for results; run again with the same to go on.")
    flags.DEFINE_enum(
        "feed", "auto", FEEDS, "How training's images reach the device; auto: by size. Changes no result."
    )
    define_data_flags(dataset=dataset)


def define_data_flags(*, dataset: str | None) -> None:
    """Defines the flags that say which images, and where they are."""
    names = ", ".join(name for name, info in DATASETS.items() if info.num_classes)
    flags.DEFINE_string("data_dir", "~/tensorflow_datasets", "Folder of prepared data sets.")
    flags.DEFINE_string("manual_dir", None, "Folder with downloaded archives, for data that cannot be fetched.")
    flags.DEFINE_string("dataset", dataset, f"Data set: {names}, a variant (stl10:fold3), or folder:PATH.")
    flags.DEFINE_string(
        "labels", None, "Of a folder: a CSV file with labels by file name; none: ignore its subfolders."
    )
    flags.DEFINE_float("max_bad_images", None, "Of a folder: share of unreadable files, 0..1, that are skipped.")
    flags.DEFINE_integer("image_size", None, "Side of the views in pixels.")
    flags.DEFINE_integer("cached_size", None, "Side in pixels at which decoded images are kept, as central squares.")


def define_study_flags(*, experiment: str, dataset: str, preset: str) -> None:
    """Defines the flags of a launcher that pretrains."""
    define_folder_flags(workdir=f"runs/{experiment}", dataset=dataset)
    flags.DEFINE_string("preset", preset, "Size and length: smoke (seconds), small (minutes), paper.")
    flags.DEFINE_string("recipe", "paper", f"Method: {', '.join(RECIPES)}.")
    flags.DEFINE_integer("seeds", None, "Number of seeds; each is one more run of every arm.")
    define_network_flags()
    flags.DEFINE_float("drop_path", None, "Stochastic depth: probability of dropping the last block, 0..1.")
    flags.DEFINE_string("init", None, "Weights to start from: random, imagenet, a .safetensors or .pth file, hf:REPO.")
    flags.DEFINE_integer("epochs", None, "Epochs of pretraining.")
    flags.DEFINE_integer("micro_batch_size", None, "Images of a micro-batch, over which batch statistics are taken.")
    flags.DEFINE_integer("accumulation", None, "Micro-batches of an update.")
    flags.DEFINE_integer("knn_every", None, "Epochs from one kNN measurement during pretraining to the next.")
    flags.DEFINE_float("learning_rate", None, "Peak learning rate of pretraining (not scaled by the batch).")
    flags.DEFINE_float("warmup_epochs", None, "Epochs over which the learning rate of pretraining rises.")
    flags.DEFINE_string("pretrain_dataset", None, "Pretrain on the images of another data set, such as folder:PATH.")
    flags.DEFINE_string("pretrain_split", None, "Which of its images: train, unlabelled or train+unlabelled.")
    flags.DEFINE_integer("pretrain_images", None, "Pretrain on at most so many images.")
    flags.DEFINE_integer("noise_images", None, "Number of random images in the arm that pretrains on noise.")
    flags.DEFINE_integer("noise_size", None, "Their side in pixels; the data set's own by default, 224 in the paper.")
    flags.DEFINE_string("projector_output_norm", None, "Batch norm on the projector's output: none, plain, affine.")
    flags.DEFINE_string("dtype", None, "Compute type: float32 or bfloat16.")
    define_evaluation_flags()


def define_network_flags() -> None:
    """Defines the flags that say which network it is."""
    flags.DEFINE_string("backbone", None, f"Backbone: {', '.join(BACKBONES)}.")
    flags.DEFINE_string("stem", None, "First layers of a convolutional backbone: imagenet, paper32, cifar.")
    flags.DEFINE_float("width", None, "Channels of the backbone as a multiple of the published network's.")
    flags.DEFINE_integer("patch_size", None, "Patches of a vision transformer: their side in pixels.")


def define_evaluation_flags() -> None:
    """Defines the flags of the evaluations."""
    flags.DEFINE_integer("labels_per_class", None, "Labelled images of each class that evaluations learn from.")
    flags.DEFINE_float("threshold", None, "Probability, 0..1, from which on a binary attribute is predicted.")
    flags.DEFINE_integer("validation_images", None, "Validate on at most so many images.")
    flags.DEFINE_integer("finetune_epochs", None, "Epochs of fine-tuning.")
    flags.DEFINE_integer("finetune_batch_size", None, "Images of an update of fine-tuning.")


def given(names: Iterable[str]) -> dict[str, Any]:
    """The values of those flags, of `names`, that were given."""
    return {
        name: flags.FLAGS[name].value for name in names if name in flags.FLAGS and flags.FLAGS[name].value is not None
    }


def config_from_flags(presets: Mapping[str, Mapping[str, Any]]) -> tuple[Config, tuple[int, ...]]:
    """Recipe, then preset, then flags: the whole configuration, and the seeds.

    Raises:
      InputError: For an unknown name or an impossible number.
    """
    values = flags.FLAGS
    info = dataset_info(values.dataset, labels_flag())
    other = values.pretrain_dataset
    source = info if other is None else pretraining_source(other)
    require(values.preset in presets, f"--preset={values.preset}: unknown preset; known: {', '.join(presets)}")
    settings = {"image_size": info.image_size, **presets[values.preset], **given(("image_size", "seeds"))}
    image_size, seeds = settings.pop("image_size"), settings.pop("seeds")
    config = recipe_config(
        values.recipe,
        dataset=info.name,
        image_size=image_size,
        view_changes=source.views,
        finetune_view_changes=info.finetune_views,
    )
    pretrain = dataclasses.replace(
        config.pretrain,
        dataset=None if other is None else source.name,
        split=source.pretrain_splits.get(values.recipe, "train"),
    )
    config = dataclasses.replace(config, labels=labels_flag(), pretrain=pretrain)
    config = with_overrides(config, {**settings, **given(OVERRIDES)})
    return dataclasses.replace(config, backbone=fitted(config.backbone)), tuple(range(seeds))


def labels_flag() -> str | None:
    """The flag --labels, a file's path made absolute."""
    labels = flags.FLAGS.labels
    return labels if labels in (None, "none") else str(Path(labels).expanduser().absolute())


def fitted(backbone: BackboneConfig) -> BackboneConfig:
    """The backbone without the settings of a recipe or preset that it does not have.

    Raises:
      InputError: If one of them was given as a flag, or the name is unknown.
    """
    known = backbone_fields(backbone.name)
    absent = [name for name in backbone.fields() if name not in known]
    for flag, value in given(absent).items():
        raise InputError(f"--{flag}={value}: --backbone={backbone.name} has no {flag}; leave the flag out")
    return dataclasses.replace(backbone, **dict.fromkeys(absent))


def run_table(
    rows: Mapping[str, Row],
    *,
    experiment: str,
    title: str,
    question: str,
    dataset: str,
    preset: str = "small",
    presets: Mapping[str, Mapping[str, Any]] = PRESETS,
    evals: tuple[str, ...] = EVALS,
    paper_source: str | None = None,
) -> None:
    """Runs a launcher: its flags, the study of its rows, the report and the table. Does not return.

    Args:
      rows: The table's rows, the reference first.
      experiment: Name of the launcher's module in `experiments`.
      title: Of the report; `{dataset}` stands for the data set's name.
      question: That the report answers, likewise.
      dataset: The default data set.
      preset: The default preset.
      presets: Size and length by name; settings as in `config.OVERRIDES`, `image_size` and `seeds`.
      evals: The evaluations to run.
      paper_source: Where the rows' paper numbers come from.
    """
    define_study_flags(experiment=experiment, dataset=dataset, preset=preset)
    flags.DEFINE_list("arms", list(rows), "Rows of the table to run, comma-separated.")
    flags.DEFINE_list("evals", list(evals), f"Evaluations to run, of {', '.join(EVALS)}.")

    def main() -> None:
        values = flags.FLAGS
        config, seeds = config_from_flags(presets)
        for arm in values.arms:
            require(arm in rows, f"--arms: unknown arm {arm!r}; known: {', '.join(rows)}")
        require(bool(values.arms), f"--arms names no arm; known: {', '.join(rows)}")
        run_study(
            Study(
                experiment=experiment,
                title=title.format(dataset=dataset_title(config.dataset)),
                question=question.format(dataset=dataset_title(config.dataset)),
                rows={name: row for name, row in rows.items() if name in values.arms},
                config=config,
                seeds=seeds,
                evals=tuple(values.evals),
                **folders(),
                command=command(experiment),
                paper_source=paper_source,
            )
        )

    run(main)


def folders(workdir: str | None = None) -> dict[str, Any]:
    """The folders and the feed of a `Study` from their flags; `workdir` in place of its flag."""
    values = flags.FLAGS
    manual = values.manual_dir
    return {
        "workdir": Path(workdir or values.workdir).expanduser().absolute(),
        "data_dir": Path(values.data_dir).expanduser().absolute(),
        "manual_dir": Path(manual).expanduser().absolute() if manual else None,
        "feed": values.feed,
    }


def command(experiment: str) -> str:
    """The command line that repeats this run."""
    return shlex.join(["python", "-m", f"experiments.{experiment}", *sys.argv[1:]])


def run_study(study: Study, pretrained: Path | None = None) -> None:
    """Prints the settings, runs the study, writes its report and prints its table.

    Args:
      study: What to run.
      pretrained: A folder of a pretraining to evaluate, in place of pretraining.
    """
    show_config(study.config)
    from rich.console import Console

    from simsiam_jax import study as studies
    from simsiam_jax.report.page import write_report
    from simsiam_jax.report.results import read_experiment, read_results
    from simsiam_jax.report.tables import format_terminal, summarise

    if pretrained is None:
        studies.run(study)
    else:
        studies.run_evaluations(study, pretrained)
    report = write_report(study.workdir)
    if study.evals:
        Console().print(format_terminal(summarise(read_results(study.workdir), read_experiment(study.workdir))))
    print(f"results  {study.workdir / 'results.jsonl'}\nreport   {report}")


def show_config(config: Config) -> None:
    """Prints the resolved configuration, a line for each part."""
    plain = {name: value for name, value in to_dict(config).items() if not isinstance(value, dict)}
    parts = {name: value for name, value in to_dict(config).items() if isinstance(value, dict)}
    for name, values in {"config": plain, **parts}.items():
        print(f"{name:15}", *(f"{key}={_short(value)}" for key, value in values.items()))
    sys.stdout.flush()


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"({', '.join(f'{key}={_short(each)}' for key, each in value.items())})"
    if isinstance(value, list):
        return f"({', '.join(_short(each) for each in value)})"
    return f"{value:g}" if isinstance(value, float) else str(value)


def run(main: Callable[[], None]) -> None:
    """Runs a launcher's main function under absl; a mistake of the user's is one line and exit code 2."""

    def guarded(arguments: list[str]) -> None:
        try:
            require(len(arguments) == 1, f"unknown argument {' '.join(arguments[1:])!r}; all settings are flags")
            runtime.configure()
            main()
        except InputError as mistake:
            fail(str(mistake))
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
            sys.exit(130)

    app.run(guarded, flags_parser=_parse)


def _parse(arguments: list[str]) -> list[str]:
    if {"--help", "-help", "-h", "--helpshort"} & set(arguments[1:]):
        app.usage(shorthelp=True, writeto_stdout=True)
        sys.exit(0)
    # Orbax tells every step of every save; --verbosity=0 brings it back.
    logging.set_verbosity(logging.WARNING)
    try:
        return flags.FLAGS(arguments)
    except flags.Error as mistake:
        fail(str(mistake).replace("\n", " "))


def fail(message: str) -> NoReturn:
    """Prints `error: message` and exits with code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


@dataclass(frozen=True)
class Pretrained:
    """What a checkpoint's folder says of itself.

    Attributes:
      folder: Of the stage `pretrain`.
      config: With which it was pretrained.
      source: On what.
      seed: With which seed.
    """

    folder: Path
    config: Config
    source: str
    seed: int


def open_pretrained(folder: Path) -> Pretrained:
    """Reads the settings of a pretraining stage.

    Args:
      folder: WORKDIR/ARM/seed-K/pretrain.

    Raises:
      InputError: If it is no such folder.
    """
    path = folder / "config.json"
    require(
        path.is_file() and (folder / "checkpoints").is_dir(),
        f"--checkpoint={folder} is no folder of a pretraining; give WORKDIR/ARM/seed-K/pretrain",
    )
    try:
        values = json.loads(path.read_text())
        return Pretrained(folder, from_dict(Config, values["config"]), values["pretrain"], values["seed"])
    except (json.JSONDecodeError, KeyError, TypeError):
        raise InputError(f"{path} is damaged or of another program") from None


def check_same_network(pretrained: Pretrained) -> None:
    """Refuses flags that describe another network than the checkpoint's.

    Raises:
      InputError: Naming the first flag that does.
    """
    network = pretrained.config.backbone
    has = {
        "backbone": network.name,
        "stem": network.stem,
        "width": network.width,
        "patch_size": network.patch_size,
        "image_size": pretrained.config.image_size,
    }
    for flag, wanted in given(has).items():
        require(
            wanted == has[flag],
            f"--{flag}={wanted}: the checkpoint {pretrained.folder} was pretrained with {flag} {has[flag]}; "
            "leave the flag out",
        )


def on_dataset(config: Config, dataset: str, labels: str | None) -> Config:
    """The settings of a pretraining, with the evaluations moved to another data set, or to a folder's labels.

    Args:
      config: Of the pretraining.
      dataset: As --dataset takes it.
      labels: As --labels does.
    """
    info = dataset_info(dataset, labels)
    moved = recipe_config(
        config.recipe, dataset=info.name, image_size=config.image_size, finetune_view_changes=info.finetune_views
    )
    pretrain = dataclasses.replace(config.pretrain, dataset=config.pretrain.dataset or config.dataset)
    return dataclasses.replace(
        config, dataset=info.name, labels=labels, pretrain=pretrain, finetune_views=moved.finetune_views
    )
