"""The feeds: the same batches in the same order from either, read ahead but never by more than was asked for."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from simsiam_jax.data.cache import FORMAT, ImageSplit
from simsiam_jax.data.checksums import of_files
from simsiam_jax.data.feed import choose_feed, gather, host_memory, read_ahead
from simsiam_jax.errors import InputError
from simsiam_jax.files import write_sealed
from simsiam_jax.train.devices import Resident, rows_here, streamed
from simsiam_jax.train.epochs import _calls_of_many
from tests.support.launchers import PATIENCE, free_address

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def split():
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 4, 3), np.uint8)
    ids = np.arange(40, dtype=np.int32)
    return ImageSplit(images, ids % 3, ids + 100, "test")


@pytest.mark.parametrize("shape", [(3, 8), (3, 2, 8)])
def test_both_feeds_give_the_batches_of_the_indices_in_order(split, shape):
    chunks = np.random.default_rng(1).integers(0, 40, shape)
    for feed in (Resident(), streamed):
        got = jax.device_get(list(feed(split, iter(chunks))))
        assert len(got) == 3
        for batch, rows in zip(got, chunks, strict=True):
            # [2 devices, ..., 4] back to [..., 8]
            rejoined = [np.concatenate(list(part), axis=rows.ndim - 1) for part in batch]
            for part, expected in zip(rejoined, gather(split, rows), strict=True):
                np.testing.assert_array_equal(part, expected)


def test_the_resident_feed_lets_go_of_the_former_split(split):
    feed = Resident()
    rows = np.arange(8)[None]
    next(feed(split, rows))
    other = split.take(np.arange(20)[::-1])
    (batch,) = jax.device_get(list(feed(other, rows)))
    np.testing.assert_array_equal(np.concatenate(list(batch.images)), other.images[:8])
    assert feed._on_devices is not None
    assert feed._on_devices.images.shape[0] == 20


def test_processes_and_devices_share_a_micro_batch_without_overlap():
    rows = np.arange(24).reshape(2, 12)
    shares = [rows_here(rows, process=process, processes=3, devices=2) for process in range(3)]
    assert [share.shape for share in shares] == [(2, 2, 2)] * 3
    # Each micro-step's shares together are its rows, in order.
    for step in range(2):
        together = np.concatenate([share[device, step] for share in shares for device in range(2)])
        np.testing.assert_array_equal(together, rows[step])


def test_reading_ahead_keeps_the_order_and_is_bounded():
    asked = []

    def wanted():
        for number in range(20):
            asked.append(number)
            yield number

    results = read_ahead(lambda number: number**2, wanted(), ahead=3)
    assert next(results) == 0
    assert len(asked) == 4  # the first and three ahead
    assert list(results) == [number**2 for number in range(1, 20)]


def test_work_is_done_while_the_consumer_is_busy():
    started = threading.Event()

    def make(number):
        if number == 1:
            started.set()
        return number

    results = read_ahead(make, range(3))
    next(results)
    assert started.wait(timeout=PATIENCE)
    results.close()


def test_what_goes_wrong_while_reading_ahead_reaches_the_consumer():
    def make(number):
        if number == 2:
            raise OSError("gone")
        return number

    results = read_ahead(make, range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="gone"):
        next(results)
    assert not [each for each in threading.enumerate() if each.name.startswith("read-ahead")]


@pytest.mark.parametrize(
    ("wanted", "size", "feed"),
    [
        ("auto", 25, "resident"),
        ("auto", 26, "streamed"),
        ("resident", 1000, "resident"),
        ("streamed", 1, "streamed"),
    ],
)
def test_the_size_chooses_the_feed_unless_the_flag_does(wanted, size, feed):
    assert choose_feed(wanted, size, 100) == feed


def test_an_unknown_feed_names_the_flag():
    with pytest.raises(InputError, match=r"^--feed=disk: unknown feed; known: auto, resident, streamed$"):
        choose_feed("disk", 1, 1)


def test_a_container_has_the_memory_of_its_limit(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("simsiam_jax.data.feed._CGROUP_LIMIT", limit)
    machine = host_memory()
    assert machine == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit.write_text("1048576\n")
    assert host_memory() == 2**20
    limit.write_text("max\n")
    assert host_memory() == machine


@pytest.mark.parametrize(
    ("steps", "batch_bytes", "lengths"),
    [
        (781, 2**16, [781]),
        (1640, 2**21, [82] * 20),  # at most 128 a call: 13 at least, and 20 are of one length
        (1300, 2**10, [650, 650]),  # at most 1024
        (3, 2**30, [1, 1, 1]),  # never less than one
        (131, 2**21, [66, 65]),  # a prime
    ],
)
def test_scans_are_of_equal_length_where_that_is_cheap(steps, batch_bytes, lengths):
    calls = _calls_of_many(np.zeros((steps, 1, 1)), batch_bytes)
    assert [len(call.where) for call in calls] == lengths
    np.testing.assert_array_equal(np.concatenate([call.where for call in calls]), np.arange(steps))


_STREAM_UNDER_A_CAP = """
import resource, sys
import numpy as np, jax
from pathlib import Path
from simsiam_jax.data.cache import open_split
from simsiam_jax.data.feed import in_batches
from simsiam_jax.train.devices import Resident, streamed

