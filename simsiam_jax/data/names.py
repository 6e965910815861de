"""Names that users gave to files, classes and groups, as messages show them."""

from collections.abc import Iterable

from simsiam_jax.terminal import visible


def shown(name: str) -> str:
    """The name on one line: line breaks, control characters and bytes that are no UTF-8 become escapes."""
    return visible(name, keep="")


def listed(names: Iterable[str], most: int = 6) -> str:
    """The names as `a, b, c and 93 more`, each as `shown` has it.

    Args:
      names: The names.
      most: Number of names that are told, at least 1. One more is told rather than counted.
    """
    all_names = [shown(name) for name in names]
    if len(all_names) <= most + 1:
        return ", ".join(all_names)
    return f"{', '.join(all_names[:most])} and {len(all_names) - most:,} more"
