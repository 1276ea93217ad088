"""The folder of a run.  Files appear whole or not at all.  Imports nothing of the kit but `config`."""

import contextlib
import fcntl
import io
import itertools
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TextIO

import numpy as np

from seqjax.config import ConfigError

PAGE = "report.html"
# What a run writes; --overwrite removes these and leaves everything else alone.
FILES = (
    "config.json",
    "metrics.jsonl",
    "result.json",
    PAGE,
    "params.npz",
    "predictions.npz",
    "dependence.png",
    "curves.png",
    "budget.png",
    "lengths.png",
    "ladder.png",
    "learning_curves.png",
    "needs_and_sees.png",
    "sweep.jsonl",
    "sweep.png",
    "loss_by_length.png",
)
CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"


class Workdir:
    """A folder that this process alone writes to, from `open_workdir` to the end of a `with`.

    shown: its path as it was given; somebody's own code may leave the folder that it starts in.
    fresh: made for this run under a name of the kit's own.
    """

    def __init__(self, folder: Path, fresh: bool = False):
        self.folder, self.shown, self.fresh = folder.absolute(), folder, fresh
        self._lock = (folder / ".lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it when we die
        except OSError:
            self._lock.close()
            raise ConfigError(
                f"workdir={folder}: is in use by another run; wait for it, or name another"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._lock.close()
        # Refused before anything was written: a fresh folder goes again.
        if error and self.fresh and os.listdir(self.folder) == [".lock"]:
            shutil.rmtree(self.folder)

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def clear(self) -> None:
        """Remove what a run has written, and nothing else."""
        for file in FILES:
            (self.folder / file).unlink(missing_ok=True)
        for folder in (CHECKPOINTS, TENSORBOARD):
            shutil.rmtree(self.folder / folder, ignore_errors=True)

    def forget_epochs(self, group: int, done: int) -> None:
        """Drop the lines of metrics.jsonl that tell of what comes after epoch `done` of a group.

        Groups train one after the other; what is there of later ones comes after this one's.
        """
        path = self / "metrics.jsonl"
        if not path.exists():
            return
        kept = []
        for record in read_lines(path):
            of, epoch = record.get("group", 0), record.get("epoch")
            if isinstance(of, int) and isinstance(epoch, int) and (of != group or epoch <= done):
                kept.append(((of, epoch), json.dumps(record)))
        write_whole(path, "".join(f"{line}\n" for _, line in sorted(kept)).encode())


def _fresh(name: str) -> Path:
    """A folder under `runs/` that nobody has, made at once so that nobody takes it."""
    for number in itertools.count():
        folder = Path("runs") / (f"{name}-{number}" if number else name)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"workdir={folder}: cannot be written ({error.strerror})") from None
        return folder
    raise AssertionError("there is always another number")


def open_workdir(path: str | None, name: str, *, overwrite: bool = False, resume: bool | None = None) -> Workdir:
    """The run's folder, made if need be; a fresh one under `runs/` where none is named.

    resume: None where the command has no such flag.
    Nothing in it is touched: `clear` it when all else that may be refused was not.
    Raises ConfigError where it is a file, cannot be written, is in use, or holds a
    run that is neither to be overwritten nor resumed.
    """
    folder = Path(path) if path else _fresh(f"{time.strftime('%Y%m%d-%H%M%S')}-{name}")
    if folder.is_symlink() and not folder.exists():
        raise ConfigError(
            f"workdir={folder}: is a link to {folder.readlink()}, which is not there; expected a folder"
        )
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"workdir={folder}: is a file; expected a folder")
    held = [file for file in FILES if (folder / file).exists()]
    if held and not overwrite and not resume:
        ways = ["name another", "replace it with --overwrite"]
        ways += ["go on with it with --resume"] if resume is not None else []
        raise ConfigError(f"workdir={folder}: holds a run ({held[0]}); {', '.join(ways[:-1])}, or {ways[-1]}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        workdir = Workdir(folder, fresh=not path)
    except OSError as error:
        raise ConfigError(f"workdir={folder}: cannot be written ({error.strerror})") from None
    return workdir


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: readers see all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_whole(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    write_whole(path, buffer.getvalue())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a record, a line each; without what is no whole line, as when the run was killed."""

    def no_number(text: str) -> None:
        raise ValueError(f"{text} is never written")

    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            found.append(json.loads(line, parse_constant=no_number))
    return [record for record in found if isinstance(record, dict)]


def append_line(path: Path, value: Any) -> None:
    """One more line of JSON at the end of a record, handed to the system at once."""
    with path.open("a") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")


def show_result(folder: Workdir, values: dict[str, Any], as_json: bool, out: TextIO) -> None:
    """The last lines of a command: where to read on, or the result itself."""
    if as_json:
        json.dump(values, out, indent=1, allow_nan=False)
        print(file=out)
    else:
        print(f"to read: {folder.shown / PAGE}", file=out)
        print(folder.shown / "result.json", file=out)
