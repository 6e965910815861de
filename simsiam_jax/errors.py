"""What a mistake of the user's is, as opposed to a fault of ours."""


class InputError(ValueError):
    """A mistake in what the user gave: one line that names the flag or file and the fix.

    Launchers print it alone and exit with code 2; any other exception is a fault of ours and keeps its traceback.
    """


def require(condition: bool, message: str) -> None:
    """Raises `InputError(message)` unless `condition` holds."""
    if not condition:
        raise InputError(message)
