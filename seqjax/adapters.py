"""Other frameworks' models, as a predict(x) or as two pure functions.  Imports `config`, `frameworks`,
`outputs` and `user_code`.

`load_object` finds what a flag names; `as_predict` makes a function from arrays to arrays of it, and
`as_trainable` an init and an apply for JAX; what a predict returned is read by `read_outputs`.

    framework      as_predict                           as_trainable
    function       predict(x)                           -
    PyTorch        a module, in the mode it is in       as a predict
    Keras 3        a model on any backend               on the JAX backend; elsewhere as a predict
    Flax Linen     (module, variables), or bound        a module, or (module, variables)
    Flax NNX       a module, in the mode it is in       a module, or its class, or a factory
    Equinox        a module, in the mode it is in       a module, or a factory that takes key
    functions      -                                    (init, apply), Haiku's transforms
"""

import functools
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.config import ConfigError
from seqjax.frameworks import KEYS, Foreign, foreign, is_a, is_keras, parameters_of
from seqjax.outputs import Outputs, log_probabilities, read_outputs, to_numpy, too_few_text
from seqjax.user_code import UserCodeError, guarded, load_object

__all__ = [
    "Outputs",
    "Trainable",
    "UserCodeError",
    "as_predict",
    "as_trainable",
    "guarded",
    "load_object",
    "log_probabilities",
    "read_outputs",
]

BATCH = 256  # sequences that a module is given at once: bounded memory, whatever N is

PREDICTS = (
    "predict(x), a PyTorch module, a Keras model, a Flax NNX or Equinox module, or a Linen (module, variables)"
)
TRAINABLES = (
    "a Flax Linen module or (module, variables), a Flax NNX or Equinox module, a Keras model, (init, apply), "
    "or a function of no arguments, or of a key alone, that returns one of these"
)


class Trainable(NamedTuple):
    """A model as pure functions.

    init: `key -> params`, a pytree of float arrays: those that are trained.
    apply: `(params, x [N, T, F]) -> outputs [N, T, K]` as at evaluation: no dropout, statistics as they stand.
        Pure, and traceable by JAX.  K is at least the number of classes, or 1 with two classes; the outputs may
        be logits or probabilities, `read_outputs` tells.
    framework: "flax.linen", "flax.nnx", "equinox", "keras" or "functions".
    params: the parameters that the object brought, trained or not; None where it brought none.
    apply_training: `(params, x, key) -> outputs` as in training, with dropout and the statistics of this batch;
        None for pure functions that make no difference.
    trained: whether `params` were trained: True and False where that can be told, else None.
    settled: None where the model keeps no statistics of its batches.  Else `(params, x) -> Trainable`, the same
        with the statistics (batch normalisation's means and variances) that training on x at these parameters
        would arrive at.  `apply` keeps those that the object brought or began with (of pure functions: those
        settled on the first x): after training through `apply_training` evaluate `settled(params, x).apply`.
    """

    init: Callable[[Any], Any]
    apply: Callable[[Any, Any], Any]
    framework: str
    params: Any | None = None
    apply_training: Callable[[Any, Any, Any], Any] | None = None
    trained: bool | None = None
    settled: Callable[[Any, Any], Any] | None = None


def as_predict(obj: Any, flag: str = "--predict", *, tokens: bool = False) -> Callable[[np.ndarray], np.ndarray]:
    """A function from inputs to outputs as NumPy arrays, of whatever predicts.

    obj: a function, which is given all of x at once; or a model of any framework (see the table above), which is
        given `BATCH` sequences at once, without gradients, in the mode that it is in: training mode that was left
        on is something to be found.  A function without arguments that returns a model is called first.
    tokens: x is `[N, T, 1]` whole numbers; the user's own code is given `[N, T]`.

    The function raises UserCodeError where theirs raises, ConfigError where no array came back.
    Raises ConfigError where obj is nothing that predicts.
    """
    obj = _from_factory(obj, flag).obj
    what = f"{flag}: {_name(obj)}"
    call = _predict_of(obj, what, tokens)
    if call is None:
        raise _unfit(obj, flag, PREDICTS)
    call = guarded(call, what)

    def predict(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x)
        lead = x.shape[:2]
        return to_numpy(call(x[..., 0] if tokens and x.ndim == 3 else x), lead, what)

    return predict


