"""Probes use what their sight allows and nothing else, and learn from the sequences that they are given."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from seqjax import ladder, probes
from seqjax.batch import Batch
from seqjax.ladder import ACROSS, LOOKING
from seqjax.probes import LinearProbe, Part, PooledProbe, RecurrentProbe, Sight, Training

STEPS, FEATURES, CLASSES = 7, 3, 4  # more steps than a pooled probe knows by their distance
NETS = {
    "linear": (LinearProbe(CLASSES, True), LOOKING),
    "pooled": (PooledProbe(CLASSES), LOOKING),
    "recurrent": (RecurrentProbe(CLASSES), ACROSS),
}
CASES = [(kind, rung) for kind, (_, rungs) in NETS.items() for rung in rungs]


def sight_of(rung: str, steps: int = STEPS) -> Sight:
    return Sight(*(part[0] for part in ladder.sights_of(steps, (rung,))))


@functools.cache
def applied(kind: str) -> Callable[[Any, Sight], np.ndarray]:
    """A probe of the kind with random parameters: inputs and sight to logits."""
    net = NETS[kind][0]
    params = jax.jit(net.init)(jax.random.key(0), np.zeros((1, STEPS, FEATURES), np.float32), sight_of("all"))
    rng = np.random.default_rng(1)  # biases and a linear probe's slopes begin at zero
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(leaf.dtype), params)
    program = jax.jit(net.apply)
    return lambda x, sight: np.asarray(program(params, x, sight))


def inputs(n: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, STEPS, FEATURES)).astype(np.float32)


@pytest.mark.parametrize(("kind", "rung"), CASES)
def test_outputs_move_with_what_the_rung_sees_and_with_nothing_else(kind, rung):
    x, other, sight = inputs(), inputs(seed=5), sight_of(rung)
    before = applied(kind)(x, sight)
    moved = np.zeros((STEPS, STEPS), bool)
    for s in range(STEPS):
        swapped = np.where((np.arange(STEPS) == s)[:, None], other, x)
        moved[:, s] = (applied(kind)(swapped, sight) != before).any((0, 2))
    t = np.arange(STEPS)
    sees = {"past": t[:, None] >= t, "future": t[:, None] <= t, "all": np.ones_like(moved)}
    np.testing.assert_array_equal(moved, sees.get(rung, np.eye(STEPS, dtype=bool)))


@pytest.mark.parametrize("kind", ["linear", "pooled"])
def test_own_step_alone_cannot_tell_positions(kind):
    alike = np.repeat(inputs()[:, :1], STEPS, 1)
    own = applied(kind)(alike, sight_of("own_step"))
    np.testing.assert_array_equal(own, np.repeat(own[:, :1], STEPS, 1))
    known = applied(kind)(alike, sight_of("own_step_and_position"))
    assert (np.abs(np.diff(known, axis=1)).max((0, 2)) > 0.01).all()


@pytest.mark.parametrize("rung", LOOKING)
def test_a_linear_probe_is_linear_in_its_inputs(rung):
    def f(x: np.ndarray) -> np.ndarray:
        return applied("linear")(x, sight_of(rung))

    a, b = inputs(), inputs(seed=5)
    np.testing.assert_allclose(f(2 * a - 3 * b), 2 * f(a) - 3 * f(b) + 2 * f(0 * a), atol=2e-4)


def test_the_other_probes_are_not_linear():
    a, b = inputs(), inputs(seed=5)
    for kind in ("pooled", "recurrent"):
        f = functools.partial(applied(kind), sight=sight_of("all"))
        assert np.abs(f(a + b) - f(a) - f(b) + f(0 * a)).max() > 0.1


def test_one_step_is_enough_for_a_pooled_probe():
    net, sight = PooledProbe(CLASSES), sight_of("own_step", 1)
    x = inputs()[:, :1]
    made = jax.eval_shape(net.init_with_output, jax.random.key(0), x, sight)
    assert made[0].shape == (8, 1, CLASSES)


# --- Training ----------------------------------------------------------------------------------------------------

ROWS, RUNGS = 90, ("own_step", "past", "all")
HOW = Training(8, 48, 0.05)


def data(seed: int = 0) -> Batch:
    """The sign of the first feature of the step before; the last step of every third sequence is not scored."""
    x = np.random.default_rng(seed).normal(size=(ROWS, 3, 2)).astype(np.float32)
    y = (np.roll(x[..., 0], 1, 1) > 0).astype(np.int32)
    mask = (np.arange(3) < 2) | (np.arange(ROWS)[:, None] % 3 > 0)
    return Batch(x, y, mask)


@functools.cache
def trained(kind: str) -> tuple[Callable[[Batch], probes.Fitted], Part, probes.Probes]:
    """How probes of the kind are trained on other data, the parts, and the probes."""
    parts = ladder.parts_of(ROWS, 3)[0]
    sights = ladder.sights_of(3, RUNGS if kind != "recurrent" else RUNGS[1:])
    net = {"linear": LinearProbe(2, True), "pooled": PooledProbe(2), "recurrent": RecurrentProbe(2)}[kind]
    made = probes.build(net, HOW, data(), parts, sights, None)
    return lambda of: jax.device_get(made.fit(of, parts, sights, None)), parts, made


KINDS = [
    "linear",
    pytest.param("pooled", marks=pytest.mark.full),
    pytest.param("recurrent", marks=pytest.mark.full),
]


def flipped(rows: np.ndarray) -> Batch:
    """The data with other labels and inputs in these rows."""
    x, y, mask = data()
    y, x = y.copy(), x.copy()
    y[rows] = 1 - y[rows]
    x[rows] = data(seed=7).inputs[rows]
    return Batch(x, y, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_learnt_from_test_sequences_and_something_from_all_others(kind):
    fit, parts, _ = trained(kind)
    before = fit(data())
    for p in range(len(parts.num_train)):
        after = fit(flipped(parts.test[p]))
        np.testing.assert_array_equal(after.params[p], before.params[p])
        np.testing.assert_array_equal(after.curve[p], before.curve[p])
        np.testing.assert_array_equal(after.stop[p], before.stop[p])
        assert (after.test[p] != before.test[p]).any()
        after = fit(flipped(parts.stop[p]))
        assert (after.curve[p] != before.curve[p]).all()
        for row in parts.train[p][[0, parts.num_train[p] - 1]]:
            assert (fit(flipped(np.array([row]))).params[p] != before.params[p]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_half_as_many_are_the_first_half_of_the_others(kind):
    fit, parts, _ = trained(kind)
    whole, half = 0, 1
    assert parts.num_train[half] == parts.num_train[whole] // 2
    np.testing.assert_array_equal(parts.train[half], parts.train[whole])
    before, after = fit(data()), fit(flipped(parts.train[half][parts.num_train[half] :]))
    np.testing.assert_array_equal(after.params[half], before.params[half])
    assert (after.params[whole] != before.params[whole]).any(1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_steps_that_are_not_scored_change_nothing(kind):
    fit, _, _ = trained(kind)
    x, y, mask = data()
    before, after = fit(data()), fit(Batch(x, np.where(mask, y, 1 - y), mask))
    jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.parametrize("kind", KINDS)
def test_kept_is_what_was_best_on_the_stop_sequences(kind):
    fit, parts, made = trained(kind)
    found, (x, y, mask) = fit(data()), data()
    for p in range(len(parts.num_train)):
        rows = parts.stop[p]
        losses = -np.take_along_axis(ladder.log_softmax(found.stop[p]), y[rows][None, ..., None], -1)[..., 0]
        lowest = (losses * mask[rows]).sum((1, 2)) / mask[rows].sum()
        np.testing.assert_allclose(lowest, found.curve[p].min(1), rtol=1e-4)
        sights = ladder.sights_of(3, RUNGS if kind != "recurrent" else RUNGS[1:])
        for i, params in enumerate(found.params[p]):
            sight = Sight(*(part[i] for part in sights))
            logits = np.asarray(made.apply(params, x[parts.test[p]], sight))
            np.testing.assert_allclose(found.test[p, i], logits, rtol=1e-4, atol=1e-5)


def test_outputs_are_the_same_however_they_are_cut_into_chunks(monkeypatch):
    parts, sights = ladder.parts_of(ROWS, 3)[0], ladder.sights_of(3, ("own_step",))
    parts = Part(*(part[:1] for part in parts))
    found = []
    for size in (probes.CHUNK_STEPS, 3 * 7, 1):  # 30 and 15 rows: not a multiple of 7
        monkeypatch.setattr(probes, "CHUNK_STEPS", size)
        build = probes.build.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
        found.append(
            jax.device_get(
                build(LinearProbe(2, False), HOW, data(), parts, sights, None).fit(data(), parts, sights, None)
            )
        )
    for other in found[1:]:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), other, found[0])


def test_probes_learn_what_they_see_and_no_more():
    """The label is a function of the step before."""
    fit, parts, _ = trained("linear")
    found, (_, y, _) = fit(data()), data()
    right = [(found.test[0, i].argmax(-1) == y[parts.test[0]])[:, 1:].mean() for i in range(len(RUNGS))]
    assert right[0] < 0.65
    assert min(right[1:]) > 0.75
