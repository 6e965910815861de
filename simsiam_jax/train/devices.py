"""What lies on which device: the state on all, a batch shared out, and a split's batches by one of two feeds.

Both feeds give the same batches, laid out alike, to the same compiled step: which one serves changes no bit.
"""

import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from einops import rearrange
from jaxtyping import Int

from simsiam_jax.data.feed import Batch, choose_feed, gather, host_memory, read_ahead
from simsiam_jax.errors import InputError

AXIS = "device"

# Calls that may be under way before the host waits for one: enough to keep the devices busy, few enough that the
# progress line tells the truth.
_CALLS_IN_FLIGHT = 2

# On a CPU every call under way has its temporaries already. Where a call takes longer than this, in seconds, the host
# waits for it: the milliseconds that it takes to make the next are not worth several times the memory.
_LONG_CALL = 0.1

# feed(split, chunks of indices [..., batch]) gives for each chunk a `Batch` of arrays [devices, ..., local batch, ...].
Feed = Callable[[Any, Iterable[Int[np.ndarray, "..."]]], Iterator[Batch]]


def on_every_device(tree: Any) -> Any:
    """The tree on all local devices, laid out as compiled functions return a state.

    A function is compiled for each layout that it is given: a state fresh from the host would cost a second
    compilation at the second step. Buffers may be shared with the tree given.
    """
    return jax.device_put(tree, jax.sharding.NamedSharding(_local_mesh(), jax.sharding.PartitionSpec()))


def on_each_device(
    function: Callable[..., Any], *, in_axes: Any, out_axes: Any = 0, donate: tuple[int, ...] = (), devices: Any = None
) -> Any:
    """`function` compiled for all devices (or these), each with its share: the only `pmap` of the package.

    The state stays unreplicated (axes of None): gradients and batch statistics are averaged over the axis, so that
    every device computes the same new state, and one copy of it comes back.

    Args:
      function: Pure function of one device's share, with `AXIS` as the name of the devices' axis.
      in_axes: For each argument 0 where its leading axis is that of the devices, None where all see the same.
      out_axes: The same of the results.
      donate: Positions of the arguments whose memory is given up.
      devices: The devices; None means those of all processes, each of which gives and gets what its own have.
    """
    return jax.pmap(
        function, axis_name=AXIS, in_axes=in_axes, out_axes=out_axes, donate_argnums=donate, devices=devices
    )


def shared_out(batch: Batch) -> Batch:
    """A batch of arrays [local devices, ...] with each device's share on it."""
    return jax.device_put(batch, jax.sharding.NamedSharding(_local_mesh(), jax.sharding.PartitionSpec(AXIS)))


def _local_mesh() -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))


def rows_here(
    rows: Int[np.ndarray, "*steps batch"], *, process: int, processes: int, devices: int
) -> Int[np.ndarray, "devices *steps local"]:
    """The share of a micro-batch that the devices of one process see; each host reads no other images.

    Args:
      rows: Indices of micro-batches over all processes.
      process: Number of the process, 0..processes-1.
      processes: Number of processes, with the same number of devices each.
      devices: Number of devices of one process.
    """
    shares = rearrange(
        rows, "... (process device local) -> process device ... local", process=processes, device=devices
    )
    return shares[process]


def _rows_here(
    rows: Int[np.ndarray, "*steps batch"], *, alone: bool = False
) -> Int[np.ndarray, "devices *steps local"]:
    process, processes = (0, 1) if alone else (jax.process_index(), jax.process_count())
    return rows_here(rows, process=process, processes=processes, devices=jax.local_device_count())


def streamed(split: Any, chunks: Iterable[Int[np.ndarray, "..."]], *, alone: bool = False) -> Iterator[Batch]:
    """A feed that reads a split's images as they are needed, two chunks ahead of the devices.

    Of a memory-mapped split only the chunks under way are in this process's memory, whatever its size.

    Args:
      split: An `ImageSplit`.
      chunks: Indices of its images.
      alone: Whether this process takes all of each chunk, as where it works without the others.
    """
    return read_ahead(lambda rows: shared_out(gather(split, _rows_here(rows, alone=alone))), chunks)


class Resident:
    """A feed that holds a whole split on every device and sends indices; it keeps the last split that it was given."""

    def __init__(self) -> None:
        self._split: Any = None
        self._on_devices: Batch | None = None
        self._take: Any = None

    def __call__(self, split: Any, chunks: Iterable[Int[np.ndarray, "..."]]) -> Iterator[Batch]:
        if split is not self._split:
            # Let go first: there may be room for one only.
            self._split = self._on_devices = None
            self._on_devices = on_every_device(Batch(split.images, split.labels, split.sample_ids))
            self._split = split
        if self._take is None:
            take = functools.partial(on_each_device, in_axes=(None, 0), devices=jax.local_devices())
            self._take = take(lambda whole, rows: Batch(*(part[rows] for part in whole)))
        for rows in chunks:
            yield self._take(self._on_devices, _rows_here(rows))


def feed_chooser(wanted: str) -> Callable[[Any], Feed]:
    """A function from a split to its feed: the one wanted, or for `auto` by the split's size and the device's memory.

    Raises:
      InputError: If there is no such feed; not before the first split.
    """
    resident = Resident()

    def choose(split: Any) -> Feed:
        feed = choose_feed(wanted, split.images.nbytes, device_memory())
        return resident if feed == "resident" else streamed

    return choose


def device_memory() -> int:
    """Bytes of memory that each local device has; CPU devices share what the host has."""
    devices = jax.local_devices()
    statistics = devices[0].memory_stats()
    if devices[0].platform != "cpu" and statistics and "bytes_limit" in statistics:
        return statistics["bytes_limit"]
    return host_memory() // len(devices)


def memory_in_use() -> int:
    """Bytes in use of one local device's memory; 0 where the device does not count them, as on a CPU."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_in_use", 0)


def check_divisible(micro_batch_size: int, flag: str) -> None:
    """Raises an InputError unless all devices can share a micro-batch evenly."""
    devices = jax.device_count()
    if micro_batch_size % devices:
        raise InputError(f"{flag}={micro_batch_size} must be a multiple of the {devices} devices")


class UnderWay:
    """The calls whose results are still being computed.

    Args:
      frugal: Whether the host waits for a call that takes long, so that there are temporaries of one alone.
    """

    def __init__(self, frugal: bool):
        self._frugal = frugal
        self._waiting: deque[Any] = deque()
        self._last, self._most = time.monotonic(), 0 if frugal else _CALLS_IN_FLIGHT

    def add(self, results: Any) -> list[Any]:
        """Takes in a call's results, and gives those that had to be waited for, the oldest first."""
        self._waiting.append(results)
        done = []
        while len(self._waiting) > self._most:
            done.append(self._oldest())
        return done

    def rest(self) -> list[Any]:
        """Waits for all that are left."""
        return [self._oldest() for _ in range(len(self._waiting))]

    def _oldest(self) -> Any:
        results = jax.block_until_ready(self._waiting.popleft())
        now = time.monotonic()
        self._most = 0 if self._frugal and now - self._last > _LONG_CALL else _CALLS_IN_FLIGHT
        self._last = now
        return results