def as_trainable(
    obj: Any, x: np.ndarray, num_classes: int, flag: str = "--model", *, labels_per: str = "step"
) -> Trainable | Callable[[np.ndarray], np.ndarray]:
    """A model as pure functions for JAX; a predict as of `as_predict` where JAX cannot train it.

    x: inputs `[N, T, F]` (tokens: whole numbers, F = 1), of which mostly shape and type are used.  The model may
        take `[N, T, F]`; Equinox modules and pure functions also `[T, F]` or `[F]`; of tokens also `[N, T]`.
    num_classes: C.  labels_per: with "sequence" the model may give `[N, C]`, which then stands at every step.

    An NNX or Equinox module that comes ready made has no way to make itself anew: its `init` shuffles the entries
    of each array of two or more axes, which is a fresh draw where entries were drawn alike, and leaves biases and
    scales as they are.  A Keras model draws with its layers' initialisers.

    Raises ConfigError where obj is no model, or its outputs fit no `[N, T, C]`; UserCodeError where it raises.
    """
    obj, remake = _from_factory(obj, flag)
    name = f"{flag}: {_name(obj)}"
    made = guarded(foreign, name)(obj, remake, _example(x))  # an unbuilt Keras model is called here
    if made is None:
        if is_keras(obj) or is_a(obj, "torch.nn", "Module"):
            return as_predict(obj, flag, tokens=x.dtype.kind in "bui" and x.ndim == 3 and x.shape[2] == 1)
        hint = f"; {_signature(obj)} is neither; what predicts goes to --predict" if inspect.isroutine(obj) else ""
        raise _unfit(obj, flag, f"{TRAINABLES}{hint}")
    if remake is not None:  # made of a key just now; a factory without one may have loaded what was trained
        made = made._replace(params=None, trained=False)
    found = _search(made, x.shape, x.dtype, num_classes, labels_per, name)
    _refuse_params(*found, name)
    model = _trainable(*found)
    if model.framework == "functions" and model.settled is not None:  # Haiku's variances begin at 0
        return model.settled(model.init(jax.random.key(0)), np.asarray(x[:BATCH]))
    return model


def _example(x: np.ndarray) -> np.ndarray:
    """Zeros like two sequences of x, as a model takes them that has to be built."""
    tokens = x.dtype.kind in "bui" and x.ndim == 3 and x.shape[2] == 1
    return np.zeros((2, *(x.shape[1:2] if tokens else x.shape[1:])), x.dtype)


# --- What was handed over ----------------------------------------------------------------------------------------


def _name(obj: Any) -> str:
    if type(obj) is tuple:
        return f"({', '.join(map(_name, obj))})"
    return getattr(obj, "__name__", None) or type(obj).__name__


def _unfit(obj: Any, flag: str, expected: str) -> ConfigError:
    named = getattr(obj, "__name__", None) or "what was given"
    kind = "a class" if inspect.isclass(obj) else f"of type {type(obj).__name__}"
    of = f" {_name(obj)}" if type(obj) is tuple else ""
    return ConfigError(f"{flag}: {named} is {kind}{of}; expected {expected}")


def _signature(function: Any) -> str:
    return f"{_name(function)}({', '.join(parameters_of(function))})"


def is_key(name: str) -> bool:
    """Whether an argument of this name takes a random key."""
    return name in (*KEYS, "rngs") or name.lower().endswith("key")


class _Product(NamedTuple):
    """What a factory made, and `key -> another` where it takes a key."""

    obj: Any
    remake: Callable | None = None


