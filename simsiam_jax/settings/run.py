"""How a launcher runs: the flags that are no part of a run's `Config`."""

from dataclasses import dataclass
from typing import Literal

from simsiam_jax.settings.declare import Settings, setting


@dataclass(frozen=True)
class RunConfig(Settings):
    """How a launcher runs: what it takes, where it reads and writes. Two runs that differ here give equal numbers."""

    recipe: str = setting("paper", "Method: a complete set of settings, paper, code, reference or practice.", "method")
    preset: str = setting("small", "Size and length: smoke (seconds), small (minutes), full (for a GPU).", "size")
    seeds: str | None = setting(
        None, "Number of seeds, each one more run of every arm; or auto: as many as the answer takes.", "size"
    )
    looks: tuple[float, ...] = setting(
        (3, 5, 8, 12), "Numbers of seeds after which --seeds=auto may stop.", "size", low=1, high=1000
    )
    smallest_effect: float = setting(
        1.0, "Difference in points below which an effect does not matter; 0 for none.", "evaluation", low=0, high=100
    )
    budget: str | None = setting(None, "Time after which --seeds=auto begins nothing new, as 2h, 90m or 1h30m.", "size")
    first_seed: int = setting(
        0, "The first seed, which the others follow. Settings are chosen with seeds from 100 on.", "size", low=0,
        high=10**6,
    )  # fmt: skip
    arms: tuple[str, ...] = setting((), "Arms of the table to run, comma-separated.", "method")
    evals: tuple[str, ...] = setting((), "Evaluations to run, comma-separated: knn, linear, finetune.", "evaluation")
    imagenet_weights: str | None = setting(None, "Folder with BACKBONE*.safetensors, in place of downloads.", "data")
    checkpoint: tuple[str, ...] = setting(
        (), "Folder of a trained stage: WORKDIR/ARM/seed-K/pretrain (or finetune); evaluate takes several.", "data"
    )
    baseline: bool = setting(
        True, "Whether the untrained network is measured beside the checkpoints; --nobaseline leaves it out.",
        "evaluation",
    )  # fmt: skip
    data_dir: str = setting("~/tensorflow_datasets", "Folder of prepared data sets.", "data")
    cache_limit: float = setting(
        50.0, "Gigabytes of decoded images that earlier runs may leave in --data_dir; those used longest ago go first.",
        "data", low=0, high=10**6,
    )  # fmt: skip
    manual_dir: str | None = setting(None, "Folder with downloaded archives, for data that cannot be fetched.", "data")
    feed: Literal["auto", "resident", "streamed"] = setting(
        "auto", "How training's images reach the device, auto by their size; changes no result.", "data"
    )
    accumulate_by: Literal["auto", "one_pass", "scan", "loop", "multi_steps"] = setting(
        "auto", "How the micro-batches of an update pass: at once, as many as have room (scan), or one a call (loop, "
        "multi_steps); changes results by rounding.", "size",
    )  # fmt: skip
    coordinator: str | None = setting(
        None, "Address HOST:PORT of process 0 of a run on several hosts; auto takes what Slurm, Open MPI or Kubernetes "
        "set.", "hosts",
    )  # fmt: skip
    num_processes: int | None = setting(None, "Number of processes of the run.", "hosts", low=1, high=10**4)
    process_id: int | None = setting(None, "Number of this process, from 0 on.", "hosts", low=0, high=10**4)
    workdir: str | None = setting(None, "Folder for results; run again with the same to go on.", "output")
    keep: Literal["all", "last", "none"] = setting(
        "all", "Checkpoints that stay when a unit has ended: the last two of each stage, the last, or none.", "output"
    )
    list: bool = setting(False, "List what lies decoded in --data_dir, and do nothing else.", "output")
    clean: bool = setting(False, "Remove what lies decoded in --data_dir: of FOLDER, or all of it.", "output")
    out: str | None = setting(None, "Where to write what is made.", "output")
    report: bool = setting(True, "Whether a run ends with its report; `simsiam report` makes one later.", "output")
    show_config: bool = setting(False, "Print every setting of every arm as JSON, and do nothing.", "output")
    dry_run: bool = setting(False, "Print the units, their updates and an estimate of their time, and stop.", "output")
