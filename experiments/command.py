"""What every command does around its work: one line for an error, the right exit code, the cache.

Exit codes: 0 done; 1 another process of the run is gone; 2 bad input or bad flags; 3 the
loss is not finite; 75 stopped, and can be resumed; 130 a second Ctrl-C.
"""

import atexit
import contextlib
import ctypes
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import jax

from experiments.flags import HelpRequested, RunFlags
from seqjax.adapters import UserCodeError
from seqjax.checkpoints import CheckpointError
from seqjax.config import ConfigError
from seqjax.experiment import NotFiniteError, StoppedError

BAD_INPUT, NOT_FINITE, STOPPED, INTERRUPTED = 2, 3, 75, 130
LOST_PROCESS = 1
LOST = ("Gloo", "NCCL", "Connection reset", "heartbeat", "coordination service")  # errors of a lost process


def run_process(main: Callable[[list[str]], None], doc: str | None) -> None:
    """`run_command`, and the end of this process: without taking JAX apart, which is half a second for nothing.

    What others asked to be done at the end is done, threads that still work are waited for, all that was printed
    is out.  Several processes of one run end the long way, on which they take leave of each other.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed by who called us: what is opened next would take its place
            os.open(os.devnull, os.O_RDWR)
    sys.stdout, sys.stderr = Output.to(1, sys.stdout), Output.to(2, sys.stderr)
    run_command(main, doc)
    if jax.distributed.is_initialized():
        return
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    if Output.lost is not None:
        print(f"error: cannot write to stdout: {Output.lost.strerror}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(0 if Output.lost is None else BAD_INPUT)


class Output(io.FileIO):
    """A stream that no run is lost for, be it closed by `| head` or full.

    lost: why stdout could not be written.
    """

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if self.fileno() != 2 and not isinstance(error, BrokenPipeError):
                Output.lost = error
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            return len(data)

    @classmethod
    def to(cls, number: int, like: TextIO | None = None) -> TextIO:
        """Text into a file descriptor, as the stream of Python's that it replaces writes it."""
        settings = {name: getattr(like, name) for name in ("encoding", "errors", "line_buffering")} if like else {}
        return io.TextIOWrapper(io.BufferedWriter(cls(number, "w", closefd=number > 2)), **settings)


def run_command(main: Callable[[list[str]], None], doc: str | None) -> None:
    """Run `main(argv)` and leave the process with the exit code that belongs to how it ended."""
    try:
        try:
            main(sys.argv)
        except HelpRequested as help_text:
            print(doc, help_text, sep="\n", flush=True)
    except UserCodeError as error:
        if error.frames:
            print(error.frames.rstrip("\n"), file=sys.stderr)
        fail(str(error), BAD_INPUT)
    except ConfigError as error:
        fail(f"{error} (--help lists the flags)", BAD_INPUT)
    except NotFiniteError as error:
        fail(str(error), NOT_FINITE)
    except StoppedError as error:
        fail(str(error), STOPPED)
    except KeyboardInterrupt:
        fail("stopped at once", INTERRUPTED)
    except CheckpointError as error:
        fail(str(error), BAD_INPUT)
    except (MemoryError, ValueError, jax.errors.JaxRuntimeError) as error:
        if jax.process_count() > 1 and any(word in str(error) for word in LOST):
            # Not by way of the interpreter's end: there JAX waits for the dead, and aborts with a stack trace.
            text = "error: another process of this run is gone; go on in all of them with --resume\n"
            os.write(2, text.encode())
            os._exit(LOST_PROCESS)
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail("out of memory; make --num_samples, --seq_len, --num_features or --batch_size smaller", BAD_INPUT)
    except RuntimeError as error:
        if "nable to initialize backend" not in str(error):
            raise
        fail(f"{str(error).splitlines()[0]}; unset JAX_PLATFORMS, or install what it needs (BUILD.md)", BAD_INPUT)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        fail(f"cannot write{where}: {error.strerror}", BAD_INPUT)


def import_meanwhile(module: str) -> None:
    """In a thread: what brings Matplotlib takes a while to import, and may do so while XLA works."""
    threading.Thread(target=importlib.import_module, args=(module,), daemon=True).start()


@contextlib.contextmanager
def results_alone(alone: bool) -> Iterator[TextIO]:
    """Where results go: stdout, from which everything else that would be printed there is led to stderr.

    Also what C code and child processes print: Gloo says on stdout, in C++, how several processes are connected.
    """
    if not alone:
        yield sys.stdout
        return
    printed = sys.stdout
    printed.flush()
    with Output.to(os.dup(1), printed) as stdout:
        os.dup2(2, 1)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield stdout if _is_stdout(printed) else printed
        finally:
            printed.flush()
            ctypes.CDLL(None).fflush(None)  # what C code has printed into a buffer
            try:
                stdout.flush()
            finally:
                os.dup2(stdout.fileno(), 1)


def _is_stdout(stream: TextIO) -> bool:
    """Not so in a notebook, or where a test looks at what is printed."""
    try:
        return stream.fileno() == 1
    except OSError:
        return False


class StopSignals:
    """SIGTERM and Ctrl-C set a flag that is looked at after each epoch; a second Ctrl-C leaves at once.

    A thread listens too: Python calls handlers between its own instructions only, and an epoch is one of them.
    """

    def __init__(self) -> None:
        self.asked = False
        heard, told = os.pipe()
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked = True

    def _listen(self, heard: int) -> None:
        first = True
        while True:
            (number,) = os.read(heard, 1)
            if number == signal.SIGINT and not first:
                os.write(2, b"stopped at once\n")
                os._exit(INTERRUPTED)
            if number in (signal.SIGTERM, signal.SIGINT):
                os.write(2, b"stopping after this epoch (Ctrl-C again: at once)\n")
                first = False

    def __call__(self) -> bool:
        return self.asked


def fail(text: str, code: int) -> None:
    """One line on stderr, whatever a path in it holds, and out."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    print(f"error: {text}", file=sys.stderr)
    sys.exit(code)


def cache_folder(flags: RunFlags) -> Path | None:
    """Where compiled programs are kept, None for nowhere; ConfigError where they cannot be, or not safely.

    Nothing is made yet: bad input leaves nothing behind.
    """
    if not flags.compilation_cache:
        return None
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(flags.cache_dir) if flags.cache_dir else Path(cache_home) / "seqjax"
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    if not there.is_dir() or not os.access(there, os.W_OK):
        if flags.cache_dir:
            raise ConfigError(f"cache_dir={folder}: cannot be written ({there})")
        return None  # no home to write to: compile afresh
    status = there.stat()
    if there == folder.absolute() and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise ConfigError(
            f"cache_dir={folder}: others may write to it, and what lies there would be run; "
            f"name a folder of your own, or use --nocompilation_cache"
        )
    return folder


def use_compilation_cache(folder: Path | None) -> None:
    """Keep compiled programs between runs, however small, in a folder that its owner alone can read."""
    if folder is None:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"cache_dir={folder}: cannot be written ({error.strerror})") from None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