def _from_factory(obj: Any, flag: str) -> _Product:
    """The object itself; or, where it is a class or a function that needs nothing but a key, what it makes."""
    is_class = inspect.isclass(obj)
    if not (is_class or inspect.isroutine(obj) or isinstance(obj, functools.partial)):
        return _Product(obj)
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = {name: p for name, p in parameters_of(obj).items() if p.kind not in rest}
    needed = [name for name, p in parameters.items() if p.default is p.empty or is_key(name)]
    others = [name for name in needed if not is_key(name)]
    if is_class and others:
        raise ConfigError(
            f"{flag}: {_name(obj)} is a class that needs {', '.join(others)}: expected an object of it, or a "
            f"function without arguments that returns one"
        )
    # A function of one argument predicts, whatever its default; a builtin that does not tell may.
    if not is_class and (others or (not needed and parameters) or inspect.isbuiltin(obj)):
        return _Product(obj)

    def make(key: Any) -> Any:
        keys = {name: jax.random.fold_in(key, n) for n, name in enumerate(needed)}
        return obj(**{name: sys.modules["flax.nnx"].Rngs(k) if name == "rngs" else k for name, k in keys.items()})

    make = guarded(make, f"{flag}: {_name(obj)}")
    return _Product(make(jax.random.key(0)), make if needed else None)


# --- A predict ---------------------------------------------------------------------------------------------------


def _predict_of(obj: Any, what: str, tokens: bool) -> Callable | None:
    if is_keras(obj):
        if hasattr(obj, "predict"):
            return lambda x: obj.predict(x, batch_size=BATCH, verbose=0)
        to_array = sys.modules["keras"].ops.convert_to_numpy
        return _in_batches(lambda x: to_array(obj(x, training=False)), what)
    if is_a(obj, "torch.nn", "Module"):
        return _in_batches(functools.partial(_call_torch, obj, tokens), what)
    made = foreign(obj)
    if made is not None:
        if made.params is None:
            raise ConfigError(f"{what} has no trained parameters; expected {PREDICTS}")
        return _predict_of_made(made, what)
    if callable(obj) and not inspect.isclass(obj):
        return obj
    return getattr(obj, "predict", None)


def _in_batches(call: Callable, what: str) -> Callable:
    def predict(x: np.ndarray) -> np.ndarray:
        parts = [x[start : start + BATCH] for start in range(0, len(x), BATCH)]
        return np.concatenate([to_numpy(call(part), part.shape[:2], what) for part in parts])

    return predict


def _call_torch(module: Any, tokens: bool, x: np.ndarray) -> Any:
    """One batch through a PyTorch module, which is left as it was."""
    torch = sys.modules["torch"]
    floating = next((p for p in module.parameters() if p.is_floating_point()), None)
    device = next((p.device for p in (*module.parameters(), *module.buffers())), "cpu")
    indices = tokens or (x.dtype.kind in "bui" and x.ndim == 2)
    dtype = torch.int64 if indices else torch.float32 if floating is None else floating.dtype
    # Batch normalisation in training mode would remember what it saw here.
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.no_grad():
        try:
            return module(torch.as_tensor(np.ascontiguousarray(x), device=device).to(dtype))
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)


def _predict_of_made(made: Foreign, what: str) -> Callable:
    """A module of JAX in the mode that it was left in; each call has another key, as in its own framework."""
    programs: dict[Any, Callable] = {}
    count = itertools.count()

    def program_for(shape: tuple, dtype: Any) -> Callable:
        one, form = _search(made, shape, dtype, None, "sequence", what)
        form = form._replace(read=lambda out: out)
        constants = one.constants(form.example)
        return jax.jit(lambda x, key: _call(one, form, one.params, constants, x, None, key)[0])

    def predict(x: np.ndarray) -> np.ndarray:
        at = (x.shape[1:], x.dtype)
        if at not in programs:
            programs[at] = program_for(x.shape, x.dtype)
        key = jax.random.fold_in(jax.random.key(0), next(count))
        return _in_batches(lambda part: programs[at](part, key), what)(x)

    return predict


