"""What a mistake of the user's is, and a training that came to nothing, as opposed to a fault of ours."""


class InputError(ValueError):
    """A mistake in what the user gave: one line that names the flag or file and the fix.

    Launchers print it alone and exit with code 2; any other exception is a fault of ours and keeps its traceback.
    """


def require(condition: bool, message: str) -> None:
    """Raises `InputError(message)` unless `condition` holds."""
    if not condition:
        raise InputError(message)


class DivergenceError(ArithmeticError):
    """A loss, a parameter or an output is no longer finite: what follows from it would be numbers that mean nothing.

    Args:
      what: What is not finite, such as `the loss is nan`.
      where: Where training was, such as `at update 12`; empty outside of training.
    """

    def __init__(self, what: str, where: str = ""):
        super().__init__(f"diverged {where}: {what}" if where else f"diverged: {what}")
        self.what = what
