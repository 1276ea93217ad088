"""What every command does around its work: one line for an error, the right exit code, the cache.

Exit codes: 0 done; 2 bad input or bad flags; 3 the loss is not finite; 75 stopped, and
can be resumed; 130 a second Ctrl-C.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import jax

from experiments.flags import HelpRequested, RunFlags
from seqjax.checkpoints import CheckpointError
from seqjax.config import ConfigError
from seqjax.experiment import NotFiniteError, StoppedError

BAD_INPUT, NOT_FINITE, STOPPED, INTERRUPTED = 2, 3, 75, 130


def run_command(main: Callable[[list[str]], None], doc: str | None) -> None:
    """Run `main(argv)` and leave the process with the exit code that belongs to how it ended."""
    try:
        main(sys.argv)
    except HelpRequested as help_text:
        print(doc, help_text, sep="\n")
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
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        fail("out of memory; make --num_samples, --seq_len, --num_features or --batch_size smaller", BAD_INPUT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `| head` closed our output: no complaint
        sys.exit(0)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        fail(f"cannot write{where}: {error.strerror}", BAD_INPUT)


class StopSignals:
    """SIGTERM and Ctrl-C set a flag that is looked at after each epoch; a second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.asked and number == signal.SIGINT:
            os.write(2, b"stopped at once\n")
            os._exit(INTERRUPTED)
        self.asked = True
        os.write(2, b"stopping after this epoch (Ctrl-C again: at once)\n")

    def __call__(self) -> bool:
        return self.asked


def fail(text: str, code: int) -> None:
    """One line on stderr, and out."""
    print(f"error: {text}", file=sys.stderr)
    sys.exit(code)


def use_compilation_cache(flags: RunFlags) -> None:
    """Keep compiled programs between runs, however small, in a folder that only its owner can read.

    A program that a stranger could have put there would be run as ours.
    """
    if not flags.compilation_cache:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(flags.cache_dir) if flags.cache_dir else Path(cache_home) / "seqjax"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner, mode = folder.stat().st_uid, folder.stat().st_mode
    except OSError as error:
        if flags.cache_dir:
            raise ConfigError(f"cache_dir={folder}: cannot be written ({error.strerror})") from None
        return  # no home to write to: compile afresh
    if owner != os.getuid() or mode & 0o022:
        raise ConfigError(
            f"cache_dir={folder}: others may write to it, and what lies there would be run; "
            f"name a folder of your own, or use --nocompilation_cache"
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
