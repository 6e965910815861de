"""SIGINT and SIGTERM as a wish that the work looks at where it can stop: between two steps, images or stages.

An exception raised by a signal's handler can arrive anywhere, also inside a callback of jax's that swallows it. So no
handler raises. A thread learns of a signal at once, even while the main thread compiles for a minute, and notes it.
`check()` and `asked()` tell of it. If nothing has looked after `PATIENCE` seconds, or if a second signal comes, the
process ends on the spot: everything that counts is written whole or not at all.
"""

import os
import signal
import socket
import sys
import threading

# Seconds after which a process that does not stop by itself is ended.
PATIENCE = 25.0

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(BaseException):
    """The work ends here because a signal asked for it. It is no `Exception`, which others catch and go on.

    Attributes:
      number: Number of the signal.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class _Wish:
    """The signal that was received; one of each process, as signals are."""

    number: int | None = None


def asked() -> bool:
    """Whether a signal has asked the process to stop."""
    return _Wish.number is not None


def received() -> int | None:
    """Number of the signal that has asked the process to stop; None before one has."""
    return _Wish.number


def wish(number: int) -> None:
    """Takes over the wish of another process, which has received this signal."""
    if _Wish.number is None:
        _Wish.number = number


def check() -> None:
    """Stops here if a signal has asked for it.

    Raises:
      Stopped: If one has.
    """
    if _Wish.number is not None:
        raise Stopped(_Wish.number)


def exit_code(number: int) -> int:
    """The exit code of a process that a signal has stopped, as shells have it: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + number


def listen() -> None:
    """Lets SIGINT and SIGTERM be wishes from now on; called once, by the main thread."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    for number in _SIGNALS:
        # Python writes a signal's number to the socket only where it has a handler of its own.
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    # The socket must live as long as signals are written to it.
    threading.Thread(target=_wait, args=(ours, theirs), name="signals", daemon=True).start()


def _wait(ours: socket.socket, _: socket.socket) -> None:
    number = _next(ours)
    _Wish.number = number
    print("\nstopping: what is under way is saved (once more to end at once)", file=sys.stderr, flush=True)
    ours.settimeout(PATIENCE)
    try:
        _next(ours)
        words = "ended at once"
    except TimeoutError:
        words = "ended in the middle of a step"
    if sys.__stderr__ is not None and sys.__stderr__.isatty():
        # Live lines hide the cursor, and nothing comes after this that would show it.
        sys.__stderr__.write("\x1b[?25h")
    print(f"{words}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
    os._exit(exit_code(number))


def _next(ours: socket.socket) -> int:
    """The next of our signals; others that have a handler are passed over."""
    while True:
        (number,) = ours.recv(1)
        if number in _SIGNALS:
            return number
