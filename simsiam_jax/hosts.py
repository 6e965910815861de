"""Several processes, on one host or on many, as one run: process 0 leads, and the others train with it.

Process 0 runs the whole program: it alone decides, measures, reads the workdir and writes there. The others follow.
They hear from it what to train, get its state, and hear before each call of a compiled function whether it comes. So
all make the same calls in the same order, and a call that waits for the others never waits for one that does not come.

What is told goes through the key-value store of jax's coordination service, which process 0 runs. All that a process
hears of a peer's death is silence: a thread watches for it, and ends this process, which may hang in a call.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from simsiam_jax import stopping
from simsiam_jax.errors import InputError, require
from simsiam_jax.terminal import say

AUTO = "auto"

# Seconds in which all processes of a run must be there.
_TO_JOIN = 300
# Seconds of silence after which a process counts as gone, and between two signs of life.
_SILENCE, _BEAT = 20.0, 1.0
# Seconds in which a process that is told of the end must come to it by itself.
_TO_END = 10.0
# Seconds after which jax ends a process that has not heard of a peer; later than it is done here.
_SILENCE_OF_JAX = 60
# Milliseconds in which all processes must be ready to go on.
_A_DAY = 24 * 60 * 60 * 1000
# Messages that are kept: none is behind by as many.
_KEPT = 1000

T = TypeVar("T")


class Over(Exception):
    """What process 0 leads is over, done or not: a follower drops it, and waits for what comes next."""


class _Run:
    """What this process knows of the run; one of each process."""

    count = 1
    process = 0
    client: Any = None
    messages = 0
    over = False


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Makes this process one of several, before jax meets its devices. Does nothing where no flag is given.

    Args:
      coordinator: Address `HOST:PORT` of process 0, or `auto` for what jax finds in the environment.
      processes: Number of processes, at least 1; None with `auto`.
      process: Number of this one, 0..processes-1; None with `auto`.

    Raises:
      InputError: If the flags do not go together, or the others cannot be reached.
    """
    if coordinator is None and processes is None and process is None:
        return
    place = _place(coordinator, processes, process)
    # jax's service for it would take SIGTERM, which is this package's own wish to stop.
    jax.config.update("jax_enable_preemption_service", False)
    address = f"127.0.0.1:{_door_to(*place)}" if place is not None and process != 0 else coordinator
    address = None if place is None else address
    # jax would abort.
    late = threading.Timer(_TO_JOIN, _not_joined, (f"not all are there after {_TO_JOIN} seconds",))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            address,
            processes,
            process,
            initialization_timeout=_TO_JOIN + 60,
            heartbeat_timeout_seconds=_SILENCE_OF_JAX,
        )
        # The processes' devices meet here: what is wrong with a machine is known before anything is done.
        jax.devices()
    except ValueError as fault:
        if place is not None:
            raise
        raise InputError(
            f"--coordinator=auto: no Slurm, Open MPI or Kubernetes is found here ({fault}); give "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I"
        ) from None
    except RuntimeError as fault:
        reason = str(fault).splitlines()[0][:200]
        raise InputError(
            f"--coordinator={coordinator}: the processes do not come together ({reason}){_nameless()}"
        ) from None
    finally:
        late.cancel()
    # jax has no public name for its store; Orbax uses it by this one, too.
    from jax._src import distributed

    state = distributed.global_state
    _Run.client, _Run.count, _Run.process = state.client, int(state.num_processes), int(state.process_id)
    threading.Thread(target=_watch_others if leads() else _watch_leader, name="hosts", daemon=True).start()


