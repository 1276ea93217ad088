"""Models of every framework, as a predict and as pure functions: the same outputs as their own call gives.

Tests marked `frameworks` need the extra `adapters`: `python -m pytest -n 0 -m frameworks tests/test_adapters.py`.
"""

import copy
import functools
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqjax.adapters import Trainable, UserCodeError, as_predict, as_trainable, read_outputs
from seqjax.config import ConfigError
from seqjax.frameworks import watch_training
from seqjax.instruments import flat, kernels

N, T, F, C = 12, 6, 4, 3
X = np.random.default_rng(0).normal(size=(N, T, F)).astype(np.float32)
TOKENS = np.random.default_rng(1).integers(0, 9, (N, T, 1))


def need(framework):
    """The framework, or a test that is left out in its name."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    return importlib.import_module(framework)


frameworks = pytest.mark.frameworks


def close(a, b, tol=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=tol, rtol=tol)


def check_trainable(model, framework, x=X, num_outputs=C):
    """What holds of every Trainable: shapes, pure functions that compile and map, fresh draws, it learns."""
    assert isinstance(model, Trainable)
    assert model.framework == framework
    y = jnp.asarray((x[..., 0] > np.median(x)).astype(int))
    optimiser = optax.adam(0.02)

    def loss_of(params):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, state = optimiser.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    @jax.jit
    def everything(x, keys):
        one, other = model.init(keys[0]), model.init(keys[1])
        out = model.apply(one, x)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), one, other)
        same = {
            "as replicates": jax.vmap(model.apply, (0, None))(stacked, x)[0],
            "as variants": jax.vmap(model.apply, (None, 0))(one, x[None])[0],
            "in parts": jnp.concatenate([model.apply(one, x[:5]), model.apply(one, x[5:])]),
        }
        training = None if model.apply_training is None else model.apply_training(one, x, keys[0])
        _, losses = jax.lax.scan(step, (one, optimiser.init(one)), None, 60)
        return one, other, out, same, training, losses

    one, other, out, same, training, losses = everything(x, jax.random.split(jax.random.key(1)))
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
    assert any((a != b).any() for a, b in zip(leaves, others, strict=True))
    assert out.shape == (*x.shape[:2], num_outputs)
    assert training is None or training.shape == out.shape
    for name, value in same.items():
        np.testing.assert_allclose(value, out, atol=1e-5, err_msg=name)
    assert losses[-1] < losses[0] - 0.03
    return model


def drops(model, params, least=0.05):
    """Dropout is on in training, and follows the key; it is off at evaluation."""
    one, again, other = (jax.jit(model.apply_training)(params, X, jax.random.key(k)) for k in (1, 1, 2))
    close(one, again)
    assert np.abs(one - other).max() > least
    return one


@pytest.fixture(autouse=True)
def frameworks_broadcast():
    with jax.numpy_rank_promotion("allow"):
        yield


# --- Functions, which need nothing -------------------------------------------------------------------------------


def test_a_function_predicts():
    predict = as_predict(lambda x: x[..., :C].tolist())
    close(predict(X), X[..., :C])


def test_a_function_is_given_tokens_as_the_user_has_them():
    seen = []
    as_predict(lambda x: seen.append(x) or np.zeros((*x.shape, C)), tokens=True)(TOKENS)
    assert seen[0].shape == (N, T)
    as_predict(lambda x: seen.append(x) or x)(TOKENS)
    assert seen[1].shape == (N, T, 1)


def test_outputs_beside_a_state_are_found():
    close(as_predict(lambda x: (x, x[:, -1]))(X), X)
    close(as_predict(lambda x: {"state": x[:, -1], "out": x})(X), X)

    def two(x):
        return x, x

    with pytest.raises(ConfigError, match=r"^--predict: two returned a tuple of 2 .*expected an array"):
        as_predict(two)(X)


def test_an_object_with_a_predict_method():
    class Model:
        def predict(self, x):
            return x + 1

    close(as_predict(Model())(X), X + 1)


def test_errors_of_a_predict_are_the_users():
    def broken(x):
        return x @ np.ones((2, 2))

    with pytest.raises(
        UserCodeError, match=r"^--predict: broken raised ValueError: matmul.*\(.*test_adapters.py, line"
    ) as e:
        as_predict(broken)(X)
    assert "return x @ np.ones((2, 2))" in e.value.frames
    assert "seqjax/adapters.py" not in e.value.frames


class Unfit:
    pass


UNFIT = {  # what was given, and how it is named
    "a number": (3, "what was given is of type int"),
    "None": (None, "what was given is of type NoneType"),
    "text": ("name", "what was given is of type str"),
    "a list": ([1], "what was given is of type list"),
    "a dict": ({"a": 1}, "what was given is of type dict"),
    "an object": (Unfit(), "what was given is of type Unfit"),
    "a pair": ((Unfit, 3), r"what was given is of type tuple \(Unfit, int\)"),
    "a factory of a class": (lambda: Unfit, "Unfit is a class"),
}


@pytest.mark.parametrize(("obj", "named"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_predict_is_refused(obj, named):
    with pytest.raises(ConfigError, match=rf"^--predict: {named}; expected predict\(x\), a PyTorch module") as e:
        as_predict(obj)
    assert "\n" not in str(e.value)
    with pytest.raises(ConfigError, match=rf"^--model: {named}; expected a Flax Linen module") as e:
        as_trainable(obj, X, C)
    assert "\n" not in str(e.value)


def test_a_predict_is_no_model():
    with pytest.raises(ConfigError, match=r"<lambda>\(x\) is neither; what predicts goes to --predict"):
        as_trainable(lambda x: x, X, C)

    def make(width, key):
        return init, apply

    with pytest.raises(ConfigError, match=r"or of a key alone, .*; make\(width, key\) is neither"):
        as_trainable(make, X, C)


@pytest.mark.parametrize("make", [lambda key: (init, apply), lambda init_key=None: (init, apply)])
def test_a_factory_may_take_a_key(make):
    assert as_trainable(make, X, C).params is None


PARAMS = {  # what init returns, and what is said of it
    "nothing": ({}, "has no parameters, so there is nothing to train; what predicts goes to --predict"),
    "None": ({"w": None}, "has no parameters"),
    "text": ({"w": np.ones(3), "name": "mine"}, r"params\['name'\] is of type str; expected float arrays"),
    "a count": ({"w": np.ones(3), "n": np.arange(3)}, r"params\['n'\] is of type int"),
}


@pytest.mark.parametrize(("params", "said"), PARAMS.values(), ids=PARAMS)
def test_params_that_cannot_be_trained_are_refused(params, said):
    def always(params, x):
        return jnp.zeros((*x.shape[:-1], C))

    with pytest.raises(ConfigError, match=said) as e:
        as_trainable((lambda key: params, always), X, C)
    assert str(e.value).startswith("--model: (<lambda>, always)")
    assert "\n" not in str(e.value)


def init(key):
    a, b = jax.random.split(key)
    return {"w": jax.random.normal(a, (F, 8)), "v": jax.random.normal(b, (8, C))}


def apply(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


def test_a_pair_of_functions():
    model = check_trainable(as_trainable((init, apply), X, C), "functions")
    assert model.params is None
    assert model.apply_training is None
    close(model.apply(model.init(jax.random.key(1)), X), apply(init(jax.random.key(1)), X))


# Other orders of arguments, each the same model.
PAIRS = {
    "init sees x": (lambda key, x: init(key), apply),
    "a key behind x": (init, lambda params, x, key: apply(params, x)),
    "a key before x": (init, lambda params, rng, x: apply(params, x)),
    "told to train": (init, lambda params, x, train: apply(params, x)),
    "told by a default": (init, lambda params, x, *, deterministic=False: apply(params, x)),
    "one sequence": (init, lambda params, x_txf: apply(params, x_txf) * jnp.ones((T, 1))),
    "one step": (init, lambda params, x_f: apply(params, x_f) * jnp.ones(C)),
    "with a state": (lambda key: (init(key), {}), lambda params, state, rng, x: (apply(params, x), state)),
    "compiled": (jax.jit(init), jax.jit(apply)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_pairs_of_functions_are_called_by_the_names_of_their_arguments(pair):
    model = as_trainable(pair, X, C)
    assert isinstance(model, Trainable)
    close(model.apply(model.init(jax.random.key(1)), X), apply(init(jax.random.key(1)), X))


def test_dropout_of_a_pair_is_on_in_training_alone():
    def dropped(params, x, rng, train):
        keep = jax.random.bernoulli(rng, 0.5, x.shape) if train else 1
        return apply(params, x * keep)

    model = as_trainable((init, dropped), X, C)
    params = model.init(jax.random.key(1))
    close(model.apply(params, X), apply(params, X))
    one, again, other = (model.apply_training(params, X, jax.random.key(k)) for k in (1, 1, 2))
    close(one, again)
    assert np.abs(one - other).max() > 0.1


# --- Shapes ------------------------------------------------------------------------------------------------------

MISFITS = {
    "too few outputs": (lambda p, x: apply(p, x)[..., :2], r"outputs have 2 classes, labels have 3 \(0 to 2\)"),
    "one a sequence": (lambda p, x: apply(p, x)[:, -1], "one output a sequence, where every step has a label"),
    "one unit for three classes": (lambda p, x: apply(p, x)[..., :1], "outputs have 1 class, labels have 3"),
    "four axes": (lambda p, x: apply(p, x)[..., None], "expected"),
    "nothing": (lambda p, x: None, "gives a NoneType for x"),
    "no array": (lambda p, x: {"a": apply(p, x)}, "gives a dict"),
}


@pytest.mark.parametrize(("function", "text"), MISFITS.values(), ids=MISFITS)
def test_outputs_that_fit_nothing_are_refused(function, text):
    with pytest.raises(ConfigError, match=text) as e:
        as_trainable((init, function), X, C)
    assert f"{T}, {C}] (sequences, steps, classes)" in str(e.value)
    assert "\n" not in str(e.value)


# function, number of classes, labels per, outputs that are read
FITS = {
    "more outputs than classes": (apply, 2, "step", apply),
    "one unit for two classes": (lambda p, x: apply(p, x)[..., :1], 2, "step", lambda p, x: apply(p, x)[..., :1]),
    "one unit without an axis": (lambda p, x: apply(p, x)[..., 0], 2, "step", lambda p, x: apply(p, x)[..., :1]),
    "one output a sequence": (
        lambda p, x: apply(p, x)[:, -1], C, "sequence", lambda p, x: jnp.repeat(apply(p, x)[:, -1:], T, 1)
    ),
    "one unit a sequence": (
        lambda p, x: apply(p, x)[:, -1, 0], 2, "sequence", lambda p, x: jnp.repeat(apply(p, x)[:, -1:, :1], T, 1)
    ),
    "an output a step for sequences": (apply, C, "sequence", apply),
}  # fmt: skip


@pytest.mark.parametrize(("function", "classes", "per", "expected"), FITS.values(), ids=FITS)
def test_outputs_that_fit_are_brought_to_steps(function, classes, per, expected):
    model = as_trainable((init, function), X, classes, labels_per=per)
    params = model.init(jax.random.key(0))
    close(model.apply(params, X), expected(params, X))


def test_a_plain_classifier_of_one_step():
    x = X[:, :1]
    model = as_trainable((init, lambda p, x: apply(p, x)[:, 0]), x, C)
    params = model.init(jax.random.key(0))
    close(model.apply(params, x), apply(params, x))


def test_as_many_outputs_a_sequence_as_there_are_steps_are_classes():
    x = X[:, :2]
    model = as_trainable((init, lambda p, x: apply(p, x)[:, -1, :2]), x, 2, labels_per="sequence")
    params = model.init(jax.random.key(0))
    close(model.apply(params, x), jnp.repeat(apply(params, x)[:, -1:, :2], 2, 1))


def test_errors_of_a_model_are_the_users():
    def bad(params, x):
        return x @ jnp.ones((7, C))

    with pytest.raises(
        UserCodeError, match=r"^--model: \(init, bad\) raised TypeError: dot_general.*test_adapters.py, line"
    ) as e:
        as_trainable((init, bad), X, C)
    assert "jnp.ones((7, C))" in e.value.frames
    assert "site-packages" not in e.value.frames


# --- Flax Linen --------------------------------------------------------------------------------------------------


class Linen(nn.Module):
    width: int = 8
    dropout: float = 0.5
    norm: bool = False

    @nn.compact
    def __call__(self, x, train: bool = True):
        x = nn.relu(nn.Dense(self.width)(x))
        x = nn.BatchNorm(use_running_average=not train)(x) if self.norm else x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(C)(x)


class LinenField(nn.Module):
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x):
        return nn.Dense(C)(nn.Dropout(0.5, deterministic=self.deterministic)(x))


class LinenTokens(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(C)(nn.RNN(nn.GRUCell(8))(nn.Embed(9, 8)(tokens)))


@pytest.mark.parametrize(
    "module", [Linen(), Linen(norm=True), Linen, LinenField()], ids=["", "norm", "class", "field"]
)
def test_linen(module):
    model = as_trainable(module, X, C)
    if module is Linen:
        check_trainable(model, "flax.linen")
    drops(model, model.init(jax.random.key(1)))
    assert (model.settled is not None) == (getattr(module, "norm", False) is True)


def test_linen_with_variables_is_trained():
    module = Linen(norm=True)
    variables = module.init(jax.random.key(5), X, train=False)
    variables["batch_stats"] = jax.tree.map(lambda leaf: leaf + 0.5, variables["batch_stats"])
    own = module.apply(variables, X, train=False)
    model = as_trainable((module, variables), X, C)
    assert model.trained
    close(model.apply(model.params, X), own)
    close(as_predict((module, variables))(X), own)
    close(as_predict(module.bind(variables))(X), own)
    bound = as_trainable(module.bind(variables), X, C)
    close(bound.apply(bound.params, X), own)
    plain = LinenTokens()
    variables = plain.init(jax.random.key(0), TOKENS[..., 0])
    close(as_predict((plain, variables["params"]), tokens=True)(TOKENS), plain.apply(variables, TOKENS[..., 0]))


def test_a_factory_may_have_loaded_what_was_trained():
    module = Linen()
    variables = module.init(jax.random.key(5), X, train=False)
    model = as_trainable(lambda: (module, variables), X, C)
    assert model.trained
    close(model.apply(model.params, X), module.apply(variables, X, train=False))


def test_linen_without_variables_does_not_predict():
    with pytest.raises(
        ConfigError, match=r"^--predict: Linen has no trained parameters; expected .*\(module, variables\)"
    ):
        as_predict(Linen())


def test_tokens_reach_linen_without_their_third_axis():
    check_trainable(as_trainable(LinenTokens(), TOKENS, C), "flax.linen", TOKENS)


def settles(model, x, statistics):
    """Statistics after many steps of training mode are those that `settled` finds at once."""
    params = model.init(jax.random.key(1))
    settled = model.settled(params, x)
    batch = model.apply_training(params, x, jax.random.key(0))  # without dropout: normalised by this batch
    assert np.abs(model.apply(params, x) - batch).max() > 0.02, "the statistics that it began with are others"
    close(settled.apply(params, x), batch, statistics)


def test_settled_statistics_of_linen():
    settles(as_trainable(Linen(norm=True, dropout=0.0), X * 3 + 1, C), X * 3 + 1, 1e-3)


# --- Flax NNX ----------------------------------------------------------------------------------------------------


class Nnx(nnx.Module):
    def __init__(self, rngs, dropout=0.5):
        self.inner = nnx.Linear(F, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(dropout, rngs=rngs)
        self.rnn = nnx.RNN(nnx.GRUCell(8, 8, rngs=rngs))
        self.outer = nnx.Linear(8, C, rngs=rngs)

    def __call__(self, x):
        return self.outer(self.rnn(self.drop(self.norm(self.inner(x)))))


class NnxMlp(nnx.Module):
    def __init__(self, rngs):
        self.inner, self.outer = nnx.Linear(F, 8, rngs=rngs), nnx.Linear(8, C, rngs=rngs)

    def __call__(self, x):
        return self.outer(nnx.relu(self.inner(x)))


def nnx_factory():
    return NnxMlp(nnx.Rngs(3))


@pytest.mark.parametrize("obj", [Nnx(nnx.Rngs(0)), Nnx, nnx_factory], ids=["module", "class", "factory"])
def test_nnx(obj):
    model = as_trainable(obj, X, C)
    if inspect.isclass(obj):
        check_trainable(model, "flax.nnx")
    assert (model.params is None) == inspect.isclass(obj)


def test_nnx_keeps_its_parameters_and_its_mode():
    module = Nnx(nnx.Rngs(0))
    model = as_trainable(module, X, C)
    assert module.drop.deterministic is False, "the user's own module stays as it was"
    module.eval()
    own = module(X)
    close(model.apply(model.params, X), own)
    predict = as_predict(module)
    close(predict(X), own)
    close(predict(X), predict(X))
    drops(model, model.params)


def test_nnx_in_training_mode_predicts_as_it_is():
    predict = as_predict(Nnx(nnx.Rngs(0)))
    assert np.abs(predict(X) - predict(X)).max() > 0.05, "dropout was left on, which is for the caller to find"


def test_nnx_class_is_drawn_by_its_own_initialisers():
    model = as_trainable(NnxMlp, X, C)
    assert model.trained is False
    kernel = np.asarray(model.init(jax.random.key(0))["inner"]["kernel"][...])
    shuffled = as_trainable(nnx_factory, X, C)
    a, b = (np.asarray(shuffled.init(jax.random.key(k))["inner"]["kernel"][...]) for k in (0, 1))
    assert not np.isin(kernel, a).any()
    close(np.sort(a, None), np.sort(b, None))
    assert (a != b).any()


def test_settled_statistics_of_nnx():
    settles(as_trainable(lambda rngs: Nnx(rngs, dropout=0.0), X * 3 + 1, C), X * 3 + 1, 1e-3)


def test_a_class_that_needs_more_is_refused():
    class Needy(nnx.Module):
        def __init__(self, width, depth, rngs):
            pass

    with pytest.raises(
        ConfigError, match=r"^--model: Needy is a class that needs width, depth: expected an object"
    ):
        as_trainable(Needy, X, C)


# --- Haiku -------------------------------------------------------------------------------------------------------


@frameworks
def test_haiku():
    hk = need("haiku")
    transformed = hk.transform(lambda x: hk.Linear(C)(jax.nn.relu(hk.Linear(8)(x))))
    model = check_trainable(as_trainable(transformed, X, C), "functions")
    params = transformed.init(jax.random.key(1), X)
    close(model.apply(params, X), transformed.apply(params, None, X))
    model = as_trainable(hk.without_apply_rng(transformed), X, C)
    close(model.apply(params, X), transformed.apply(params, None, X))


@frameworks
def test_haiku_with_state_and_training():
    hk = need("haiku")

    def forward(x, is_training):
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(8)(x), is_training)
        x = hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x
        return hk.Linear(C)(x)

    model = check_trainable(as_trainable(hk.transform_with_state(forward), X, C), "functions")
    drops(model, model.init(jax.random.key(1)))

    def no_dropout(x, is_training):
        return hk.Linear(C)(hk.BatchNorm(True, True, 0.9)(hk.Linear(8)(x), is_training))

    settles(as_trainable(hk.transform_with_state(no_dropout), X * 3 + 1, C), X * 3 + 1, 1e-3)


@frameworks
def test_haiku_misfit():
    hk = need("haiku")
    with pytest.raises(ConfigError, match="outputs have 2 classes, labels have 3"):
        as_trainable(hk.transform(lambda x: hk.Linear(2)(x)), X, C)


# --- Equinox -----------------------------------------------------------------------------------------------------


def equinox_sequence(eqx):
    class Sequence(eqx.Module):
        cell: eqx.nn.GRUCell
        drop: eqx.nn.Dropout
        last: eqx.nn.Linear

        def __init__(self, key):
            a, b = jax.random.split(key)
            self.cell, self.last = eqx.nn.GRUCell(F, 8, key=a), eqx.nn.Linear(8, C, key=b)
            self.drop = eqx.nn.Dropout(0.5)

        def __call__(self, x, key=None):
            x = self.drop(x, key=key)
            _, h = jax.lax.scan(lambda h, v: (self.cell(v, h),) * 2, jnp.zeros(8), x)
            return jax.vmap(self.last)(h)

    return Sequence


@frameworks
@pytest.mark.parametrize("form", ["module", "class", "factory"])
def test_equinox(form):
    eqx = need("equinox")
    kind = equinox_sequence(eqx)
    obj = {"module": kind(jax.random.key(0)), "class": kind, "factory": lambda: kind(jax.random.key(0))}[form]
    model = as_trainable(obj, X, C)
    if form == "class":
        check_trainable(model, "equinox")
    module = kind(jax.random.key(0))
    own = jax.vmap(eqx.nn.inference_mode(module))(X)
    params = eqx.filter(module, eqx.is_inexact_array)
    close(model.apply(params, X), own)
    assert (model.params is None) == (form == "class")
    one = drops(model, params)
    assert np.abs(one[0] - one[1]).max() > 0.05
    close(as_predict(eqx.nn.inference_mode(module))(X), own)
    left_on = as_predict(module)
    assert np.abs(left_on(X) - left_on(X)).max() > 0.05


@frameworks
def test_equinox_of_one_step_and_of_whole_batches():
    eqx = need("equinox")
    mlp = eqx.nn.MLP(F, C, 8, 1, key=jax.random.key(0))
    for steps in (T, F, C):  # also where axes are as long as each other
        x = np.resize(X, (N, steps, F))
        model = as_trainable(mlp, x, C)
        close(model.apply(model.params, x), jax.vmap(jax.vmap(mlp))(x))
        close(as_predict(mlp)(x), jax.vmap(jax.vmap(mlp))(x))

    class Whole(eqx.Module):
        inner: eqx.nn.MLP

        def __call__(self, x):
            assert x.ndim == 3
            return jax.vmap(jax.vmap(self.inner))(x)

    model = as_trainable(Whole(mlp), X, C)
    close(model.apply(model.params, X), jax.vmap(jax.vmap(mlp))(X))


@frameworks
def test_equinox_misfit():
    eqx = need("equinox")
    with pytest.raises(ConfigError, match="outputs have 2 classes, labels have 3"):
        as_trainable(eqx.nn.MLP(F, 2, 8, 1, key=jax.random.key(0)), X, C)
    with pytest.raises(UserCodeError, match=r"^--model: MLP raised "):
        as_trainable(eqx.nn.MLP(F + 1, C, 8, 1, key=jax.random.key(0)), X, C)


# --- Keras -------------------------------------------------------------------------------------------------------


def keras_model(keras, dropout=0.5, classes=C, built=True):
    inputs = [keras.layers.Input((None, F))] if built else []
    layers = keras.layers
    return keras.Sequential(
        [
            *inputs,
            layers.LSTM(8, return_sequences=True, dropout=0.1),
            layers.BatchNormalization(),
            layers.Dropout(dropout),
            layers.TimeDistributed(layers.Dense(classes, activation="softmax")),
        ]
    )


@frameworks
@pytest.mark.parametrize("form", ["model", "unbuilt", "factory"])
def test_keras(form):
    keras = need("keras")
    model = keras_model(keras, built=form != "unbuilt")
    got = as_trainable((lambda: model) if form == "factory" else model, X, C)
    if form == "model":
        check_trainable(got, "keras")
    values = [jnp.array(v.value) for v in model.trainable_variables]
    close(got.apply(values, X), model(X, training=False))
    close(as_predict(model)(X), model(X, training=False))
    assert (got.params is None) == (form == "unbuilt")
    assert got.trained is False
    drops(got, values, 0.005)


@frameworks
def test_keras_parameters_are_drawn_by_their_initialisers():
    keras = need("keras")
    model = keras_model(keras)
    names = [v.name for v in model.trainable_variables]
    drawn = as_trainable(model, X, C).init(jax.random.key(3))
    assert list(drawn) == [v.path for v in model.trainable_variables]
    drawn = jax.tree.leaves(drawn)
    for name, value, variable in zip(names, drawn, model.trainable_variables, strict=True):
        fixed = name in ("bias", "beta", "gamma")
        assert bool((value == variable.value).all()) == fixed, name
    recurrent = np.asarray(drawn[names.index("recurrent_kernel")])
    close(recurrent @ recurrent.T, np.eye(8), 1e-5)  # orthogonal, as Keras draws it
    kernel = np.asarray(drawn[names.index("kernel")])
    assert kernel.min() < 0 < kernel.max()
    assert np.abs(kernel).max() <= np.sqrt(6 / (F + 32))  # Glorot's bound


@frameworks
def test_keras_parameters_have_their_paths_in_findings():
    keras = need("keras")
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((None, F)), layers.Dense(8, name="first"), layers.Dense(C, name="last")], name="own"
    )
    params = as_trainable(model, X, C).params
    assert list(flat(params)) == ["own/first/kernel", "own/first/bias", "own/last/kernel", "own/last/bias"]
    assert kernels(flat(params)) == ["own/first/kernel", "own/last/kernel"]

    class Twins(keras.Model):
        def __init__(self):
            super().__init__(name="twins")
            self.one, self.two = layers.Dense(8, name="twin"), layers.Dense(C, name="twin")

        def call(self, x):
            return self.two(self.one(x))

    got = as_trainable(Twins(), X, C)
    drawn = got.init(jax.random.key(0))
    assert len(flat(drawn)) == 4
    assert got.apply(drawn, X).shape == (N, T, C)


@frameworks
def test_errors_while_keras_builds_are_the_users():
    keras = need("keras")

    class Broken(keras.Model):
        def call(self, x):
            raise ValueError("not like this")

    with pytest.raises(UserCodeError, match=r"^--model: Broken raised ValueError: .*not like this"):
        as_trainable(Broken(), X, C)


@frameworks
def test_keras_that_was_fitted_is_known_as_trained():
    keras = need("keras")
    model = keras_model(keras)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, np.zeros((N, T), int), verbose=0, epochs=1)
    got = as_trainable(model, X, C)
    assert got.trained
    close(got.apply(got.params, X), model.predict(X, verbose=0))


@frameworks
def test_keras_subclass_tells_its_layers_to_train():
    keras = need("keras")

    class Sub(keras.Model):
        def __init__(self):
            super().__init__()
            self.drop, self.last = keras.layers.Dropout(0.5), keras.layers.Dense(C)

        def call(self, x):
            return self.last(self.drop(x))

    got = as_trainable(Sub(), X, C)
    drops(got, got.init(jax.random.key(0)))


@frameworks
def test_keras_tokens():
    keras = need("keras")
    layers = keras.layers
    for built in (True, False):
        first = [layers.Input((None,), dtype="int32")] if built else []
        model = keras.Sequential(
            [*first, layers.Embedding(9, 8), layers.GRU(8, return_sequences=True), layers.Dense(C)]
        )
        got = as_trainable(model, TOKENS, C)
        close(as_predict(model, tokens=True)(TOKENS), model(TOKENS[..., 0]))
        close(got.apply([v.value for v in model.trainable_variables], TOKENS), model(TOKENS[..., 0]))


@frameworks
def test_settled_statistics_of_keras():
    keras = need("keras")
    layers = keras.layers
    model = keras.Sequential([layers.Input((None, F)), layers.BatchNormalization(), layers.Dense(C)])
    settles(as_trainable(model, X * 3 + 1, C), X * 3 + 1, 1e-2)


@frameworks
def test_keras_misfits():
    keras = need("keras")
    with pytest.raises(ConfigError, match="outputs have 2 classes, labels have 3"):
        as_trainable(keras_model(keras, classes=2), X, C)
    layers = keras.layers
    last = keras.Sequential([layers.Input((T, F)), layers.LSTM(8), layers.Dense(C)])
    with pytest.raises(ConfigError, match="one output a sequence"):
        as_trainable(last, X, C)
    got = as_trainable(last, X, C, labels_per="sequence")
    close(got.apply(got.params, X)[:, 2], last(X))
    wide = keras.Sequential([layers.Input((T, F + 1)), layers.Dense(C)])
    with pytest.raises(UserCodeError, match=r"^--predict: Sequential raised .*have value 5") as e:
        as_predict(wide)(X)
    assert "\n" not in str(e.value)
    assert "\x1b" not in str(e.value)


@frameworks
def test_keras_on_another_backend_predicts():
    need("keras"), need("torch")
    code = (
        "import keras, numpy as np\n"
        "from seqjax.adapters import as_predict, as_trainable\n"
        f"x = np.random.default_rng(0).normal(size=({N}, {T}, {F})).astype('float32')\n"
        f"model = keras.Sequential([keras.layers.Input((None, {F})), keras.layers.Dense({C})])\n"
        "for predict in (as_predict(model), as_trainable(model, x, 3)):\n"
        "    assert np.allclose(predict(x), model(x).detach().numpy(), atol=1e-5)\n"
        "print(keras.backend.backend())\n"
    )
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert ended.stdout.strip() == "torch", ended.stderr


# --- PyTorch -----------------------------------------------------------------------------------------------------


@frameworks
def test_torch():
    torch = need("torch")
    module = torch.nn.Sequential(torch.nn.Linear(F, 8), torch.nn.ReLU(), torch.nn.Linear(8, C))
    with torch.no_grad():
        own = module(torch.tensor(X)).numpy()
    for x in (X, X.astype(np.float64)):
        close(as_predict(module)(x), own)
    close(as_predict(lambda: module)(X), own)
    trained_elsewhere = as_trainable(module, X, C)
    assert not isinstance(trained_elsewhere, Trainable)
    close(trained_elsewhere(X), own)
    close(as_predict(lambda x: module(torch.tensor(x)))(X), own)  # with its gradients
    half = as_predict(module.bfloat16())(X)
    close(half, own, 0.05)


@frameworks
def test_torch_stays_in_its_mode():
    torch = need("torch")
    module = torch.nn.Sequential(torch.nn.Linear(F, C), torch.nn.Dropout(0.5))
    predict = as_predict(module)
    assert module.training
    assert np.abs(predict(X) - predict(X)).max() > 0.05, "dropout was left on, which is for the caller to find"
    module.eval()
    close(predict(X), predict(X))
    norm = torch.nn.BatchNorm1d(T)
    as_predict(norm)(X)
    assert (norm.running_mean == 0).all(), "and nothing of it is changed"
    assert norm.num_batches_tracked == 0


@frameworks
def test_torch_tokens_and_states():
    torch = need("torch")

    class Tagger(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.rnn = torch.nn.Embedding(9, 8), torch.nn.GRU(8, C, batch_first=True)

        def forward(self, x):
            return self.rnn(self.embed(x))

    module = Tagger()
    own = module(torch.tensor(TOKENS[..., 0]))[0].detach()
    close(as_predict(module, tokens=True)(TOKENS), own)
    close(as_predict(module)(TOKENS[..., 0].astype(np.int32)), own)
    close(as_trainable(module, TOKENS, C)(TOKENS), own)


@frameworks
def test_torch_errors_are_the_users():
    torch = need("torch")
    with pytest.raises(UserCodeError, match=r"^--predict: Linear raised RuntimeError: mat1 and mat2 shapes") as e:
        as_predict(torch.nn.Linear(F + 1, C))(X)
    assert e.value.frames == ""


@frameworks
def test_arrays_of_every_framework_are_read():
    torch, keras = need("torch"), need("keras")
    soft = np.asarray(jax.nn.softmax(X[..., :C]))
    of_torch = (torch.tensor(soft), torch.tensor(soft, requires_grad=True), torch.tensor(soft).bfloat16())
    of_jax = (jnp.asarray(soft), jnp.asarray(soft, jnp.bfloat16), keras.ops.convert_to_tensor(soft))
    for raw in (*of_torch, *of_jax, soft.tolist(), soft.astype(np.float16)):
        outputs = read_outputs(raw, N, T, C)
        assert outputs.kind == "probabilities"
        close(np.exp(outputs.log_p), soft, 1e-2)


# --- Trainings in PyTorch ----------------------------------------------------------------------------------------


@frameworks
def test_what_no_optimiser_of_pytorch_holds():
    torch = need("torch")

    copies, kept_alive = [], []

    class Net(torch.nn.Module):
        def __init__(self, kept):
            super().__init__()
            self.body = kept([torch.nn.Linear(3, 4)])
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.body[0](x))

    def train(kept=torch.nn.ModuleList, names=("head", "body"), frozen=False, steps=True, average=False):
        net = Net(kept)
        if average:
            copies.append(copy.deepcopy(net).requires_grad_(False))
        if frozen:
            net.body.requires_grad_(False)
        optimiser = torch.optim.SGD([p for name, p in net.named_parameters() if name.startswith(names)], 0.1)
        net(torch.ones(5, 3)).square().sum().backward()
        if steps:
            optimiser.step()
        return net

    for how, left_out in (
        ({"kept": list}, ({"Linear": 16}, 16 / 26, False)),
        ({"names": ("body",)}, ({"Linear": 10}, 10 / 26, False)),
        ({}, None),
        ({"frozen": True}, ({"Linear": 16}, 16 / 26, True)),
        ({"average": True}, None),
        ({"steps": False}, None),
    ):
        net, found = watch_training(functools.partial(train, **how))
        assert found == left_out, how
        assert net.head.weight.shape == (2, 4)
        kept_alive.append(net)  # another training's frozen model is none of this one
    assert not sys.modules["torch.optim.optimizer"]._global_optimizer_post_hooks


@frameworks
@pytest.mark.parametrize(("frozen", "units"), [(True, 2), (False, 2), (True, 20)])
def test_what_is_frozen_in_keras(frozen, units):
    keras = need("keras")

    def train():
        body = keras.Sequential([keras.Input((2, 3)), keras.layers.Dense(4), keras.layers.BatchNormalization()])
        body.trainable = not frozen
        return keras.Sequential([body, keras.layers.Dense(units)])

    _, found = watch_training(train)
    most = frozen and units == 2
    assert found == (({"Dense": 16, "BatchNormalization": 8}, 24 / 34, True) if most else None)
