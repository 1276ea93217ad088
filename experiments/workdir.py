"""The folder of a run.  Files appear whole or not at all.  Imports nothing of the kit but `config`."""

import io
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqjax.config import ConfigError

# What a run writes; --overwrite removes these and leaves everything else alone.
FILES = ("config.json", "metrics.jsonl", "result.json", "params.npz", "predictions.npz")


def open_workdir(path: str | None, overwrite: bool, name: str) -> Path:
    """The run's folder, made if need be; a fresh one under `runs/` where none is named.

    Raises ConfigError where it is a file, cannot be written, or holds a run and
    `overwrite` is not set.
    """
    folder = Path(path) if path else Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}-{os.getpid()}"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"workdir={folder}: is a file; expected a folder")
    held = [file for file in FILES if (folder / file).exists()]
    if held and not overwrite:
        raise ConfigError(
            f"workdir={folder}: holds a run ({held[0]}); name another, or replace it with --overwrite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"workdir={folder}: cannot be written ({error.strerror})") from None
    for file in held:
        (folder / file).unlink()
    return folder


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


def append_line(path: Path, value: Any) -> None:
    """One more line of JSON at the end of a record, handed to the system at once."""
    with path.open("a") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")