# --- The form in which a model takes inputs ----------------------------------------------------------------------


class _Form(NamedTuple):
    """feed: x `[N, T, F]` to what the model takes.  levels: axes that it is mapped over.

    example: what it is given, as zeros.  read: its outputs to `[N, T, K]`.
    """

    feed: Callable
    levels: int
    example: Any
    read: Callable


def _forms(shape: tuple, dtype: Any, framework: str) -> Iterator[list[tuple[Callable, int]]]:
    """Ways to hand over x, in groups: of a group, the first that does not raise is meant."""
    whole = np.dtype(dtype).kind in "bui"
    feeds = [lambda x: jnp.asarray(x)]
    if whole:
        feeds += [lambda x: jnp.asarray(x, jnp.float32)]
    if whole and len(shape) == 3 and shape[2] == 1:
        feeds = [lambda x: jnp.asarray(x)[..., 0], *feeds]
    # Equinox modules are written for one sequence or one step; functions may be.
    levels = {"equinox": (1, 2, 0), "functions": (0, 1, 2)}.get(framework, (0,))
    for feed in feeds:
        if framework == "equinox":
            yield from ([(feed, level)] for level in levels)
        else:
            yield [(feed, level) for level in levels]


def _search(
    one: Foreign, shape: tuple, dtype: Any, num_classes: int | None, labels_per: str, what: str
) -> tuple[Foreign, _Form]:
    """How the model takes inputs of this shape and gives outputs that fit; nothing is computed for that."""
    steps = shape[1]
    training = None if num_classes is None else False
    n = next(k for k in itertools.count(2) if k not in (*shape[1:], num_classes))  # like no other axis
    x = jax.ShapeDtypeStruct((n, *shape[1:]), jax.dtypes.canonicalize_dtype(dtype))
    raised, misfit = None, None
    one = one._replace(**{name: guarded(getattr(one, name), what) for name in ("init", "constants", "call")})
    for group in _forms(shape, dtype, one.framework):
        for feed, levels in group:
            example = feed(np.zeros((n, *shape[1:]), dtype))[(0,) * levels]
            form = _Form(feed, levels, example, lambda out: out)
            try:
                out = jax.eval_shape(guarded(functools.partial(_outputs, one, form, training), what), x)
            except UserCodeError as error:
                raised = raised or error
                continue
            read = _reader(getattr(out, "shape", None), n, steps, num_classes, labels_per)
            if read is not None:
                return one, form._replace(read=read)
            misfit = misfit or (out,)  # which may be None
            break
    if misfit is None:
        assert raised is not None
        raise raised
    raise ConfigError(_misfit_text(*misfit, (n, *shape[1:]), num_classes, labels_per, what))


def _refuse_params(one: Foreign, form: _Form, what: str) -> None:
    """ConfigError where there is nothing to train, or something that cannot be."""
    found = []

    def look() -> int:
        params = one.init(jax.random.key(0), form.example) if one.params is None else one.params
        found.extend(jax.tree_util.tree_flatten_with_path(params)[0])
        return 0

    jax.eval_shape(look)  # nothing is computed for that
    if not found:
        raise ConfigError(
            f"{what} has no parameters, so there is nothing to train; what predicts goes to --predict"
        )
    for path, leaf in found:
        if not isinstance(leaf, float) and not (hasattr(leaf, "dtype") and _floating(leaf)):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            where = f"params{jax.tree_util.keystr(path)}"
            raise ConfigError(
                f"{what}: {where} is of type {kind}; expected float arrays, as all of params is trained"
            )


def _outputs(one: Foreign, form: _Form, training: bool | None, x: Any) -> Any:
    key = jax.random.key(0)
    params = one.init(key, form.example) if one.params is None else one.params
    return _call(one, form, params, one.constants(form.example), x, training, key)[0]


