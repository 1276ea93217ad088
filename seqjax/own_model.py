"""A model of somebody's own, named `module:object`, as two pure functions that the kit's training takes.

Imports `batch`, `config`, `adapters`, `outputs` and `user_code`.  What `adapters` can train can be named here; a
function that makes it is given those settings that its arguments name.  What would be trained otherwise than its
owner does it (with dropout, with the statistics of a batch) is refused.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.adapters import Trainable, as_trainable, is_key
from seqjax.batch import Array
from seqjax.config import Config, ConfigError
from seqjax.outputs import log_probabilities, read_outputs
from seqjax.user_code import guarded, load_object

KEPT = 16  # models that are kept as they were built, since a run asks for the same one several times
TRIED = 16  # sequences on which a model is tried

# What a function that makes a model may take by name: always known; and only where they were given.
SIZES = ("seq_len", "num_features", "num_classes")
ARGUMENTS = ("hidden_sizes", "activation", "kernel_size", "num_heads", "num_layers", "remat", "step_position")


class Built(NamedTuple):
    """init: `key -> params`, a flat dict of float arrays.  apply: `(params, x [B, T, F]) -> logits [B, T, C]`."""

    init: Callable[[jax.Array], dict[str, jax.Array]]
    apply: Callable[[dict[str, jax.Array], Array], jax.Array]


_built: dict[Any, tuple[Any, Built]] = {}


def settings(config: Config) -> dict[str, Any]:
    """Those options that were given and that the model takes.

    Raises ConfigError where there is no such object, and for an option that it does not take; UserCodeError
    where its module cannot be imported.
    """
    takes = _arguments(load_object(config.model, "--model"))
    found = {name: getattr(config, name) for name in ARGUMENTS if getattr(config, name) not in (None, False)}
    for name, value in found.items():
        if name not in takes:
            shown = ",".join(map(str, value)) if isinstance(value, tuple) else value
            raise ConfigError(
                f"{name}={shown}: model={config.model} has no such choice; expected a function with an argument "
                f"of that name"
            )
    return found


def build(config: Config, num_features: int, num_classes: int) -> Built:
    """The model, made ready for inputs `[B, seq_len, num_features]`; raises as `settings` does, and as
    `adapters.as_trainable` does where it is no model."""
    found = load_object(config.model, "--model")
    chosen = settings(config)
    key = (config.model, id(found), config.seq_len, num_features, num_classes, *sorted(chosen.items()))
    if key not in _built:
        while len(_built) >= KEPT:
            del _built[next(iter(_built))]
        sizes = dict(zip(SIZES, (config.seq_len, num_features, num_classes), strict=True))
        what = f"--model={config.model}"
        obj = _with_settings(found, sizes | chosen, what)
        x = np.random.default_rng(0).normal(size=(TRIED, config.seq_len, num_features)).astype(np.float32)
        # Beside it the object itself, so that its id stays its own.
        _built[key] = found, _as_built(obj, x, num_classes, what)
    return _built[key][1]


def _arguments(found: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a function that makes a model; none of what is one, or of a class."""
    if not inspect.isroutine(found):
        return {}
    return dict(inspect.signature(found).parameters)


