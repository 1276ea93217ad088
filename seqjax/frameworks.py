"""Models of the frameworks that JAX can train, as pure functions.  Imports nothing of the library.

A framework is imported only where an object of it was handed over, so it is there already.  In which form a model
takes inputs is found in `adapters`.
"""

import gc
import inspect
import math
import sys
from collections import OrderedDict  # keeps the order of layers as a pytree, too
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# An argument by which a model is told what it is called for, and its value in training.
MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "inference": False,
    "use_running_average": False,
}
KEYS = ("rng", "key", "prng", "rng_key", "prng_key")  # names of an argument that is a JAX key


class Foreign(NamedTuple):
    """A model of some framework; x is in the form that it takes.

    framework: its name.  params: those that the object brought, or None.  trained: whether that was seen.
    init: `(key, x) -> params`, float arrays.  constants: `x -> constants`, arrays that are not trained.
    call: `(params, constants, x, training, key) -> (outputs, constants after it)`, pure and traceable.  training:
        True, False, or None for the mode that the object was left in.
    has_training: whether training may make a difference.
    """

    framework: str
    init: Callable
    constants: Callable
    call: Callable
    params: Any | None = None
    trained: bool | None = None
    has_training: bool = True


def is_a(obj: Any, module: str, name: str) -> bool:
    """Whether it is of that class, for which nothing is imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(obj, kind)


def is_keras(obj: Any) -> bool:
    """A Keras 3 layer or model, on any backend (on PyTorch's it is a module of PyTorch too)."""
    return is_a(obj, "keras", "Layer")


def foreign(obj: Any, remake: Callable | None = None, x: np.ndarray | None = None) -> Foreign | None:
    """A model as pure functions; None where it is none that JAX can train.

    remake: `key -> another such object`, where that is known.  x: `[n, T, F]`, to build a Keras model with.
    """
    pair: Any = obj if isinstance(obj, tuple) and len(obj) == 2 else None
    if is_a(obj, "flax.linen", "Module"):
        module: Any = obj
        return _linen(*module.unbind()) if module.scope is not None else _linen(module, None)
    if pair and is_a(pair[0], "flax.linen", "Module"):
        return _linen(*pair)
    if is_a(obj, "flax.nnx", "Module"):
        return _nnx(obj, remake)
    if is_keras(obj):
        return _keras(obj, x) if sys.modules["keras"].backend.backend() == "jax" else None
    if is_a(obj, "equinox", "Module"):
        return _equinox(obj, remake)
    init, apply = pair or (getattr(obj, "init", None), getattr(obj, "apply", None))
    if inspect.isclass(init) or inspect.isclass(apply):
        return None
    return _functions(init, apply) if callable(init) and callable(apply) else None


MOST = 0.5  # of a model's parameters: what is less, a table of positions, may be fixed on purpose


class LeftOut(NamedTuple):
    """Parameters of PyTorch that had a gradient and that no optimiser held; or that were frozen in a model (of
    PyTorch or Keras) of which others were not.

    layers: how many of them by kind of layer.  share: of all that had a gradient, or of that model's.
    """

    layers: dict[str, int]
    share: float
    frozen: bool = False


def watch_training(run: Callable[[], Any]) -> tuple[Any, LeftOut | None]:
    """What a training returns, and what it left out; of models that it made itself."""
    before = [model for model, _, _ in _partly_frozen()]
    found, left = _watch_optimisers(run)
    for model, layers, share in _partly_frozen() if left is None else []:
        if share >= MOST and not any(model is other for other in before):
            left = LeftOut(layers, share, frozen=True)
    return found, left


def _partly_frozen() -> list[tuple[Any, dict[str, int], float]]:
    """Models, the numbers of their frozen parameters by kind of layer, and the share that these are.

    A model that is frozen as a whole is one that another learns from, or an average.
    """
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    found = []
    for model in gc.get_objects() if torch or keras else []:
        if torch is not None and issubclass(type(model), torch.nn.Module):
            weights = [
                (type(layer).__name__, p.numel(), p.requires_grad)
                for layer in model.modules()
                for p in layer._parameters.values()
                if type(p) is torch.nn.Parameter
            ]
        elif keras is not None and issubclass(type(model), keras.Model):
            weights = [
                (type(layer).__name__, math.prod(weight.shape), weight.trainable)
                for layer in model._flatten_layers()
                for weight in layer._trainable_variables
            ]
        else:
            continue
        layers: dict[str, int] = {}
        for kind, size, trained in weights:
            if not trained:
                layers[kind] = layers.get(kind, 0) + size
        if layers and any(trained for _, _, trained in weights):
            found.append((model, layers, sum(layers.values()) / sum(size for _, size, _ in weights)))
    return found


def _watch_optimisers(run: Callable[[], Any]) -> tuple[Any, LeftOut | None]:
    """What a training in PyTorch returns, and what its optimisers left out.

    None where no optimiser of PyTorch took a step, or they left out nothing.  What had a gradient before is not
    counted: another training may have moved it.
    """
    torch, optimisers = sys.modules.get("torch"), sys.modules.get("torch.optim.optimizer")
    register = getattr(optimisers, "register_optimizer_step_post_hook", None)
    if torch is None or register is None:
        return run(), None

    def with_gradient() -> list[Any]:
        kind = torch.nn.Parameter
        return [o for o in gc.get_objects() if type(o) is kind and o.requires_grad and o.grad is not None]

    known = {id(parameter): parameter for parameter in with_gradient()}
    held: dict[int, Any] = {}  # the parameters themselves: a number alone may be given again

    def step(optimiser: Any, *_: Any) -> None:
        held.update((id(p), p) for group in optimiser.param_groups for p in group["params"])

    handle = register(step)
    try:
        found = run()
    finally:
        handle.remove()
    moved = [p for p in with_gradient() if id(p) not in known]
    left = {id(p): p for p in moved if id(p) not in held}
    if not held or not left:
        return found, None
    layers: dict[str, int] = {}
    for module in [o for o in gc.get_objects() if issubclass(type(o), torch.nn.Module)]:
        for parameter in module._parameters.values():
            if (one := left.pop(id(parameter), None)) is not None:
                layers[type(module).__name__] = layers.get(type(module).__name__, 0) + one.numel()
    if left:
        layers["Parameter"] = sum(one.numel() for one in left.values())
    return found, LeftOut(layers, sum(layers.values()) / sum(p.numel() for p in moved))


def parameters_of(function: Any) -> dict[str, inspect.Parameter]:
    """Its parameters by name, without self; none where it does not tell."""
    is_class = inspect.isclass(function)  # the metaclass of NNX hides what its classes take
    try:
        found = dict(inspect.signature(function.__init__ if is_class else function).parameters)
    except (ValueError, TypeError):
        return {}
    return dict(list(found.items())[is_class:])


def _mode(function: Callable, training: bool | None) -> dict[str, bool]:
    """The arguments that tell a function whether it trains, among those that it takes."""
    return {name: value is bool(training) for name, value in MODES.items() if name in parameters_of(function)}


def _linen(module: Any, variables: Any) -> Foreign:
    if variables is not None:
        variables = variables if "params" in variables else {"params": variables}

    def told(training: bool | None) -> tuple[Any, dict[str, bool]]:
        fields = {f for f in type(module).__dataclass_fields__ if f in MODES}
        clone = module.clone(**{f: MODES[f] is bool(training) for f in fields}) if fields else module
        return clone, _mode(type(module).__call__, training)

    def init_all(key: Any, x: Any) -> dict:
        clone, mode = told(False)
        init_key, dropout_key = jax.random.split(key)
        return dict(clone.init({"params": init_key, "dropout": dropout_key}, x, **mode))

    def constants(x: Any) -> dict:
        found = dict(variables) if variables is not None else jax.jit(init_all)(jax.random.key(0), x)
        return {name: value for name, value in found.items() if name not in ("params", "intermediates")}

    def call(params: Any, constants: dict, x: Any, training: bool | None, key: Any) -> tuple:
        clone, mode = told(training)
        rngs = {"params": key, "dropout": jax.random.fold_in(key, 1)}  # the first stands in for other streams
        mutable = list(constants) if training else []
        out, new = clone.apply({"params": params, **constants}, x, **mode, rngs=rngs, mutable=mutable)
        return out, {**constants, **new}

    params = None if variables is None else variables["params"]
    trained = None if variables is None else True
    return Foreign(
        "flax.linen", lambda key, x: init_all(key, x).get("params", {}), constants, call, params, trained
    )


def _nnx(module: Any, remake: Callable | None) -> Foreign:
    nnx = sys.modules["flax.nnx"]

    def parts(module: Any, training: bool | None) -> tuple:
        module = nnx.clone(module)  # the user's own stays in its mode
        if training is not None:
            (module.train if training else module.eval)()
        return nnx.split(module, nnx.Param, ...)

    graphs = {training: parts(module, training)[0] for training in (None, False, True)}
    _, params, rest = parts(module, None)

    def init(key: Any, x: Any) -> Any:
        return _shuffled(key, params) if remake is None else parts(remake(key), None)[1]

    def call(params: Any, constants: Any, x: Any, training: bool | None, key: Any) -> tuple:
        # Unflattened anew, so that its variables belong to the trace that is under way.
        params, constants = jax.tree.map(lambda leaf: leaf, (params, constants))
        one = nnx.merge(graphs[training], params, constants)
        nnx.reseed(one, policy="match_shape", default=key, dropout=jax.random.fold_in(key, 1))
        arguments = {"rngs": nnx.Rngs(key)} if "rngs" in parameters_of(type(one).__call__) else {}
        out = one(x, **arguments, **_mode(type(one).__call__, training))
        return out, nnx.split(one, nnx.Param, ...)[2]

    return Foreign("flax.nnx", init, lambda x: rest, call, params)


def _equinox(module: Any, remake: Callable | None) -> Foreign:
    eqx = sys.modules["equinox"]
    params, static = eqx.partition(module, eqx.is_inexact_array)

    def init(key: Any, x: Any) -> Any:
        return _shuffled(key, params) if remake is None else eqx.partition(remake(key), eqx.is_inexact_array)[0]

    def call(params: Any, constants: Any, x: Any, training: bool | None, key: Any) -> tuple:
        one = eqx.combine(params, static)
        if training is not None:
            one = eqx.nn.inference_mode(one, value=not training)
        keys = {name: key for name in KEYS if name in parameters_of(type(one).__call__)}
        return one(x, **keys, **_mode(type(one).__call__, training)), constants

    return Foreign("equinox", init, lambda x: {}, call, params)


def _keras(model: Any, x: np.ndarray | None) -> Foreign:
    keras = sys.modules["keras"]
    brought = model.built
    if not brought and x is not None:
        model(x)
    variables = (model.trainable_variables, model.non_trainable_variables)
    # Copies: Keras gives its own arrays away to the next program of `fit` or `predict`, and deletes them.
    values, constants = ([jnp.array(variable.value) for variable in some] for some in variables)
    paths: list[str] = []
    for n, variable in enumerate(variables[0]):  # two layers may have one name
        paths.append(f"{variable.path}_{n}" if variable.path in paths else variable.path)
    params = OrderedDict(zip(paths, values, strict=True))
    layers = model._flatten_layers(include_self=True, recursive=True)
    layer_of = {id(variable): layer for layer in layers for variable in layer._trainable_variables}
    # The seeds of its dropout, which are among its variables.
    seeds = [n for n, v in enumerate(variables[1]) if v.name == "seed_generator_state"]

    def init(key: Any, x: Any) -> dict[str, Any]:
        keys = jax.random.split(key, len(params) + 1)
        drawn = [_drawn(keys[n], layer_of.get(id(v)), v, values[n]) for n, v in enumerate(variables[0])]
        return OrderedDict(zip(paths, drawn, strict=True))

    def call(params: dict[str, Any], constants: list, x: Any, training: bool | None, key: Any) -> tuple:
        given = list(constants)
        for n in seeds:
            given[n] = jax.random.bits(jax.random.fold_in(key, n), (2,), given[n].dtype)
        # As `stateless_call`, which passes over the layer's own `__call__`: that tells the layers inside to train.
        mapping = [
            *zip(variables[0], jax.tree.leaves(params), strict=True),
            *zip(variables[1], given, strict=True),
        ]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            out = model(x, training=bool(training))
        after = [scope.get_current_value(variable) for variable in variables[1]]
        return out, [old if new is None else new for old, new in zip(given, after, strict=True)]

    # Biases that started as zeros are moved by the first step of any training.
    biases = [np.asarray(p) for v, p in zip(variables[0], values, strict=True) if v.name in ("bias", "beta")]
    zeros = [b for b in biases if b.size > 1 and np.unique(b).size <= 2]  # an LSTM's start as zeros and ones
    trained = len(zeros) < len([b for b in biases if b.size > 1]) if biases else None
    return Foreign(
        "keras", init, lambda x: constants, call, params if brought else None, trained if brought else False
    )


def _drawn(key: Any, layer: Any, variable: Any, value: Any) -> Any:
    """A fresh value of a Keras variable: by the layer's initialiser of its name; its value where it has none."""
    keras = sys.modules["keras"]

    class Keyed(keras.random.SeedGenerator):  # where an initialiser asks for its seed
        def __init__(self) -> None:
            self.count = 0

        def next(self, ordered: bool = True) -> Any:
            self.count += 1
            return jax.random.bits(jax.random.fold_in(key, self.count), (2,), np.uint32)

    name = variable.name.removesuffix("_kernel")  # recurrent_kernel is drawn by recurrent_initializer
    initializer: Any = getattr(layer, f"{name}_initializer", None)
    if not hasattr(initializer, "get_config"):
        return value
    initializer = type(initializer).from_config(initializer.get_config())
    if hasattr(initializer, "seed"):
        initializer.seed = Keyed()
    value = initializer(tuple(variable.shape), dtype=variable.dtype)
    if name == "bias" and getattr(layer, "unit_forget_bias", False):  # ones for an LSTM's second gate of four
        value = value.at[layer.units : 2 * layer.units].set(1)
    return value


def _functions(init: Callable, apply: Callable) -> Foreign:
    """Pure functions, called by their arguments' names: `init(key[, x])`, `apply(params[, state][, key], x)`."""
    names = list(parameters_of(apply))[1:] or ["x"]
    stateful, keyed = "state" in names, any(name in KEYS for name in names)
    inputs = next((name for name in names if name not in (*KEYS, "state", *MODES)), "")
    last = max((n for n, name in enumerate(names) if name in (*KEYS, "state", inputs)), default=-1)
    in_init = [p for p in list(parameters_of(init).values())[1:] if p.default is p.empty and p.name not in MODES]

    def init_all(key: Any, x: Any) -> tuple:
        # Haiku makes the statistics of its batches in training alone.
        found = init(key, *([x] if in_init else []), **_mode(init, True))
        return found if stateful else (found, {})

    def call(params: Any, constants: Any, x: Any, training: bool | None, key: Any) -> tuple:
        values = {**dict.fromkeys(KEYS, key), "state": constants, inputs: x}
        out = apply(params, *(values[name] for name in names[: last + 1]), **_mode(apply, training))
        return out if stateful else (out, constants)

    return Foreign(
        "functions",
        lambda key, x: init_all(key, x)[0],
        (lambda x: init_all(jax.random.key(0), x)[1]) if stateful else lambda x: {},
        call,
        has_training=keyed or stateful or bool(_mode(apply, True)),
    )


def _shuffled(key: Any, params: Any) -> Any:
    """The entries of each array of two or more axes in another order."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves) + 1)
    leaves = [
        jax.random.permutation(k, leaf.reshape(-1)).reshape(leaf.shape) if leaf.ndim > 1 else leaf
        for k, leaf in zip(keys, leaves, strict=False)
    ]
    return tree.unflatten(leaves)