def _nameless() -> str:
    """What to do where this machine's name has no address, by which the others would send it data; else empty."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return f"; this machine's name, {name}, has no address: give it one in /etc/hosts"
    return ""


def _place(coordinator: str | None, processes: int | None, process: int | None) -> tuple[str, int] | None:
    """The checked address of process 0; None for `auto`."""
    if coordinator == AUTO and processes is None and process is None:
        return None
    if coordinator in (None, AUTO) or processes is None or process is None:
        raise InputError(
            "--coordinator=HOST:PORT, --num_processes=N and --process_id=I belong together: give all three, or "
            "--coordinator=auto alone under Slurm, Open MPI or Kubernetes"
        )
    require(process < processes, f"--process_id={process} must be below --num_processes={processes}: count from 0")
    host, _, port = coordinator.rpartition(":")
    require(
        bool(host) and port.isdigit() and 0 < int(port) < 2**16,
        f"--coordinator={coordinator} is no HOST:PORT, such as 10.0.0.1:1234",
    )
    return host.strip("[]"), int(port)


def count() -> int:
    """Number of processes."""
    return _Run.count


def number() -> int:
    """Number of this process, from 0 on."""
    return _Run.process


def leads() -> bool:
    """Whether this is process 0, which decides and writes; true of a process that is alone."""
    return _Run.process == 0


def tell(message: Any) -> None:
    """Process 0 tells the others something, any JSON value."""
    _send("say", message)


def hear() -> Any:
    """The next thing that process 0 tells.

    Raises:
      Over: If what it leads is over.
      stopping.Stopped: If a signal has stopped it.
      SystemExit: If it ends, with its exit code.
    """
    number = _Run.messages
    _Run.messages += 1
    while True:
        try:
            kind, value = json.loads(_Run.client.blocking_key_value_get(_key(number), 5000))
            break
        except jax.errors.JaxRuntimeError:
            # There is none yet. If there is no process 0 any more, the other thread ends this process.
            time.sleep(0.01)
    if kind == "over":
        raise Over
    if kind == "end" and value > 128:
        raise stopping.Stopped(value - 128)
    if kind == "end":
        sys.exit(value)
    return value


def agreed(decide: Callable[[], T]) -> T:
    """What process 0 decides, on all processes; the others do not ask `decide`. It is a JSON value."""
    if not leads():
        return hear()
    decided = decide()
    tell(decided)
    return decided


def share(tree: Any) -> Any:
    """The tree of arrays of process 0, to the last bit, on all processes.

    Args:
      tree: Arrays of equal shapes and dtypes on all processes.

    Raises:
      Over: As `hear` does: process 0 may end before it comes to this.
    """
    if count() == 1:
        return tree
    agreed(lambda: "share")
    # A collective call may end with an error after a while; another process may need longer to prepare its images.
    _Run.client.wait_at_barrier(f"share/{_Run.messages}", _A_DAY)
    leaves, structure = jax.tree.flatten(jax.device_get(tree))
    arrays = [np.asarray(leaf) for leaf in leaves]
    with together():
        # As bytes: jax shares by summing, which turns -0.0 into 0.0.
        joined = np.concatenate([array.reshape(-1).view(np.uint8) for array in arrays])
        joined = np.asarray(multihost_utils.broadcast_one_to_all(joined))
    parts = np.split(joined, np.cumsum([array.nbytes for array in arrays])[:-1])
    found = [part.view(array.dtype).reshape(array.shape) for part, array in zip(parts, arrays, strict=True)]
    return jax.tree.unflatten(structure, found)


@contextlib.contextmanager
def leading(task: Any) -> Iterator[None]:
    """Process 0 leads the others through a task while the context lasts, however it ends.

    Args:
      task: What the others hear at its begin, a JSON value.
    """
    tell(task)
    try:
        yield
    finally:
        _send("over", None)


@contextlib.contextmanager
def together(*clean: type[Exception]) -> Iterator[None]:
    """A part in which the processes wait for one another: an error in it ends the run, as they are out of step.

    Args:
      clean: Exceptions that leave them in step.
    """
    try:
        yield
    except (Over, *clean):
        raise
    except Exception as fault:
        if count() == 1:
            raise
        # The likely reason is a peer's death, of which the other thread is about to hear.
        time.sleep(_SILENCE + 2 * _BEAT)
        traceback.print_exc()
        _say(f"error: process {number()} of {count()} failed in a step, and is out of step with the others")
        raise SystemExit(1) from fault


@contextlib.contextmanager
def ending_together() -> Iterator[None]:
    """The whole work of a process: when it ends, the others end with the same exit code, or learn that it failed."""
    code = 1
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except BaseException:
        if count() > 1:
            traceback.print_exc()
        raise
    finally:
        if count() > 1:
            _leave(code)


def _leave(code: int) -> NoReturn:
    """Ends this process; process 0 sees the others end before.

    jax's own way to end waits for all processes, and aborts where one is gone.
    """
    _Run.over = True
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        if leads():
            _send("end", code)
            _Run.client.key_value_set("end", str(code))
            until = time.monotonic() + _TO_END + 5 * _BEAT
            while time.monotonic() < until and len(_of_followers("left")) < count() - 1:
                time.sleep(0.05)
        else:
            # Under a name of its own: the other thread may be giving a sign of life.
            _Run.client.key_value_set(f"left/{number()}", str(code))
    _exit(code)


def _exit(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _key(number: int) -> str:
    return f"told/{number // _KEPT}/{number}"


def _send(kind: str, value: Any) -> None:
    if count() == 1:
        return
    number = _Run.messages
    _Run.messages += 1
    _Run.client.key_value_set(_key(number), json.dumps([kind, value]))
    if number % _KEPT == 0 and number >= 2 * _KEPT:
        _Run.client.key_value_delete(f"told/{number // _KEPT - 2}/")


def _sign() -> None:
    """A follower's sign of life, with the signal that it has received."""
    values = {"beat": time.monotonic(), "signal": stopping.received()}
    _Run.client.key_value_set(f"alive/{number()}", json.dumps(values), allow_overwrite=True)