def _with_settings(found: Any, values: dict[str, Any], what: str) -> Any:
    """A function that needs nothing but a key, where `found` takes some of the values by name; else `found`."""
    arguments = _arguments(found)
    given = {name: value for name, value in values.items() if name in arguments}
    if not {*values, *ARGUMENTS} & {*arguments}:
        return found
    keys = [p.replace(kind=p.KEYWORD_ONLY, default=p.empty) for p in arguments.values() if is_key(p.name)]
    known = {*given, *(key.name for key in keys)}
    missing = [
        p.name
        for p in arguments.values()
        if p.default is p.empty and p.name not in known and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if missing:
        flags = " ".join(f"--{name}" for name in missing if name in ARGUMENTS)
        known = ", ".join(SIZES + ARGUMENTS)
        hint = f"give {flags}, or a default" if flags else f"expected arguments among {known}"
        raise ConfigError(f"{what}: {found.__name__}{inspect.signature(found)} needs {', '.join(missing)}; {hint}")

    def make(**keys: Any) -> Any:
        return found(**given, **keys)

    make.__name__ = found.__name__
    make.__signature__ = inspect.Signature(keys)  # pyright: ignore[reportFunctionMemberAccess]
    return make


def _as_built(obj: Any, x: np.ndarray, num_classes: int, what: str) -> Built:
    model = as_trainable(obj, x, num_classes, what)
    if not isinstance(model, Trainable):
        raise ConfigError(
            f"{what}: JAX cannot train it (PyTorch, or Keras on another backend: set KERAS_BACKEND=jax); for its "
            f"own training there is experiments.diagnose --fit"
        )
    params = jax.jit(model.init)(jax.random.key(0))
    _refuse_modes(model, params, x, what)
    _refuse_gradients(model, params, x, what)
    kind = _kind(model, params, x, num_classes, what)
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    # One flat dict, whatever the framework's own tree is: checkpoints and params.npz take it as it is.
    names = [jax.tree_util.keystr(path, simple=True, separator=".").replace("/", ".") for path, _ in leaves]
    names = [f"{name}_{n}" if name in names[:n] or not name else name for n, name in enumerate(names)]

    def init(key: jax.Array) -> dict[str, jax.Array]:
        return dict(zip(names, jax.tree.leaves(model.init(key)), strict=True))

    def apply(params: dict[str, jax.Array], inputs: Array) -> Any:
        outputs = model.apply(tree.unflatten([params[name] for name in names]), inputs)
        if kind == "logits":
            return outputs
        return log_probabilities(outputs, kind, jnp.float32, jnp)  # which are logits too

    return Built(init, guarded(apply, what))


def _refuse_modes(model: Trainable, params: Any, x: np.ndarray, what: str) -> None:
    """ConfigError where the model is another in training: the kit's own training knows one function alone."""
    if model.apply_training is None:
        return
    out = np.asarray(model.apply(params, jnp.asarray(x)))
    training = np.asarray(model.apply_training(params, jnp.asarray(x), jax.random.key(1)))
    # Not to the bit: two programs for one function round differently.
    if not np.allclose(out, training, rtol=1e-3, atol=1e-5, equal_nan=True):
        raise ConfigError(
            f"{what}: is another function in training (dropout, batch normalisation), which the kit's own "
            f"training does not know; leave it out, or hand over the whole training (experiments.diagnose --fit)"
        )


def _refuse_gradients(model: Trainable, params: Any, x: np.ndarray, what: str) -> None:
    """ConfigError where the outputs have no gradient; nothing is computed."""

    def mean(params: Any) -> jax.Array:
        out = model.apply(params, jnp.asarray(x))
        if not jnp.issubdtype(out.dtype, jnp.floating):
            raise ConfigError(f"{what}: gives {out.dtype} outputs; expected floats: gradients need them")
        return out.mean()

    jax.eval_shape(guarded(jax.grad(mean), what), params)


def _kind(model: Trainable, params: Any, x: np.ndarray, num_classes: int, what: str) -> str:
    """One of `outputs.KINDS`; read also at four times the parameters, where logits leave [0, 1] if they can."""
    kinds = []
    for of in (params, jax.tree.map(lambda leaf: 4 * leaf, params)):
        raw = np.asarray(model.apply(of, jnp.asarray(x)))
        if not np.isfinite(raw).all():
            raise ConfigError(f"{what}: gives outputs that are not finite at its first parameters")
        kinds.append(read_outputs(raw, len(x), x.shape[1], num_classes, what=what).kind)
    return kinds[0] if kinds[0] == kinds[1] else next(kind for kind in kinds if kind.startswith("logit"))


def num_parameters(built: Built) -> int:
    """Of the whole model; nothing is computed."""
    params = jax.eval_shape(built.init, jax.eval_shape(jax.random.key, 0))
    return sum(math.prod(leaf.shape) for leaf in params.values())
