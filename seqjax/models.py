"""The models: the built-in ones, in Flax Linen, and by name those of somebody's own (`own_model`).  Imports
`config`, `batch`, `narrow`, `gru`, `own_model` and `user_code`.

Everything else sees a `Model`: two pure functions.  All models map inputs
`[B, T, F]` to logits `[B, T, C]`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seqjax import narrow, own_model
from seqjax.batch import Array
from seqjax.config import Config, ConfigError, unknown_name
from seqjax.gru import gru
from seqjax.user_code import is_own

Params = Any


class Model(NamedTuple):
    """init: `key -> params`.  apply: `(params, inputs [B, T, F]) -> logits [B, T, C]`."""

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, Array], jax.Array]


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "relu": nn.relu,
    "tanh": nn.tanh,
    "gelu": nn.gelu,
}

# Glorot uniform kernels and zero biases as in Keras; Flax's own default is LeCun normal.
glorot = nn.initializers.glorot_uniform()


class SharedDense(nn.Module):
    """One Dense layer for all steps: `[B, T, F] -> [B, T, features]`."""

    features: int
    kernel_init: Callable[..., Any] = glorot

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        return narrow.dense(x, kernel, bias)


class DenseStack(nn.Module):
    """Dense layers shared over steps: each output sees its own step alone."""

    hidden_sizes: tuple[int, ...]
    activation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, size in enumerate(self.hidden_sizes):
            x = SharedDense(size, kernel_init=glorot, name=f"dense_{i}")(x)
            x = ACTIVATIONS[self.activation](x)
        return x


class RecurrentLayer(nn.Module):
    """A recurrence over the steps, from the first to the last or in reverse.

    remat: on the way back, activations are computed again, block by block of √T
        steps, so that memory grows with √T and not with T.  The outputs are the same.
    """

    cell: Callable[..., nn.RNNCellBase]
    size: int
    reverse: bool
    remat: bool

    @nn.compact
    def __call__(self, x: Array) -> Any:
        cell = self.cell(self.size, kernel_init=glorot)
        if isinstance(cell, nn.GRUCell) and not self.is_initializing():
            y = gru(cell.variables["params"], x[:, ::-1] if self.reverse else x, self.remat)
            return y[:, ::-1] if self.reverse else y
        if not self.remat:
            # `keep_order`: without it a reversed recurrence gives its outputs last step
            # first, and they meet the wrong labels.
            return nn.RNN(cell, reverse=self.reverse, keep_order=True)(x)
        x = x[:, ::-1] if self.reverse else x
        num_steps = x.shape[1]
        length = math.isqrt(num_steps - 1) + 1
        blocks = jnp.pad(x, ((0, 0), (0, -num_steps % length), (0, 0)))
        blocks = blocks.reshape(len(x), -1, length, x.shape[-1])
        over = {"variable_broadcast": "params", "split_rngs": {"params": False}, "in_axes": 1, "out_axes": 1}

        def block(cell: nn.RNNCellBase, carry: Any, x: Array) -> Any:
            return nn.scan(lambda cell, carry, x: cell(carry, x), **over)(cell, carry, x)

        carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)  # zeros: the key is not used
        _, y = nn.scan(nn.remat(block, prevent_cse=False), **over)(cell, carry, blocks)
        y = y.reshape(len(x), -1, self.size)[:, :num_steps]
        return y[:, ::-1] if self.reverse else y


class RecurrentStack(nn.Module):
    """Recurrent layers that read forwards, in reverse, or both ways side by side.

    Both ways, a Dense layer with tanh joins the halves at the end: a linear layer
    alone could only add what each says by itself, and no sum of the two is, for
    one, the parity of what is to the left and to the right.
    """

    hidden_sizes: tuple[int, ...]
    cell: Callable[..., nn.RNNCellBase]
    direction: str
    remat: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, size in enumerate(self.hidden_sizes):
            outputs = [
                RecurrentLayer(self.cell, size, name == "reverse", self.remat, name=f"{name}_{i}")(x)
                for name in ("forward", "reverse")
                if self.direction in (name, "both")
            ]
            x = jnp.concatenate(outputs, -1)
        if self.direction == "both":
            x = nn.tanh(SharedDense(self.hidden_sizes[-1], kernel_init=glorot, name="join")(x))
        return x


class CausalConvStack(nn.Module):
    """Convolutions over own and earlier steps, zeros before the first; dilation 1, 2, 4, ..."""

    hidden_sizes: tuple[int, ...]
    kernel_size: int
    activation: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i, size in enumerate(self.hidden_sizes):
            x = nn.Conv(
                size,
                (self.kernel_size,),
                kernel_dilation=2**i,
                padding="CAUSAL",
                kernel_init=glorot,
                name=f"conv_{i}",
            )(x)
            x = ACTIVATIONS[self.activation](x)
        return x


class TransformerBlock(nn.Module):
    """Pre-norm self-attention, then a pre-norm pair of Dense layers, each added to its input."""

    num_heads: int
    causal: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        mask = nn.make_causal_mask(x[..., 0], dtype=bool) if self.causal else None
        normed = nn.LayerNorm(name="attention_norm")(x)
        attend = nn.MultiHeadDotProductAttention(self.num_heads, kernel_init=glorot, name="attention")
        x = x + attend(normed, mask=mask)
        hidden = SharedDense(4 * width, kernel_init=glorot, name="up")(nn.LayerNorm(name="dense_norm")(x))
        return x + SharedDense(width, kernel_init=glorot, name="down")(nn.gelu(hidden))


class TransformerStack(nn.Module):
    """Transformer blocks of one width.  Without `step_position` the others are seen as a set."""

    hidden_sizes: tuple[int, ...]
    num_heads: int
    num_layers: int
    causal: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = SharedDense(self.hidden_sizes[0], kernel_init=glorot, name="embed")(x)
        for i in range(self.num_layers):
            x = TransformerBlock(self.num_heads, self.causal, name=f"block_{i}")(x)
        return nn.LayerNorm(name="norm")(x)


class Labeller(nn.Module):
    """A body, then one shared Dense layer that gives the logits of every step.

    step_position: a one-hot of the step is appended to the features first.
    """

    body: nn.Module
    num_classes: int
    step_position: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.step_position:
            num_steps = x.shape[1]
            position = jnp.broadcast_to(jnp.eye(num_steps, dtype=x.dtype), (x.shape[0], num_steps, num_steps))
            x = jnp.concatenate([x, position], -1)
        x = self.body(x)
        return SharedDense(self.num_classes, kernel_init=glorot, name="logits")(x)


class ModelKind(NamedTuple):
    """A row of the table of models.

    body: the module that stands before the logits, made from `hidden_sizes` and
        from those settings that `options` names.
    hidden_sizes: the default widths.
    options: the settings that this model takes, with their defaults; a setting
        given to a model that has no such choice is refused.
    recurrent: "forward", "reverse" or "both" where a recurrence carries a trace
        of every step that it has read, however faint.
    """

    body: Callable[..., nn.Module]
    hidden_sizes: tuple[int, ...]
    options: dict[str, Any]
    recurrent: str | None = None


def _recurrence(cell: Callable[..., nn.RNNCellBase], direction: str) -> ModelKind:
    body = functools.partial(RecurrentStack, cell=cell, direction=direction)
    return ModelKind(body, hidden_sizes=(32,), options={"remat": False}, recurrent=direction)


def _transformer(causal: bool) -> ModelKind:
    body = functools.partial(TransformerStack, causal=causal)
    return ModelKind(body, hidden_sizes=(32,), options={"num_heads": 4, "num_layers": 2})


MODELS: dict[str, ModelKind] = {
    "dense": ModelKind(DenseStack, hidden_sizes=(10, 10), options={"activation": "none"}),
    "gru": _recurrence(nn.GRUCell, "forward"),
    "reverse_gru": _recurrence(nn.GRUCell, "reverse"),
    "bidirectional_gru": _recurrence(nn.GRUCell, "both"),
    "lstm": _recurrence(nn.OptimizedLSTMCell, "forward"),
    "causal_conv": ModelKind(
        CausalConvStack, hidden_sizes=(32, 32), options={"kernel_size": 2, "activation": "relu"}
    ),
    "attention": _transformer(causal=False),
    "causal_attention": _transformer(causal=True),
}

# The settings that only some models take.
OPTIONS = ("activation", "kernel_size", "num_heads", "num_layers", "remat")


def settings(config: Config) -> dict[str, Any]:
    """The model's own settings, its defaults filled in: `hidden_sizes` and its options.

    Raises ConfigError for an unknown model or activation, for an option that this
    model does not have, and for widths that it cannot be built with.  Of a model of
    somebody's own: as `own_model.settings`.
    """
    if is_own(config.model):
        return own_model.settings(config)
    if config.model not in MODELS:
        raise unknown_name("model", config.model, MODELS)
    kind = MODELS[config.model]
    found: dict[str, Any] = {"hidden_sizes": config.hidden_sizes or kind.hidden_sizes}
    for option in OPTIONS:
        given = getattr(config, option)
        if option in kind.options:
            found[option] = kind.options[option] if given is None else given
        elif given is not None:
            able = " and ".join(name for name, other in MODELS.items() if option in other.options)
            raise ConfigError(f"{option}={given}: model={config.model} has no such choice, only {able}")
    if found.get("activation", "none") not in ACTIVATIONS:
        raise unknown_name("activation", found["activation"], ACTIVATIONS)
    if "num_heads" in found:
        sizes, heads = found["hidden_sizes"], found["num_heads"]
        if len(sizes) != 1 or sizes[0] % heads:
            raise ConfigError(
                f"hidden_sizes={','.join(map(str, sizes))}: model={config.model} has one width, "
                f"a multiple of num_heads={heads}, and num_layers={found['num_layers']} layers of it"
            )
    return found


def build(config: Config, num_features: int, num_classes: int) -> Model:
    """The model that a Config describes; raises ConfigError as `settings` does."""
    if is_own(config.model):
        return Model(*own_model.build(config, num_features, num_classes))
    module, example = _module(config, num_features, num_classes)

    def init(key: jax.Array) -> Params:
        return module.lazy_init(key, example)["params"]

    def apply(params: Params, inputs: Array) -> Any:
        return module.apply({"params": params}, inputs)

    return Model(init, apply)


def _module(config: Config, num_features: int, num_classes: int) -> tuple[Labeller, jax.ShapeDtypeStruct]:
    found = settings(config)
    module = Labeller(MODELS[config.model].body(**found), num_classes, config.step_position)
    return module, jax.ShapeDtypeStruct((1, config.seq_len, num_features), jnp.float32)


class Layer(NamedTuple):
    """One row of a model's summary.  shape: of its output, without the batch axis."""

    name: str
    shape: tuple[int, ...]
    num_parameters: int


