"""The instruments on models whose readings are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from seqjax import instruments
from seqjax.adapters import Trainable
from seqjax.instruments import Lab


def leaves(**shapes):
    return {path.replace("__", "/"): np.ones(shape) for path, shape in shapes.items()}


def test_a_bias_of_heads_is_no_kernel():
    found = leaves(
        query__kernel=(8, 4, 2), query__bias=(4, 2), out__w=(4, 2, 8), out__b=(8,), a__w=(3, 5, 5), a__v=(5, 5)
    )
    assert instruments.kernels(found) == ["query/kernel", "out/w", "a/w"]  # a/v has the shape of what a/w puts out


def test_paths_are_those_that_a_person_knows():
    tree = {"a": {"kernel": {"value": np.ones(2)}, "bias": np.zeros(1)}, "b": [np.ones(1)]}
    assert list(instruments.flat(tree)) == ["a/bias", "a/kernel", "b/0"]


@pytest.mark.parametrize(("framework", "axis"), [("equinox", 0), ("flax.linen", -1)])
def test_units_are_told_by_framework_and_bias(framework, axis):
    assert instruments.unit_axis("a/weight", leaves(a__weight=(7, 3), a__bias=(7,)), framework) == axis
    assert instruments.unit_axis("a/weight", leaves(a__weight=(7, 3)), framework) == -1  # an embedding


def test_dead_units_and_typical_sizes():
    peaks = {"w": np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 3.0]])}
    assert instruments.dead_share(peaks, "w", -1) == pytest.approx(1 / 3)
    assert instruments.dead_share(peaks, "w", 0) == 0
    assert instruments.typical(peaks["w"]) == 2
    assert instruments.typical(np.zeros(3)) == 0


def test_a_standard_initialisation():
    params = {"w": np.full((400, 50), 9.0, np.float32), "b": np.full(50, 9.0, np.float32), "scale": np.ones(50)}
    made = instruments.standard(params, "functions", 0)
    assert made["w"].std() == pytest.approx(400**-0.5, rel=0.02)
    assert made["w"].dtype == np.float32
    assert not made["b"].any()
    assert (made["scale"] == 1).all()


def test_orthogonal_recurrences():
    kept = {
        "in": np.ones((6, 4), np.float32),
        "out": np.ones((20, 2)),
        "b": np.ones(4),
        "heads": np.ones((4, 2, 2)),
    }
    made = instruments.orthogonal(kept | {"gates": np.ones((4, 12), np.float32), "first": np.ones((12, 4))}, 0)
    for square in (*np.split(made["gates"], 3, 1), *np.split(made["first"], 3, 0)):
        assert square @ square.T == pytest.approx(np.eye(4), abs=1e-6)
    assert made["gates"].dtype == np.float32
    assert all((made[name] == 1).all() for name in kept)


def test_an_estimate_has_the_spread_of_both():
    rng = np.random.default_rng(0)
    inits, noise = np.array([-0.3, -0.1, 0.1, 0.3]), rng.normal(size=(400, 5))
    mask = np.ones((400, 5), bool)
    both = instruments.estimate(1 + inits[:, None, None] + noise, mask)
    between, within = inits.std(ddof=1) / 2, 1 / np.sqrt(2000)
    assert both.mean == pytest.approx(1, abs=4 * within)
    assert both.se == pytest.approx(np.hypot(between, within), rel=0.05)
    low, high = both.ci95(1.0)
    assert (high - low) / 2 == pytest.approx(1.96 * both.se)
    assert low < 0 < high


DECAY = 0.5


def remembers(params, x):
    """The logit of class 1 is w · Σ 0.5^k x[t - k] of the first feature."""
    steps = x.shape[1]
    back = jnp.arange(steps)[:, None] - jnp.arange(steps)[None]
    weights = jnp.where(back >= 0, DECAY ** jnp.maximum(back, 0), 0.0)
    logit = params["w"] * jnp.einsum("nsf,ts->ntf", x, weights)[..., 0]
    return jnp.stack([jnp.zeros_like(logit), logit], -1)


@pytest.fixture(scope="module")
def lab():
    x, y = zoo.earlier_step(size=300, steps=6)
    return Lab(
        Trainable(lambda key: {"w": jax.random.uniform(key, (), minval=1.0, maxval=2.0)}, remembers, "functions"),
        zoo.loaded(x, y),
        0,
    )


def test_influence_falls_as_the_model_forgets(lab):
    found = lab.influences({"w": jnp.float32(0.01)})
    for name in ("gradient", "swap"):
        np.testing.assert_allclose(found[name] / found[name][0], DECAY ** np.arange(6), rtol=0.4)
    # The same bit of x for all sequences but half: in units of its deviation, 0.5.
    np.testing.assert_allclose(found["gradient"][1:] / found["gradient"][:-1], DECAY, rtol=0.02)


def test_what_far_inputs_bring(lab):
    losses, mask, rises, gains = lab.use_of_far({"w": jnp.float32(0.0)}, 1)
    assert mask.shape == losses.shape == (60, 6)
    np.testing.assert_allclose(losses, np.log(2), rtol=1e-5)
    assert not rises.any()
    np.testing.assert_allclose(
        gains[:, 1:].mean(), 0, atol=0.02
    )  # guessing is as good; the first label is always 0
    np.testing.assert_allclose(gains[:, 0], -np.log(2), atol=0.01)
    _, _, rises, _ = lab.use_of_far({"w": jnp.float32(4.0)}, 1)
    assert rises.std() > 0.1
    losses, _, rises, _ = lab.use_of_far({"w": jnp.float32(4.0)}, 5)
    assert losses.shape == (60, 2)  # the first step and the last have inputs so far away
    np.testing.assert_allclose(rises[:, 0], 0, atol=1e-6)  # the first sees nothing behind it


def test_standardised_inputs(lab):
    standardised = lab.standardised(lab.train).inputs
    np.testing.assert_allclose(standardised.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(standardised.std((0, 1)), 1, atol=1e-5)


def test_the_same_seed_gives_the_same_run(lab):
    first, second = (lab.run(lab.starts[0], 1, 0) for _ in range(2))
    np.testing.assert_array_equal(first.losses, second.losses)
    np.testing.assert_array_equal(first.val, second.val)
    longer = lab.go_on([first], 1)[0]
    assert len(longer.losses) == 64
    assert longer.start is first.start


def test_the_starts_differ(lab):
    values = [float(start["w"]) for start in lab.starts]
    assert len(set(values)) == instruments.INITS
    shrunk = [float(start["w"]) for start in lab.started("shrunk")]
    np.testing.assert_allclose(shrunk, 0.1 * np.array(values), rtol=1e-6)
