"""Orbax checkpoints that notice damage: each carries a digest of its values, checked when it is restored."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from simsiam_jax.errors import InputError
from simsiam_jax.files import disk_is_full

# Name of the folder of a stage's checkpoints.
CHECKPOINTS = "checkpoints"
# Version of what `meta` holds beside the state: raise it with a change.
FORMAT = 2
# Bytes of a checkpoint beside its arrays, or more.
_OVERHEAD = 2**18


def digest(tree: Any, meta: Mapping[str, Any] | None = None) -> str:
    """sha256 of a tree's paths, dtypes, shapes and bytes, and of the JSON values that go with it."""
    total = hashlib.sha256(json.dumps(meta or {}, sort_keys=True).encode())
    for path, leaf in _leaves(tree):
        value = np.ascontiguousarray(leaf)
        total.update(f"{path} {value.dtype} {value.shape}".encode())
        total.update(value.tobytes())
    return total.hexdigest()


class Checkpoints:
    """The checkpoints of one stage, numbered by the updates behind them; the last two are kept.

    Orbax finds the newest complete one and writes atomically, but restores a flipped byte as if nothing were wrong.
    Hence the digest in each checkpoint's `meta`, and the step back to the one before.
    """

    def __init__(self, folder: Path):
        self._folder = folder.resolve()
        # Orbax makes no folder for one of several processes.
        self._folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, cleanup_tmp_directories=True, create=False, multiprocessing_options=_alone()
            ),
            item_names=("state", "meta"),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _: Any, fault: BaseException | None, *__: Any) -> None:
        try:
            self._manager.close()
        # What fails in the background is raised here.
        except Exception as late:
            self._remove_unfinished(late)
            raise
        if fault is not None:
            self._remove_unfinished(fault)

    def _remove_unfinished(self, fault: BaseException) -> None:
        """Removes what a save has left that found no space, so that it does not take what little there is."""
        if disk_is_full(fault):
            for folder in self._folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def latest(self) -> int | None:
        """Updates behind the newest checkpoint; None where there is none."""
        return self._manager.latest_step()

    def save(self, update: int, tree: Any, meta: dict[str, Any]) -> None:
        """Writes a tree after `update` updates, in the background.

        Args:
          update: Updates done; an existing checkpoint of that number is replaced.
          tree: Arrays; copied before this returns.
          meta: JSON values to go with them.

        Raises:
          OSError: If there is no space for it. An earlier save that failed raises what TensorStore does.
        """
        # Orbax takes host arrays from every process alike, and a donated device buffer would be gone by then.
        host = jax.tree.map(np.asarray, jax.device_get(tree))
        # Said before it is begun: TensorStore would say it late, from several threads.
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(host)) + _OVERHEAD
        if shutil.disk_usage(self._folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder / str(update)))
        # As they will be read: JSON has no tuples.
        meta = json.loads(json.dumps({**meta, "format": FORMAT}, allow_nan=False))
        if update in self._manager.all_steps():
            self._manager.delete(update)
        self._manager.save(
            update,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(host),
                meta=ocp.args.JsonSave({**meta, "digest": digest(host, meta)}),
            ),
        )

    def restore_latest(self, target: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest undamaged checkpoint, as (update, tree of numpy arrays, meta), or None.

        Args:
          target: A tree of arrays or `ShapeDtypeStruct`s: the structure, shapes and dtypes that are wanted.

        Raises:
          InputError: If there are checkpoints and none can be read: all damaged, or of another network than `target`.
        """
        self._manager.wait_until_finished()
        faults, foreign = [], None
        for update in sorted(self._manager.all_steps(), reverse=True):
            try:
                tree, meta = self._restore(update, target)
            # Orbax and TensorStore raise bare Exceptions, JSONDecodeErrors and more for damaged files.
            except Exception as fault:
                if other := self._difference(update, target):
                    foreign = foreign or other
                    continue
                faults.append(update)
                logging.warning(
                    "checkpoint %s is damaged (%s); trying the one before",
                    self._folder / str(update),
                    next(iter(str(fault).splitlines()), type(fault).__name__)[:200],
                )
                continue
            return update, tree, meta
        if faults:
            raise InputError(
                f"{self._folder}: no checkpoint can be restored (tried updates {', '.join(map(str, faults))}): "
                "damaged; delete this folder to train again"
            )
        if foreign:
            raise InputError(
                f"{self._folder} holds checkpoints of another network or optimiser ({foreign}), and they are whole: "
                "give the settings that they were trained with, or another folder"
            )
        return None

    def shapes(self, update: int | None = None) -> dict[str, tuple[int, ...]]:
        """The shape of each array in a checkpoint by its path, such as `state/params/head/bias`.

        Args:
          update: Number of the checkpoint; None means the newest.

        Returns:
          The shapes; empty where there is no checkpoint, or where its description cannot be read.
        """
        numbers = self._manager.all_steps()
        if not numbers:
            return {}
        folder: Any = self._folder / str(max(numbers) if update is None else update) / "state"
        try:
            return _shapes(ocp.StandardCheckpointHandler().metadata(folder))
        # As in `restore_latest`.
        except Exception:
            return {}

    def _difference(self, update: int, target: Any) -> str | None:
        """The first array in which a checkpoint differs from what is wanted; None where its description has none."""
        has, wanted = self.shapes(update), _shapes(target)
        for path in sorted(has.keys() | wanted.keys()) if has else ():
            if has.get(path) != wanted.get(path):
                there, here = (str(list(each[path])) if path in each else "missing" for each in (has, wanted))
                return f"{path} is {there} there and {here} here"
        return None

    def _restore(self, update: int, target: Any) -> tuple[Any, dict[str, Any]]:
        host_target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), target)
        restored: Any = self._manager.restore(
            update,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(host_target), meta=ocp.args.JsonRestore()),
        )
        meta = dict(restored.meta)
        for want, (path, got) in zip(jax.tree.leaves(host_target), _leaves(restored.state), strict=True):
            if want.shape != got.shape:
                raise ValueError(f"{path} has shape {got.shape}, not {want.shape}")
        if meta.get("format") != FORMAT:
            raise ValueError("it was written by another version of this program")
        if meta.pop("digest") != digest(restored.state, meta):
            raise ValueError("its values do not match their digest")
        del meta["format"]
        return restored.state, meta


def _alone() -> ocp.options.MultiprocessingOptions:
    """Options by which Orbax waits for no other process: this one reads or writes the whole."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    process = jax.process_index()
    return ocp.options.MultiprocessingOptions(primary_host=process, active_processes={process})


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each array of a tree by its path, which is the same for a dataclass and its fields in a dict."""
    leaves = jax.tree_util.tree_flatten_with_path(getattr(tree, "tree", tree))[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def _leaves(tree: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        yield jax.tree_util.keystr(path), leaf