split = open_split(Path(sys.argv[1]))
rows = in_batches(len(split), 256)
total = jax.jit(lambda batch: batch.images.astype("uint32").sum())
total(next(streamed(split, rows[:1])))  # compiled, and its threads started

def private():
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(fields["RssAnon"].split()[0])

before = private()
used = 1024 * int([line for line in open("/proc/self/status") if line.startswith("VmData")][0].split()[1])
cap = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (used + cap, used + cap))
peak = batches = 0
for batch in streamed(split, rows):
    batches += 1
    total(batch).block_until_ready()
    peak = max(peak, private() - before)
print(batches, peak)
try:
    whole = np.array(split.images)
except MemoryError:
    print("the cap holds")
"""


@pytest.mark.slow
def test_a_split_larger_than_the_memory_allowed_is_streamed(tmp_path):
    # 2 GiB of images under a cap of 512 MiB; the zeros lie on the disk as a hole, and are read all the same.
    count, shape = 2**31 // (96 * 96 * 3), (96, 96, 3)
    np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (count, *shape))
    np.save(tmp_path / "labels.npy", np.zeros(count, np.int32))
    np.save(tmp_path / "sample_ids.npy", np.arange(count, dtype=np.int32))
    sums = of_files(tmp_path, ["images.npy", "labels.npy", "sample_ids.npy"])
    write_sealed(tmp_path / "split.json", {"format": FORMAT, "fingerprint": "0123456789abcdef", "checksums": sums})
    run = subprocess.run(
        [sys.executable, "-c", _STREAM_UNDER_A_CAP, str(tmp_path), str(2**29)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    counts, verdict = run.stdout.splitlines()
    batches, peak = map(int, counts.split())
    assert batches == -(-count // 256)
    assert verdict == "the cap holds"
    # Five chunks of 256 images of 27 KiB, in two copies where the device takes its own.
    assert peak < 200 * 2**20


_EPOCH_ON_ONE_OF_SEVERAL_HOSTS = """
import sys
from types import SimpleNamespace
import jax, numpy as np
address, process, processes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if processes > 1:
    jax.distributed.initialize(address, processes, process)
from simsiam_jax.settings.schema import HeadConfig, MethodConfig, OptimizerConfig, ScheduleConfig, ViewSpec
from simsiam_jax.models import SimSiam, create_backbone
from simsiam_jax.train.devices import AXIS
from simsiam_jax.train.epochs import compile_update, epoch_runner
from simsiam_jax.train.loop import make_plan
from simsiam_jax.train.optimizer import create_optimizer
from simsiam_jax.train.state import create_state
from simsiam_jax.train.steps import pretraining

read = []

class Images(np.ndarray):
    def __getitem__(self, rows):
        if isinstance(rows, np.ndarray):
            read.extend(rows.ravel().tolist())
        return np.asarray(super().__getitem__(rows))

images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8).view(Images)
ids = np.arange(64, dtype=np.int32)
split = SimpleNamespace(images=images, labels=ids, sample_ids=ids)
backbone = create_backbone("resnet18", 16, width=0.0625, stem="cifar", axis_name=AXIS)
model = SimSiam(backbone, HeadConfig(projector_dim=16, predictor_dim=8), axis_name=AXIS)
optimizer = create_optimizer(OptimizerConfig(name="sgd"))
views = ViewSpec(16, blur_probability=0.0)
update = pretraining(model=model, optimizer=optimizer, views=views, method=MethodConfig())
image = np.zeros((1, 16, 16, 3), np.float32)
start = create_state(jax.jit(model.init)(jax.random.key(0), image, image), optimizer)
schedule = ScheduleConfig(learning_rate=0.01)
plan = make_plan(64, schedule=schedule, micro_batch_size=16, epochs=1, seed=0)
run = epoch_runner(compile_update(update, platform="cpu"), "streamed")
state, metrics, _ = run(start, split, *plan.epoch(0), lambda *_: None)
leaves = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(jax.device_get(state.params))]
np.savez(sys.argv[4], params=np.concatenate(leaves), loss=metrics["loss"], read=np.array(sorted(read)))
"""


# That two hosts train as one does is tested of whole studies in CI (study/test_hosts.py).
@pytest.mark.exhaustive
def test_two_hosts_read_half_the_images_each_and_train_as_one_does(tmp_path):
    address = free_address()

    def start(process, processes):
        flags = f"--xla_force_host_platform_device_count={4 // processes} --xla_backend_optimization_level=0"
        out = tmp_path / f"{process}-of-{processes}.npz"
        command = [sys.executable, "-c", _EPOCH_ON_ONE_OF_SEVERAL_HOSTS]
        return out, subprocess.Popen(
            [*command, address, str(process), str(processes), str(out)],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY), "XLA_FLAGS": flags},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def finished(*started):
        assert [process.wait(timeout=PATIENCE) for _, process in started] == [0] * len(started)
        return [np.load(out) for out, _ in started]

    (alone,) = finished(start(0, 1))
    first, second = finished(start(0, 2), start(1, 2))
    assert len(first["read"]) == len(second["read"]) == 32
    assert sorted([*first["read"], *second["read"]]) == alone["read"].tolist() == list(range(64))
    np.testing.assert_array_equal(first["params"], second["params"])
    # The sums over devices are taken in another order.
    np.testing.assert_allclose(first["loss"], alone["loss"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(first["params"], alone["params"], rtol=1e-3, atol=1e-5)
