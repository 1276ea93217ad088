"""The lowest loss that a sequence model can reach, and where the rest went.

From Python, on arrays of your own: `seqjax.diagnose(x, y)`, and with your model or training
`seqjax.diagnose(x, y, fit=fit)`.
"""

from typing import Any


def diagnose(x: Any, y: Any, **known: Any) -> dict[str, Any]:
    """What the labels need, what loss each class of model can reach, and what is odd about the arrays.

    x, y: as in `arrays.load`, `[N, T, F]` and `[N, T]`, arrays or paths of .npy files.
    known: `mask`, `x_val`, `y_val`, `mask_val`, `inputs`, `labels_per` and `batch_first` go to `arrays.load`; the
        rest, such as `observed_loss=0.6053` or `fit=fit`, to `data_diagnosis.diagnose`.

    Returns what `experiments.diagnose` writes as `result.json`; raises ConfigError, in one line, for what cannot
    be read.
    """
    from seqjax import arrays, data_diagnosis  # jax and flax take a while, and not everybody asks

    of_arrays = ("mask", "x_val", "y_val", "mask_val", "inputs", "labels_per", "batch_first")
    given = {name: known.pop(name) for name in of_arrays if name in known}
    return data_diagnosis.diagnose(arrays.load(x=x, y=y, **given), **known)
