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
from simsiam_jax.data.datasets import DATASETS, dataset_info, dataset_title, pretraining_source
from simsiam_jax.data.feed import FEEDS
from simsiam_jax.errors import InputError, require
from simsiam_jax.models.registry import BACKBONES, backbone_fields
from simsiam_jax.settings.schema import (
    EVALS,
    OVERRIDES,
    RECIPES,
    BackboneConfig,
    Config,
    Layout,
    Row,
    Study,
    recipe_config,
    with_overrides,
)
from simsiam_jax.settings.values import differences, from_dict, to_dict

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


def backbone_rows(
    backbones: Mapping[str, str],
    paper: Mapping[tuple[str, str], Mapping[str, float]],
    in_domain: Mapping[str, Any] | None = None,
) -> dict[str, Row]:
    """The arms of Tables 2 and 3: each backbone, a group of its own, without, with in-domain and with ImageNet's start.

    Args:
      backbones: Their titles by name.
      paper: The paper's numbers by backbone and pretraining (`none`, `in_domain`, `imagenet`), as `Row` takes them.
      in_domain: Further settings of the arms that are pretrained.
    """
    pretrainings = {
        "none": ("none", "no pretraining", {}),
        "in_domain": ("in_domain", "{dataset}, no labels", in_domain or {}),
        "imagenet": ("none", "ImageNet, with labels", {"init": "imagenet"}),
    }
    return {
        f"{backbone}-{name}": Row(
            pretrain, label, paper[backbone, name], {"backbone": backbone, **settings}, group=title
        )
        for backbone, title in backbones.items()
        for name, (pretrain, label, settings) in pretrainings.items()
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
    flags.DEFINE_boolean("show_config", False, "Print every setting of every arm as JSON, and do nothing.")
    flags.DEFINE_integer("seeds", None, "Number of seeds; each is one more run of every arm.")
    define_network_flags()
    flags.DEFINE_float("drop_path", None, "Stochastic depth: probability of dropping the last block, 0..1.")
    flags.DEFINE_string("init", None, "Weights to start from: random, imagenet, a .safetensors or .pth file, hf:REPO.")
    define_method_flags()
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
    flags.DEFINE_string("noise_distribution", None, "Of their pixels: uniform (the paper's code) or gaussian.")
    flags.DEFINE_string("dtype", None, "Compute type: float32 or bfloat16.")
    define_evaluation_flags()


def define_method_flags() -> None:
    """Defines the flags in which recipes differ, and those that take away a part of SimSiam."""
    flags.DEFINE_integer("projector_dim", None, "Units of the projector: 1024 (the paper's code) or 2048 (SimSiam).")
    flags.DEFINE_integer("projector_layers", None, "Fully connected layers of the projector.")
    flags.DEFINE_string("projector_output_norm", None, "Batch norm on the projector's output: none, plain, affine.")
    flags.DEFINE_integer(
        "predictor_dim", None, "Hidden units of the predictor: 256 (the paper's code) or 512 (SimSiam)."
    )
    flags.DEFINE_string("predictor_output_norm", None, "Batch norm on the predictor's output: none, plain, affine.")
    flags.DEFINE_boolean("predictor", None, "Whether there is a predictor.")
    flags.DEFINE_boolean("hidden_norm", None, "Whether the heads' hidden layers have batch norm.")
    flags.DEFINE_boolean("stop_gradient", None, "Whether the gradient is stopped at z.")
    flags.DEFINE_boolean(
        "symmetric", None, "Whether each view is predicted from the other, or the second from the first."
    )
    flags.DEFINE_boolean("constant_predictor", None, "Whether the predictor's learning rate stays at its peak.")
    flags.DEFINE_string("optimizer", None, "Optimiser of pretraining: adam or sgd.")
    flags.DEFINE_string("scaling_batch", None, "Batch that scales the recipe's learning rate: effective or micro.")
    flags.DEFINE_float("weight_decay", None, "Coupled weight decay of pretraining.")
    flags.DEFINE_list("crop_scale", None, "Smallest and largest share of the image that a view shows, as 0.2,1.")
    for name, what in (
        ("flip", "mirroring"),
        ("jitter", "colour jitter"),
        ("greyscale", "no colour"),
        ("blur", "blur"),
    ):
        flags.DEFINE_float(f"{name}_probability", None, f"Probability of {what} in a view, 0..1.")


def define_network_flags() -> None:
    """Defines the flags that say which network it is."""
    flags.DEFINE_string("backbone", None, f"Backbone: {', '.join(BACKBONES)}.")
    flags.DEFINE_string("stem", None, "First layers of a convolutional backbone: imagenet, paper32, cifar.")
    flags.DEFINE_float("width", None, "Channels of the backbone as a multiple of the published network's.")
    flags.DEFINE_integer("patch_size", None, "Patches of a vision transformer: their side in pixels.")


def define_evaluation_flags() -> None:
    """Defines the flags of the evaluations."""
    flags.DEFINE_integer("labels_per_class", None, "Labelled images of each class that evaluations learn from.")
    flags.DEFINE_float("label_fraction", None, "The same as a share of all labelled images, 0..1.")
    flags.DEFINE_float("threshold", None, "Probability, 0..1, from which on a binary attribute is predicted.")
    flags.DEFINE_integer("validation_images", None, "Validate on at most so many images.")
    flags.DEFINE_integer("finetune_epochs", None, "Epochs of fine-tuning.")
    flags.DEFINE_integer("finetune_updates", None, "End fine-tuning after the epoch that reaches so many updates.")
    flags.DEFINE_integer("finetune_batch_size", None, "Images of an update of fine-tuning.")
    flags.DEFINE_string("finetune_optimizer", None, "Optimiser of fine-tuning: adam or sgd.")
    flags.DEFINE_float("finetune_learning_rate", None, "Its learning rate.")
    flags.DEFINE_float("finetune_weight_decay", None, "Its coupled weight decay.")
    flags.DEFINE_string("finetune_schedule", None, "Its learning rate's course: constant or cosine.")
    flags.DEFINE_list("finetune_crop_scale", None, "As --crop_scale, when fine-tuning.")
    flags.DEFINE_float("finetune_flip_probability", None, "Probability of mirroring when fine-tuning, 0..1.")


def given(names: Iterable[str]) -> dict[str, Any]:
    """The values of those flags, of `names`, that were given."""
    found = {
        name: flags.FLAGS[name].value for name in names if name in flags.FLAGS and flags.FLAGS[name].value is not None
    }
    return {name: _range(name, value) if isinstance(value, list) else value for name, value in found.items()}


def _range(flag: str, words: list[str]) -> tuple[float, float]:
    try:
        low, high = map(float, words)
    except ValueError:
        raise InputError(f"--{flag}={','.join(words)}: give two numbers, as in --{flag}=0.2,1") from None
    return low, high


def config_from_flags(
    presets: Mapping[str, Mapping[str, Any]], fit_backbone: bool = True
) -> tuple[Config, tuple[int, ...]]:
    """Recipe, then preset, then flags: the whole configuration, and the seeds.

    Args:
      presets: Size and length by name.
      fit_backbone: Whether to drop the settings that the backbone does not have; False where each arm has its own.

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
    if fit_backbone:
        config = dataclasses.replace(config, backbone=fitted(config.backbone))
    return config, tuple(range(seeds))


def arm_configs(rows: Mapping[str, Row], config: Config) -> dict[str, Config]:
    """The settings of each arm: the run's, with the row's own laid over them.

    Raises:
      InputError: For a flag that the rows decide, or that no arm's backbone has.
    """
    decided = {name for row in rows.values() for name in row.settings}
    for flag, value in given(sorted(decided)).items():
        raise InputError(f"--{flag}={value}: the arms of this table differ in it; choose among them with --arms")
    found = {name: with_overrides(config, _settings(row)) for name, row in rows.items()}
    networks = {arm.backbone.name for arm in found.values()}
    if len(networks) > 1:
        # A flag that only some of the networks have is theirs alone.
        known = {field for name in networks for field in backbone_fields(name)}
        for flag, value in given(set(config.backbone.fields()) - known).items():
            raise InputError(f"--{flag}={value}: none of the backbones here has a {flag}; leave the flag out")
        fit = _without_absent
    else:
        fit = fitted
    return {name: dataclasses.replace(arm, backbone=fit(arm.backbone)) for name, arm in found.items()}


def _settings(row: Row) -> dict[str, Any]:
    """A row's settings; `imagenet` becomes the file for its backbone where --imagenet_weights names a folder."""
    folder = given(["imagenet_weights"]).get("imagenet_weights")
    settings = dict(row.settings)
    if folder is None or settings.get("init") != "imagenet":
        return settings
    name = settings.get("backbone", "resnet18")
    files = [path for ending in ("safetensors", "pth", "bin") for path in Path(folder).glob(f"{name}*.{ending}")]
    if files:
        settings["init"] = str(min(files).expanduser().absolute())
    else:
        logging.warning("--imagenet_weights=%s holds no %s*.safetensors or .pth", folder, name)
    return settings


def _without_absent(backbone: BackboneConfig) -> BackboneConfig:
    known = backbone_fields(backbone.name)
    return dataclasses.replace(backbone, **{name: None for name in backbone.fields() if name not in known})


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
    for flag, value in given(name for name in backbone.fields() if name not in known).items():
        raise InputError(f"--{flag}={value}: --backbone={backbone.name} has no {flag}; leave the flag out")
    return _without_absent(backbone)


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
    layout: Layout | None = None,
    tested: bool = True,
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
      layout: The table in the paper's form.
      tested: Whether evaluations read the test images.
    """
    define_study_flags(experiment=experiment, dataset=dataset, preset=preset)
    flags.DEFINE_list("arms", list(rows), "Rows of the table to run, comma-separated.")
    flags.DEFINE_list("evals", list(evals), f"Evaluations to run, of {', '.join(EVALS)}.")
    flags.DEFINE_string("units", "1/1", "Of several processes that share --workdir, this is the i-th of n: i/n.")
    flags.DEFINE_boolean("dry_run", False, "Print the units, their updates and an estimate of their time, and stop.")
    if any(row.settings.get("init") == "imagenet" for row in rows.values()):
        flags.DEFINE_string(
            "imagenet_weights", None, "Folder with BACKBONE*.safetensors or .pth, in place of downloads."
        )

    def main() -> None:
        values = flags.FLAGS
        config, seeds = config_from_flags(presets, fit_backbone=False)
        for arm in values.arms:
            require(arm in rows, f"--arms: unknown arm {arm!r}; known: {', '.join(rows)}")
        require(bool(values.arms), f"--arms names no arm; known: {', '.join(rows)}")
        chosen = {name: row for name, row in rows.items() if name in values.arms}
        configs = arm_configs(chosen, config)
        if len({arm.backbone.name for arm in configs.values()}) == 1:
            config = dataclasses.replace(config, backbone=_without_absent(config.backbone))
        study = Study(
            experiment=experiment,
            title=title.format(dataset=dataset_title(config.dataset)),
            question=question.format(dataset=dataset_title(config.dataset)),
            rows=chosen,
            config=config,
            seeds=seeds,
            evals=tuple(values.evals),
            **folders(),
            command=command(experiment),
            paper_source=paper_source,
            configs={name: arm for name, arm in configs.items() if arm != config},
            part=_part(values.units),
            layout=layout,
            tested=tested,
        )
        if values.dry_run:
            from simsiam_jax.study.estimate import print_estimate

            print_estimate(study)
        else:
            run_study(study)

    run(main)


def _part(words: str) -> tuple[int, int]:
    number, _, count = words.partition("/")
    valid = number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)
    require(valid, f"--units={words}: give i/n, this process's number and their count, as in --units=1/2")
    return int(number), int(count)


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

    Exits with code 1 if a unit has failed.
    """
    if given(["show_config"]).get("show_config"):
        print(json.dumps({arm: to_dict(study.config_of(arm)) for arm in study.rows}, indent=1))
        return
    show_config(study.config)
    for arm, config in study.configs.items():
        print(f"{arm:15}", *(f"{change};" for change in differences(to_dict(study.config), to_dict(config))))
    from rich.console import Console

    from simsiam_jax.records.experiment import read_experiment
    from simsiam_jax.records.results import RESULTS_FILE, gather_results, read_results
    from simsiam_jax.report.page import write_report
    from simsiam_jax.report.render import format_terminal
    from simsiam_jax.report.summary import summarise
    from simsiam_jax.study import run as studies

    failures = ()
    if pretrained is None:
        failures = studies.run(study)
    else:
        studies.run_evaluations(study, pretrained)
    gather_results(study.workdir)
    report = write_report(study.workdir)
    if study.evals:
        Console().print(format_terminal(summarise(read_results(study.workdir), read_experiment(study.workdir))))
    print(f"results  {study.workdir / RESULTS_FILE}\nreport   {report}")
    for failure in failures:
        print(f"failed   {failure}", file=sys.stderr)
    if failures:
        sys.exit(1)


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
