"""Orbax checkpoints that notice damage: each carries a digest of its values, checked when it is restored."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from simsiam_jax.errors import InputError


def digest(tree: Any) -> str:
    """sha256 of a tree's paths, dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for path, leaf in _leaves(tree):
        value = np.ascontiguousarray(leaf)
        total.update(f"{path} {value.dtype} {value.shape}".encode())
        total.update(value.tobytes())
    return total.hexdigest()


class Checkpoints:
    """The checkpoints of one stage, numbered by epoch; the last two are kept.

    Orbax finds the newest complete one and writes atomically, but restores a flipped byte as if nothing were wrong.
    Hence the digest in each checkpoint's `meta`, and the step back to the one before.
    """

    def __init__(self, folder: Path):
        self._folder = folder.resolve()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=2, cleanup_tmp_directories=True),
            item_names=("state", "meta"),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()

    def save(self, epoch: int, tree: Any, meta: dict[str, Any]) -> None:
        """Writes a tree after `epoch` epochs, in the background.

        Args:
          epoch: Epochs done; an existing checkpoint of that number is replaced.
          tree: Arrays; copied before this returns.
          meta: JSON values to go with them.
        """
        # Orbax takes host arrays from every process alike, and a donated device buffer would be gone by then.
        host = jax.tree.map(np.asarray, jax.device_get(tree))
        if epoch in self._manager.all_steps():
            self._manager.delete(epoch)
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(host),
                meta=ocp.args.JsonSave({**meta, "digest": digest(host)}),
            ),
        )

    def restore_latest(self, target: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest undamaged checkpoint, as (epoch, tree of numpy arrays, meta), or None.

        Args:
          target: A tree of arrays or `ShapeDtypeStruct`s: the structure, shapes and dtypes that are wanted.

        Raises:
          InputError: If there are checkpoints and none can be read.
        """
        self._manager.wait_until_finished()
        faults = []
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            try:
                tree, meta = self._restore(epoch, target)
            # Orbax and TensorStore raise bare Exceptions, JSONDecodeErrors and more for damaged files.
            except Exception as fault:
                faults.append(epoch)
                logging.warning(
                    "checkpoint %s is damaged or of another network (%s); trying the one before",
                    self._folder / str(epoch),
                    next(iter(str(fault).splitlines()), type(fault).__name__)[:200],
                )
                continue
            return epoch, tree, meta
        if faults:
            raise InputError(
                f"{self._folder}: no checkpoint can be restored (tried epochs {', '.join(map(str, faults))}): "
                "damaged, or of another network; delete this folder to train again"
            )
        return None

    def _restore(self, epoch: int, target: Any) -> tuple[Any, dict[str, Any]]:
        host_target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), target)
        restored: Any = self._manager.restore(
            epoch,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(host_target), meta=ocp.args.JsonRestore()),
        )
        meta = dict(restored.meta)
        for want, (path, got) in zip(jax.tree.leaves(host_target), _leaves(restored.state), strict=True):
            if want.shape != got.shape:
                raise ValueError(f"{path} has shape {got.shape}, not {want.shape}")
        if digest(restored.state) != meta.pop("digest"):
            raise ValueError("its values do not match their digest")
        return restored.state, meta


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path), leaf
