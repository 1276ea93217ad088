"""Small Flax models, sound and broken, and data on which the sound ones learn, for tests of training."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seqjax import arrays, models
from seqjax.adapters import Trainable, as_trainable
from seqjax.config import Config


def own_step(size: int = 1500, steps: int = 6, features: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The label is the sign of a sum of two features of its own step."""
    x = np.random.default_rng(seed).normal(size=(size, steps, features)).astype(np.float32)
    return x, (x[..., 0] + 0.5 * x[..., 1] > 0).astype(int)


def earlier_step(size: int = 1500, steps: int = 8, back: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The label is a bit of the step so many before; 0 where there is none."""
    x = np.random.default_rng(seed).integers(0, 2, (size, steps, 5)).astype(np.float32) - 0.5
    y = np.zeros((size, steps), int)
    y[:, back:] = x[:, :-back, 0] > 0
    return x, y


def tokens(size: int = 1500, steps: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The label is the token modulo 3."""
    x = np.random.default_rng(seed).integers(0, 30, (size, steps))
    return x, x % 3


class Mlp(nn.Module):
    """Dense layers with one activation."""

    act: Callable[[Any], Any] = nn.relu
    sizes: tuple[int, ...] = (32, 32)
    kernel: Any = nn.initializers.lecun_normal()
    bias: Any = nn.initializers.zeros
    norm: bool = False
    after_first: Callable[[Any], Any] = lambda h: h  # what is done to the first layer's units

    @nn.compact
    def __call__(self, x):
        for n, size in enumerate(self.sizes):
            x = nn.Dense(size, kernel_init=self.kernel, bias_init=self.bias)(x)
            x = self.act(nn.LayerNorm()(x) if self.norm else x)
            x = self.after_first(x) if n == 0 else x
        return nn.Dense(2)(x)


class Rnn(nn.Module):
    """A recurrence and a layer; `recurrent` is how the weights from step to step start, if not as in Flax."""

    cell: Any = nn.GRUCell
    recurrent: Any = None

    @nn.compact
    def __call__(self, x):
        start = {"recurrent_kernel_init": self.recurrent} if self.recurrent else {}
        return nn.Dense(2)(nn.RNN(self.cell(32, **start))(x))


class Conv(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Conv(24, (3,))(x))
        return nn.Dense(2)(x)


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(32)(x) + self.param("position", nn.initializers.normal(0.02), (1, x.shape[1], 32))
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))
            x = x + nn.Dense(32)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(x))))
        return nn.Dense(2)(nn.LayerNorm()(x))


class Embedded(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(32)(nn.Embed(30, 16)(x[..., 0] if x.ndim == 3 else x))))


class Normed(nn.Module):
    """Batch normalisation right after the inputs."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(2)(nn.relu(nn.Dense(32)(x)))


class LinearRecurrence(nn.Module):
    """h' = radius · h + U x, then a layer."""

    radius: float

    @nn.compact
    def __call__(self, x):
        weights = self.param("weights", lambda key, shape: self.radius * jnp.eye(*shape), (16, 16))

        def step(h, u):
            h = h @ weights + u
            return h, h

        _, states = jax.lax.scan(step, jnp.zeros((len(x), 16)), jnp.swapaxes(nn.Dense(16)(x), 0, 1))
        return nn.Dense(2)(jnp.swapaxes(states, 0, 1))


class SimpleRecurrence(nn.Module):
    """A tanh recurrence; `detached` stops the gradient from step to step, `forgets` hands the old state on."""

    detached: bool = False
    forgets: bool = False

    @nn.compact
    def __call__(self, x):
        cell, out = nn.SimpleCell(32), []
        state = jnp.zeros((len(x), 32))
        for t in range(x.shape[1]):
            new, h = cell(jax.lax.stop_gradient(state) if self.detached else state, x[:, t])
            state = state if self.forgets else new
            out.append(h)
        return nn.Dense(2)(jnp.stack(out, 1))


def trainable(model: nn.Module, x: np.ndarray, num_classes: int = 2) -> Trainable:
    found = as_trainable(model, x[..., None] if x.ndim == 2 else x, num_classes)
    assert isinstance(found, Trainable)
    return found


def kit(name: str, x: np.ndarray, num_classes: int = 2) -> Trainable:
    """One of the kit's own models."""
    config = Config(model=name, seq_len=x.shape[1], num_features=x.shape[2])
    return Trainable(*models.build(config, x.shape[2], num_classes), "functions")


def loaded(x: np.ndarray, y: np.ndarray, **known: Any) -> arrays.Arrays:
    return arrays.load(x=x, y=y, **known)
