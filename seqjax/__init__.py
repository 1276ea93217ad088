"""The lowest loss that a sequence model can reach, and where the rest went.

    import seqjax

    seqjax.forecast(seqjax.Config(seq_len=2))                # what is known before training
    seqjax.run(seqjax.Config(seq_len=2, model="gru"))        # forecast, train, account
    seqjax.sweep(seq_len=[1, 2, 3], model=["dense", "gru"])  # a grid of experiments
    seqjax.diagnose(x, y, fit=fit)                           # arrays of your own, and your training

Results show themselves at a prompt and in a notebook; their `values` are what the commands write as
`result.json`.  JAX is imported when the first of these is used.
"""

import importlib
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqjax.config import Config
    from seqjax.data_diagnosis import Diagnosis
    from seqjax.experiment import run
    from seqjax.experiment import run_forecast as forecast
    from seqjax.grid import sweep
    from seqjax.models import Model
    from seqjax.tasks import Task

__all__ = ["Config", "Model", "Task", "diagnose", "forecast", "run", "sweep"]

_WHERE = {
    "Config": "config.Config",
    "Model": "models.Model",
    "Task": "tasks.Task",
    "forecast": "experiment.run_forecast",
    "run": "experiment.run",
    "sweep": "grid.sweep",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _WHERE[name].partition(".")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def diagnose(x: Any, y: Any, **known: Any) -> "Diagnosis":
    """What the labels need, what loss each class of model can reach, and what is odd about the arrays.

    x, y: as in `arrays.load`, `[N, T, F]` and `[N, T]`, arrays or paths of .npy files.
    known: `mask`, `x_val`, `y_val`, `mask_val`, `inputs`, `labels_per` and `batch_first` go to `arrays.load`; the
        rest, such as `observed_loss=0.6053` or `fit=fit`, to `data_diagnosis.diagnose`.

    Returns what `experiments.diagnose` writes as `result.json`, a dict that shows itself; raises ConfigError, in
    one line, for what cannot be read.
    """
    from seqjax import arrays, data_diagnosis  # jax and flax take a while, and not everybody asks
    from seqjax.config import unknown_name

    of_arrays = ("mask", "x_val", "y_val", "mask_val", "inputs", "labels_per", "batch_first")
    names = [*of_arrays, *list(inspect.signature(data_diagnosis.diagnose).parameters)[1:]]
    for name in known:
        if name not in names:
            raise unknown_name("argument", name, names)
    given = {name: known.pop(name) for name in of_arrays if name in known}
    return data_diagnosis.Diagnosis(data_diagnosis.diagnose(arrays.load(x=x, y=y, **given), **known))