def summary(config: Config, num_features: int, num_classes: int) -> list[Layer]:
    """The model's layers in the order in which they run; nothing is computed, only shapes.

    Of a model of somebody's own one row, since its layers are nobody's business.
    """
    if is_own(config.model):
        built = own_model.build(config, num_features, num_classes)
        return [Layer(config.model, (config.seq_len, num_classes), own_model.num_parameters(built))]
    module, example = _module(config, num_features, num_classes)
    order: list[str] = []

    def run(key: jax.Array, inputs: Array) -> Any:
        _, variables = module.init_with_output(key, inputs, capture_intermediates=True)
        order.extend(variables["params"]["body"])  # what eval_shape gives back is sorted by name
        return variables

    variables = jax.eval_shape(run, jax.eval_shape(jax.random.key, 0), example)
    params, outputs = variables["params"], variables["intermediates"]

    def row(name: str, params: Params, outputs: Any) -> Layer:
        num_parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        return Layer(name, outputs["__call__"][0].shape[1:], num_parameters)

    body = [row(name, params["body"][name], outputs["body"][name]) for name in order]
    return [*body, row("logits", params["logits"], outputs["logits"])]


class Sight(NamedTuple):
    """What the outputs of a model see, of a built-in one by construction; as in `bayes.View`.

    sees: `[T, T]` boolean.  position_classes: `[T]`.  unordered: `[T]` boolean.
    """

    sees: np.ndarray
    position_classes: np.ndarray
    unordered: np.ndarray