def _of_followers(what: str) -> dict[int, Any]:
    """What followers say under a name, by their numbers."""
    return {int(key.rpartition("/")[2]): json.loads(text) for key, text in _Run.client.key_value_dir_get(f"{what}/")}


def _watch_others() -> None:
    """Process 0 looks whether the others live, and takes over their wish to stop."""
    heard = {each: (None, time.monotonic()) for each in range(1, count())}
    while not _Run.over:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            signs, left = _of_followers("alive"), _of_followers("left")
            for each, (beat, at) in heard.items():
                sign = signs.get(each, {"beat": None, "signal": None})
                if each in left and not _Run.over:
                    _Run.client.key_value_set("end", "1")
                    _say(f"error: process {each} of {count()} has ended (exit code {left[each]}): see what it says")
                    _exit(1)
                if sign["beat"] != beat:
                    heard[each] = sign["beat"], time.monotonic()
                elif time.monotonic() - at > _SILENCE:
                    _gone(each)
                if sign["signal"] is not None:
                    stopping.wish(sign["signal"])
        time.sleep(_BEAT)


def _watch_leader() -> None:
    """A follower gives signs of life, and ends with process 0 if its main thread does not."""
    ends, code = None, 0
    while not _Run.over:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            _sign()
            if ends is None and (found := dict(_Run.client.key_value_dir_get("end"))):
                ends, code = time.monotonic() + _TO_END, int(next(iter(found.values())))
        if ends is not None and time.monotonic() > ends:
            _leave(code)
        time.sleep(_BEAT)


def _not_joined(reason: str) -> NoReturn:
    _say(f"error: --coordinator: the processes do not come together ({reason}); start all of them, with one address")
    _exit(2)


def _gone(number: int) -> NoReturn:
    if _Run.over:
        threading.Event().wait()
    if _Run.client is None:
        _not_joined("what answers there is not process 0, or has ended")
    _say(
        f"error: process {number} of {count()} is gone; run the same command again on all: it goes on from the last "
        "checkpoint"
    )
    _exit(1)


def _say(line: str) -> None:
    # A progress line may stand there unfinished.
    say(f"\n{line}", error=True)


def _door_to(host: str, port: int) -> int:
    """A port of this host from which all goes to process 0 and back.

    jax aborts a process in the moment in which its connection to process 0 breaks. Through this door it does not
    learn of that, and this process can say what has happened.
    """
    until = time.monotonic() + _TO_JOIN
    while True:
        try:
            first = _connected(host, port)
            break
        except OSError as fault:
            if time.monotonic() > until or isinstance(fault, socket.gaierror):
                raise InputError(
                    f"--coordinator={host}:{port}: process 0 does not answer there ({fault.strerror or fault}); start "
                    "it with the same --coordinator, the address of its host"
                ) from None
            time.sleep(0.2)
            stopping.check()
    door = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(door, host, port, first), name="door", daemon=True).start()
    return door.getsockname()[1]


def _connected(host: str, port: int) -> socket.socket:
    """A connection that breaks within `_SILENCE` seconds where the other host falls silent."""
    found = socket.create_connection((host, port), timeout=5)
    found.settimeout(None)
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * _SILENCE)),
    ):
        found.setsockopt(level, option, value)
    return found


def _serve(door: socket.socket, host: str, port: int, first: socket.socket) -> None:
    waiting: list[socket.socket] = [first]
    while True:
        ours, _ = door.accept()
        try:
            theirs = waiting.pop() if waiting else _connected(host, port)
        except OSError:
            _gone(0)
        for source, sink, end in ((theirs, ours, lambda: _gone(0)), (ours, theirs, lambda: None)):
            threading.Thread(target=_pass_on, args=(source, sink, end), name="door", daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, end: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(2**16):
            sink.sendall(data)
    end()
    sink.close()
