"""Save and resume: the state of a run, whole or not at all.  Imports nothing of the library.

Orbax writes a checkpoint under a temporary name and renames it when it is complete,
so a process that is killed leaves the one before.  What it does not notice is a bit
that changed on the disk, and it casts where dtypes differ: so the checkpoint's own
checksum is stored beside it, and shapes and dtypes are compared before anything is
loaded.
"""

import contextlib
import functools
import hashlib
import json
import logging
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np

KEEP = 3  # the newest checkpoints that are kept


class Checkpoint(NamedTuple):
    """epoch: epochs done.  state: the pytree that was saved.  record: plain JSON values."""

    epoch: int
    state: Any
    record: dict[str, Any]


class CheckpointError(RuntimeError):
    """No checkpoint can be used, or none can be written; one line says why."""


class _OtherStateError(ValueError):
    """A checkpoint whose leaves have other names, shapes or dtypes."""


class Checkpoints:
    """The checkpoints in one folder; written in the background, the last few kept.

    problems: a line for every checkpoint that was passed over as damaged.
    """

    def __init__(self, folder: Path, keep: int = KEEP):
        self.folder, self.keep = folder.absolute(), keep
        self.problems: list[str] = []

    @functools.cached_property
    def _args(self) -> Any:
        import orbax.checkpoint as ocp  # only when checkpoints are used: its import takes a while

        return ocp.args

    @functools.cached_property
    def _manager(self) -> Any:
        import orbax.checkpoint as ocp

        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # pages of what reaches us as exceptions
        one = jax.process_count() == 1
        # Process 0 alone writes and reads: it has all of the state, and waits for nobody.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes=None if one else {0}, barrier_sync_key_prefix=None if one else "alone"
        )
        options = ocp.CheckpointManagerOptions(max_to_keep=self.keep, create=False, multiprocessing_options=alone)
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # What a killed process was writing.  Orbax would remove it in the background, and trip over itself
            # where the folder is opened again meanwhile.
            for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished)
            manager = ocp.CheckpointManager(self.folder, item_handlers=handlers, options=options)
        except OSError as error:
            raise CheckpointError(f"checkpoints cannot be written in {self.folder} ({error.strerror})") from None
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return manager

    def _unraisable(self, found: Any) -> None:
        # Where one of many reads fails, Orbax leaves the others behind, and they say so, each of them.
        if str(found.exc_value) != "Event loop is closed":
            self._hook(found)

    def save(self, checkpoint: Checkpoint) -> None:
        """Start to write a checkpoint; raises CheckpointError where the one before failed."""
        leaves = _leaves(checkpoint.state)
        # A copy: it is written in the background, and the caller's history grows meanwhile.
        record = json.loads(json.dumps(checkpoint.record))
        meta = {"record": record, "checksum": _checksum(checkpoint.epoch, leaves, record)}
        args = self._args.Composite(state=self._args.StandardSave(leaves), meta=self._args.JsonSave(meta))
        manager = self._manager
        try:
            # What lies ahead was passed over as damaged: Orbax would keep it and not the new one.
            for epoch in manager.all_steps():
                if epoch >= checkpoint.epoch:
                    manager.delete(epoch)
            manager.save(checkpoint.epoch, args=args, force=True)
        except Exception as error:
            raise CheckpointError(
                f"the checkpoint of epoch {checkpoint.epoch} failed: {_first_line(error)}"
            ) from error

    def wait(self) -> None:
        """Until what was begun is written; raises CheckpointError where that failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise CheckpointError(f"a checkpoint could not be written: {_first_line(error)}") from error

    def close(self) -> None:
        """Wait, and let go of the folder."""
        if "_manager" in self.__dict__:
            self.wait()
            self._manager.close()
            del self._manager
            sys.unraisablehook = self._hook

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Close: nothing is being written any more.  Of two errors the first is raised."""
        with contextlib.suppress(CheckpointError) if error else contextlib.nullcontext():
            self.close()

    def restore(self, template: Any) -> Checkpoint | None:
        """The newest checkpoint that is whole, as NumPy arrays in the tree of `template`; None where none is.

        template: a pytree of arrays or `jax.ShapeDtypeStruct`.

        Raises CheckpointError where every checkpoint is of another state, as when the model was changed since.
        """
        if not self.folder.exists():
            return None
        wanted, errors = _leaves(template), []
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            try:
                leaves, record = self._read(epoch, wanted)
            except Exception as error:
                errors.append(error)
                self.problems.append(f"the checkpoint of epoch {epoch} is damaged ({_first_line(error)})")
                continue
            treedef = jax.tree.structure(template)
            return Checkpoint(epoch, jax.tree.unflatten(treedef, list(leaves.values())), record)
        if errors and all(isinstance(error, _OtherStateError) for error in errors):
            raise CheckpointError(
                f"the checkpoints in {self.folder} are of another model or optimiser: {_first_line(errors[0])}; "
                f"go on with the one that was trained, or begin anew with --overwrite"
            )
        return None

    def _read(self, epoch: int, wanted: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        description = self._manager.item_metadata(epoch)["state"]
        if description is None:
            raise ValueError("what describes its state is gone")
        stored = description.tree
        for name in wanted.keys() | stored.keys():
            found, expected = (_kind(tree.get(name)) for tree in (stored, wanted))
            if found != expected:
                raise _OtherStateError(f"{name} is {found}, expected {expected}")
        abstract = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in wanted.items()}
        args = self._args.Composite(state=self._args.StandardRestore(abstract), meta=self._args.JsonRestore())
        found = self._manager.restore(epoch, args=args)
        leaves = {name: np.asarray(found["state"][name]) for name in wanted}
        record = found["meta"]["record"]
        if _checksum(epoch, leaves, record) != found["meta"]["checksum"]:
            raise ValueError("its bytes are not those that were saved")
        return leaves, record


def _leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their path, in the tree's order."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _kind(leaf: Any) -> str:
    return "absent" if leaf is None else f"{np.dtype(leaf.dtype)}{list(leaf.shape)}"


def _checksum(epoch: int, leaves: dict[str, Any], record: dict[str, Any]) -> str:
    digest = hashlib.sha256(f"{epoch} {json.dumps(record, sort_keys=True)} ".encode())
    for name, leaf in leaves.items():
        digest.update(f"{name} {_kind(leaf)} ".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    """One line of an error, its beginning and its end: the reason may stand in either."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    line = re.sub(r" \[\w+='.*", "", line)  # what TensorStore adds for its own developers
    return line if len(line) <= 240 else f"{line[:120]} ... {line[-115:]}"
