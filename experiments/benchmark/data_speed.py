"""How fast data is prepared and reaches the device, and how long a training step waits for it.

Random images of CIFAR-10's size, which PNG cannot compress, are prepared: first TFDS's records, then the cache. Random
images of 96×96 are streamed from the cache, without training and with SimSiam steps of ResNet-18.

Command: python -m experiments.benchmark.data_speed --workdir=experiments/results/data_speed
Cost: about 2 minutes on two cores.
"""

import dataclasses
import shutil
import tempfile
import time
from pathlib import Path

import jax

from experiments.benchmark.ours import CompiledNetwork
from simsiam_jax.cli.flags import define, value
from simsiam_jax.cli.guard import run
from simsiam_jax.data.cache import ImageSplit
from simsiam_jax.data.splits import load_split
from simsiam_jax.files import write_json
from simsiam_jax.models import without_absent_fields
from simsiam_jax.records.environment import environment
from simsiam_jax.settings.recipes import recipe_config
from simsiam_jax.settings.schema import NoiseConfig
from simsiam_jax.train.devices import on_every_device, streamed
from simsiam_jax.train.epochs import compile_step
from simsiam_jax.train.loop import make_plan
from simsiam_jax.train.steps import Hyper, micro_step

PREPARED, STREAMED, STEPS, BATCH = 50_000, 20_000, 30, 64


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        noise, seconds = NoiseConfig(count=PREPARED, size=32), []
        for _ in range(2):  # The second time TFDS's records are there, and only the cache is made.
            shutil.rmtree(Path(scratch, "decoded"), ignore_errors=True)
            begun = time.monotonic()
            load_split("random_images", "train", data_dir=scratch, noise=noise)
            seconds.append(time.monotonic() - begun)
        split = load_split("random_images", "train", data_dir=scratch, noise=NoiseConfig(count=STREAMED, size=96))
        alone, pairs, idle = time_feed(split)

    rates = {"prepared": PREPARED / (seconds[0] - seconds[1]), "cached": PREPARED / seconds[1], "streamed": alone}
    speed = {f"{name}_per_second": rate for name, rate in rates.items()} | {"pairs_per_second": pairs, "idle": idle}
    print(*(f"{name:20} {number:,.4g}" for name, number in speed.items()), sep="\n")
    path = Path(value("workdir")).expanduser().absolute() / "speed.json"
    write_json(path, {**speed, **environment()})
    print(f"result  {path}")


def time_feed(split: ImageSplit) -> tuple[float, float, float]:
    """Streams a split, without training and with it.

    Args:
      split: At least `BATCH` × (`STEPS` + 1) images.

    Returns:
      Images a second streamed without training, pairs a second trained on, and the share of training spent waiting.
    """
    config = recipe_config("paper", dataset="stl10", image_size=96)
    backbone = without_absent_fields(config.program.backbone)
    network = CompiledNetwork(dataclasses.replace(config.program, backbone=backbone))
    compiled = compile_step(micro_step(network.pretraining))
    plan = make_plan(len(split), schedule=config.pretrain.schedule, micro_batch_size=BATCH, epochs=1, seed=0)
    indices, hypers = plan.epoch(0)
    rows = indices[:, 0]
    begun = time.monotonic()
    for batch in streamed(split, rows):
        jax.block_until_ready(batch)
    alone = rows.size / (time.monotonic() - begun)
    state, waited, batches = network.pretrain_state(0), 0.0, streamed(split, rows[: STEPS + 1])
    for number in range(STEPS + 1):
        if number == 1:  # The first step's time is the compiler's.
            begun, waited = time.monotonic(), 0.0
        asked = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - asked
        state, metrics = compiled(on_every_device(state), batch, Hyper(*(values[number] for values in hypers)))
        jax.block_until_ready(metrics)
    seconds = time.monotonic() - begun
    return alone, STEPS * BATCH / seconds, waited / seconds


if __name__ == "__main__":
    define(["workdir"], workdir="runs/data_speed")
    run(main)
