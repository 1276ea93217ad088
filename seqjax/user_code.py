"""A user's own code: found by name, called, and its errors shown as theirs.  Imports `config`
and `as_given`.

A report that ends in thirty frames of a library hides the one line that the person wrote.  What their code
raises becomes a `UserCodeError`: one line, and their own frames beside it.
"""

import difflib
import functools
import importlib
import inspect
import os
import re
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqjax.as_given import takes, with_mask
from seqjax.config import ConfigError

LONGEST = 300  # letters of a message that are shown: about three lines of a terminal

WANTED = {  # what each flag needs
    "--predict": "predict(x), or a model",
    "--fit": "a function fit(x, y, mask) or fit(x, y)",
    "--model": "a model",
    "--labels": "a function of events [..., T], or a LabelRule",
    "--task": "task(config, rule) -> Task",
}

# Frames below these are nobody's own code: the kit, the standard library, installed packages.
_ROOT = Path(__file__).resolve().parents[1]
_FOREIGN = tuple(
    str(path) + os.sep
    for path in {
        _ROOT / "seqjax",
        _ROOT / "experiments",
        Path(sysconfig.get_path("stdlib")).resolve(),
        Path(sysconfig.get_path("purelib")).resolve(),
        Path(sysconfig.get_path("platlib")).resolve(),
    }
)


class UserCodeError(ConfigError):
    """What a user's code raised, in one line: what was called, the error, and where in their file.

    frames: the frames of their own files, as a traceback shows them; empty where the error came from a library
    that was called directly.
    """

    def __init__(self, text: str, frames: str = ""):
        super().__init__(text)
        self.frames = frames


def is_own(name: str) -> bool:
    """Whether a setting names something of somebody's own, "module:object", and no row of a table."""
    return ":" in name


def load_object(spec: str, flag: str) -> Any:
    """The object that "module:object" or "module:a.b" names; the module may stand in the current folder.

    flag: a key of `WANTED`; it stands at the head of every message, and says what is wanted.

    Raises ConfigError where there is no such module or object, or where it is nothing that the flag takes, with
    the nearest names; UserCodeError where the module cannot be imported.
    """
    here = f"{flag}={spec}"
    wanted = WANTED.get(flag, "an object")
    name, colon, attributes = (part.strip() for part in spec.partition(":"))
    if name.endswith(".py") or "/" in name or os.sep in name:
        as_module = ".".join(Path(name.removesuffix(".py")).parts)
        raise ConfigError(
            f"{here}: {name!r} is a file; expected a module: {flag}={as_module}:{attributes or 'NAME'}"
        )
    if not colon or not name or not attributes:
        near = f"{name or 'module'}:{attributes or 'NAME'}"
        raise ConfigError(f"{here}: expected module:object, such as {flag}={near}")
    found: Any = _module(name, here)
    path = name
    for attribute in attributes.split("."):
        if not guarded(hasattr, f"{here}: {path}")(found, attribute):  # its own __getattr__ may raise
            known = [other for other in dir(found) if not other.startswith("_")]
            where = f" ({_short(found.__file__)})" if getattr(found, "__file__", None) else ""
            raise ConfigError(f"{here}: {path}{where} has no {attribute!r}; {_near(attribute, known)}")
        found, path = getattr(found, attribute), f"{path}.{attribute}"
    if found is None or isinstance(found, types.ModuleType | str | bytes | int | float):
        raise ConfigError(f"{here}: {path} is of type {type(found).__name__}; expected {wanted}")
    if flag == "--fit":
        refuse_fit(found, here, path)
    # A function of no arguments may make what predicts: `adapters` calls it.
    elif flag == "--predict" and inspect.isroutine(found) and not (takes(found, 1) or takes(found, 0)):
        raise ConfigError(f"{here}: it is {found.__name__}{inspect.signature(found)}; expected {wanted}")
    return found


def refuse_fit(found: Any, here: str, name: str) -> None:
    """ConfigError for what is no fit(x, y, mask) or fit(x, y); here: how the message begins."""
    if not callable(found):
        raise ConfigError(f"{here}: {name} is of type {type(found).__name__}; expected {WANTED['--fit']}")
    if with_mask(found) is None:
        told = getattr(found, "__name__", name)
        raise ConfigError(f"{here}: it is {told}{inspect.signature(found)}; expected {WANTED['--fit']}")


def guarded(function: Callable, what: str) -> Callable:
    """The same function; what it raises becomes a UserCodeError "{what} raised ...".

    A call of sys.exit counts as raised; KeyboardInterrupt passes, it is the person's own.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (ConfigError, KeyboardInterrupt):  # UserCodeError is one
            raise
        except BaseException as error:  # sys.exit, and what frameworks cancel tasks with
            raise user_code_error(error, what) from error

    return call


def user_code_error(error: BaseException, what: str) -> UserCodeError:
    """The error of a user's code as one line, with the frames of their own files."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    where = f" ({_short(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    try:
        message = one_line(str(error))
    except Exception:  # their own __str__
        message = ""
    if isinstance(error, SystemExit):
        where += "; expected no call of sys.exit (what a script runs goes under if __name__ == '__main__')"
    if isinstance(error, SyntaxError):  # its text says where
        where = ""
    name = type(error).__name__
    return UserCodeError(
        f"{what} raised {name}{': ' if message else ''}{message}{where}",
        "".join(traceback.format_list(frames)).rstrip(),
    )


def one_line(text: str) -> str:
    """A message as one line: without colours, and without the lists of arguments that Keras adds."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text).partition("Arguments received by")[0]
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _module(name: str, here: str) -> types.ModuleType:
    if os.getcwd() not in sys.path:  # stays there: a user's function may import others of its folder
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        inside = any(_is_own(frame.filename) for frame in traceback.extract_tb(error.__traceback__))
        if missing is None or inside or not f"{name}.".startswith(f"{missing}."):
            raise user_code_error(error, f"{here}: importing {name}") from error
    folder = Path(*name.split(".")[:-1])
    known = [
        ".".join((*folder.parts, path.stem))
        for path in (sorted(folder.iterdir()) if folder.is_dir() else [])
        if (path.suffix == ".py" and path.stem != "__init__") or (path.is_dir() and any(path.glob("*.py")))
    ]
    raise ConfigError(f"{here}: no module {name!r} on the path or in this folder; {_near(name, known)}")


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    shown = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
    return f"it has {shown}" if "." not in name and known else f"there is {shown or 'none'}"


def _is_own(filename: str) -> bool:
    if filename.startswith("<") and filename != "<stdin>" and not filename.startswith("<ipython"):
        return False
    path = os.path.realpath(filename)
    return not path.startswith(_FOREIGN) and f"{os.sep}site-packages{os.sep}" not in path


def _short(filename: str) -> str:
    """A file as seen from the current folder, where it lies below it; otherwise its name."""
    path = os.path.relpath(os.path.realpath(filename), os.path.realpath(os.getcwd()))
    return os.path.basename(filename) if path.startswith("..") else path
