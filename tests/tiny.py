"""What many tests share: an experiment that takes a second, run once however often it is asked for."""

import functools
from typing import Any

import jax
import numpy as np
import pytest

from seqjax import experiment, models, tasks, training
from seqjax.config import Config

SETTINGS: dict[str, Any] = {"num_features": 9, "num_samples": 60, "batch_size": 16, "num_epochs": 2}
# The same as flags, and without a compilation cache: tests leave nothing behind in the user's home.
ARGV = [*(f"--{name}={value}" for name, value in SETTINGS.items()), "--nocompilation_cache"]


def in_full(*values: Any, when: Any = lambda value: True) -> list[Any]:
    """Parameters of a test; those for which `when` holds take long and are left to `.ci/run --full`."""
    return [pytest.param(value, marks=pytest.mark.full) if when(value) else value for value in values]


def config(**settings: Any) -> Config:
    return Config(**(SETTINGS | settings))


@functools.cache
def run_of(of: Config) -> experiment.Result:
    return experiment.run(of)


def run(**settings: Any) -> experiment.Result:
    """The result of a small experiment; the same object for the same settings."""
    return run_of(config(**settings))


def model_of(of: Config, num_classes: int = 2) -> models.Model:
    return models.build(of, of.num_features, num_classes)


def programs_of(
    of: Config, task: tasks.Task | None = None, model: models.Model | None = None
) -> training.Programs:
    return training.compile_programs(of, task or tasks.build(of), model or model_of(of), 1)


def start(of: Config, programs: training.Programs):
    """The state and data of replicate 0 before training, as the run makes them: `[1, ...]`."""
    return programs.setup(np.uint32(of.seed), np.arange(1, dtype=np.int32))


def epoch(of: Config, programs: training.Programs, state: Any, data: Any, n: int):
    return programs.epoch(state, data, np.uint32(of.seed), np.arange(1, dtype=np.int32), np.int32(n))


def size_of(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def assert_same_bits(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a: Any, b: Any, **tolerance: float) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def differ(a: Any, b: Any) -> bool:
    """Whether two trees of the same structure hold other numbers anywhere."""
    return any(not np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