def sight(config: Config) -> Sight:
    """What a built-in model sees.

    The forecast of a run measures this (`receptive_field`); a remedy is forecast
    from here, since measuring every candidate would take longer than training.
    The tests hold the two against each other.
    """
    found, kind = settings(config), MODELS[config.model]
    steps = np.arange(config.seq_len)
    back = steps[:, None] - steps  # how many steps s lies before t
    classes, unordered = steps, np.zeros(len(steps), bool)
    if config.model == "dense":
        sees, classes = back == 0, 0 * steps
    elif config.model == "causal_conv":
        offsets = np.zeros(1, int)
        for layer in range(len(found["hidden_sizes"])):
            reached = np.add.outer(offsets, np.arange(found["kernel_size"]) * 2**layer)
            offsets = np.unique(np.minimum(reached, config.seq_len))  # so far back is before the first step
        sees = np.isin(back, offsets)
        classes = np.minimum(steps, offsets.max())  # every step beyond the padding has the same window
    elif config.model == "attention":
        sees, classes, unordered = back == back, 0 * steps, np.full(len(steps), len(steps) > 1)
    elif config.model == "causal_attention":
        # A second causal layer can tell the order from what the first one made of each prefix.
        sees, unordered = back >= 0, (steps >= 2) & (found["num_layers"] == 1)
    else:
        sees = {"forward": back >= 0, "reverse": back <= 0, "both": back == back}[kind.recurrent or "both"]
    if config.step_position:
        classes, unordered = steps, np.zeros(len(steps), bool)
    return Sight(sees, classes, unordered)


def family(config: Config) -> tuple[str, str | None]:
    """Which functions of what it sees a built-in model can express.

    "linear", "universal" (any, given enough width), or "unknown", and then why.
    """
    found = settings(config)
    if is_own(config.model):
        return "unknown", "which functions of what it sees a model of your own can express is not known"
    if found.get("activation") == "none":
        if config.model == "dense":
            return "linear", None
        return "unknown", "which functions of its window a convolution without activation can express is not known"
    if config.model == "causal_attention" and not config.step_position and config.seq_len > 1:
        return "unknown", "attention takes means, and does not know over how many steps"
    return "universal", None