def _reader(found: Any, n: int, steps: int, num_classes: int | None, per: str) -> Callable | None:
    """From outputs of this shape to `[N, T, K]`; None where it does not fit."""

    def enough(k: int) -> bool:
        return num_classes is None or k >= num_classes or (k == 1 and num_classes == 2)

    units = num_classes in (None, 2)
    match found:
        case (a, b, k) if (a, b) == (n, steps) and enough(k):
            return lambda out: out
        case (a, b) if (a, b) == (n, steps) and units and steps > 1 and (per, b) != ("sequence", num_classes):
            return lambda out: out[..., None]
        case (a, k) if a == n and enough(k) and (per == "sequence" or steps == 1):
            return lambda out: jnp.broadcast_to(out[:, None], (out.shape[0], steps, out.shape[1]))
        case (a,) if a == n and units and (per == "sequence" or steps == 1):
            return lambda out: jnp.broadcast_to(out[:, None, None], (out.shape[0], steps, 1))
    return None


def _misfit_text(out: Any, shape: tuple, num_classes: Any, per: str, what: str) -> str:
    right = f"[{shape[0]}, {shape[1]}, {num_classes or 'classes'}] (sequences, steps, classes)"
    given, found = list(shape), getattr(out, "shape", None)
    if found is None:
        return f"{what} gives a {type(out).__name__} for x {given}: expected one array {right}"
    guess = ""
    if found[:2] == shape[:2] and len(found) == 3 and num_classes:
        guess = f"; {too_few_text(found[2], num_classes)}"
    elif found[:1] == shape[:1] and len(found) == 2 and per == "step":
        guess = "; one output a sequence, where every step has a label"
    return f"{what} gives {list(found)} for x {given}: expected {right}{guess}"


def _call(
    one: Foreign, form: _Form, params: Any, constants: Any, x: Any, training: bool | None, key: Any
) -> tuple:
    """Outputs `[N, T, K]`, and the constants after that."""

    def call(x: Any, key: Any) -> tuple:
        return one.call(params, constants, x, training, key)

    x = form.feed(x)
    if form.levels:
        key = jax.random.split(key, x.shape[: form.levels])
    for _ in range(form.levels):
        call = jax.vmap(call)
    out, after = call(x, key)
    return form.read(out), after


def _trainable(one: Foreign, form: _Form, constants: Any = None) -> Trainable:
    constants = one.constants(form.example) if constants is None else constants
    key = jax.random.key(0)
    step = jax.jit(lambda params, constants, x: _call(one, form, params, constants, x, True, key)[1])
    keeps = any(map(_floating, jax.tree.leaves(constants))) and not form.levels
    return Trainable(
        init=lambda key: one.init(key, form.example),
        apply=lambda params, x: _call(one, form, params, constants, x, False, key)[0],
        framework=one.framework,
        params=one.params,
        apply_training=(lambda params, x, key: _call(one, form, params, constants, x, True, key)[0])
        if one.has_training
        else None,
        trained=one.trained,
        settled=(lambda params, x: _trainable(one, form, _settled(step, params, constants, jnp.asarray(x))))
        if keeps
        else None,
    )


def _settled(step: Callable, params: Any, constants: Any, x: Any) -> Any:
    """The statistics that a training step on x leaves as they are.

    step: `(params, constants, x) -> constants`.  A running mean goes from s to a s + b, whatever its momentum:
    steps from s = 0 and from s = 1 give a and b, and b / (1 - a) stays.  What training does not move has a = 1.
    Haiku divides its means by what the first steps lack: then a > 1, and the first step from 0 is the mean.
    """

    def filled(value: float) -> Any:
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, value) if _floating(leaf) else leaf, constants)

    def settle(before: Any, b: Any, one: Any) -> Any:
        a = one - b
        return jnp.where(a == 1, before, jnp.where(a > 1, b, b / jnp.where(a < 1, 1 - a, 1)))

    b, one = (step(params, filled(value), x) for value in (0.0, 1.0))
    return jax.tree.map(lambda c, b, one: settle(c, b, one) if _floating(c) else c, constants, b, one)


def _floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)
