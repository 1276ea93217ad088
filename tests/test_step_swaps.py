"""Which label needs which step: the estimate is the truth where probes have learnt, and says nothing elsewhere."""

from typing import Any

import climbs
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax import arrays, ladder, step_swaps
from seqjax.batch import Batch
from seqjax.step_swaps import Dependence

TRUE = {
    "own_step": [[1, 0], [0, 1]],
    "last_step": [[0, 1], [0, 1]],
    "previous_step": [[0, 0], [1, 0]],
    "reversed_step": [[0, 1], [1, 0]],
    "xor": [[1, 1], [1, 1]],
    "masked": [[1, 0], [0, 1]],
    "garbage in the padding": [[1, 0], [0, 1]],
    "noisy": [[1, 0], [0, 1]],
    "a label for each sequence": [[0, 0], [1, 0]],  # the last step alone is scored, and needs the first
    "tokens": [[0, 1], [1, 0]],
}
LONG = ("noisy", "a label for each sequence", "tokens")


def found(name: str) -> Dependence:
    swaps = climbs.dependence(name)
    assert swaps is not None
    return swaps


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full) if name in LONG else name for name in TRUE]
)
def test_the_estimate_is_the_truth(name):
    np.testing.assert_array_equal(found(name).matrix, TRUE[name])


def test_a_rise_is_what_not_knowing_the_step_costs():
    """With another sequence's step a probe that was sure is as sure, and wrong in half of the cases."""
    swaps = found("last_step")
    assert swaps.rise[:, 1].min() > np.log(2)
    assert np.abs(swaps.rise[:, 0]).max() < 0.02
    assert (swaps.error >= 0).all()
    assert swaps.z == pytest.approx(2.4977, abs=1e-3)  # 0.05 shared by both sides of four cells


@pytest.mark.parametrize(
    "name", ["too noisy for so few", pytest.param("nothing but noise", marks=pytest.mark.full)]
)
def test_a_probe_that_learnt_nothing_shows_nothing(name):
    assert np.isnan(found(name).matrix).all()


@pytest.mark.full
def test_where_the_position_says_it_all_no_step_is_needed():
    x, _ = climbs.bits(np.random.default_rng(0), 2)
    y = np.broadcast_to(np.arange(2), x.shape[:2])
    read = arrays.load(x=x, y=y)
    swaps = step_swaps.dependence(climbs.climb(ladder.sample(read, read.train)[0], 2))
    assert swaps is not None
    np.testing.assert_array_equal(swaps.matrix, np.zeros((2, 2)))


def test_one_step_has_no_other():
    assert climbs.dependence("one step") is None


# --- Many steps --------------------------------------------------------------------------------------------------


def made_up(source: np.ndarray, n: int = 300) -> tuple[ladder.Ladder, np.ndarray]:
    """A ladder whose best probe knows the rule, and the true matrix: label t is the sign of step `source[t]`."""
    rng, steps = np.random.default_rng(1), len(source)
    x = rng.normal(size=(n, steps, 1)).astype(np.float32)
    y = (x[:, source, 0] > 0).astype(np.int32)
    template = climbs.climbed("last_step")
    fitted = template.fits["pooled"].fitted._replace(params=np.ones((4, 1, 1)), curve=np.zeros((4, 1, 2)))

    def apply(params: Any, x: Any, sight: Any) -> Any:
        logits = 4 * params[0] * x[:, source]
        return jnp.concatenate([-logits, logits], -1)

    fit = ladder.Fit(("all",), ladder.sights_of(steps, ("all",)), fitted, apply)
    learnt: dict[ladder.Key, np.ndarray] = {key: np.zeros(steps) for key in ladder.KEYS}
    learnt["position", None] += np.log(2)
    truth = np.zeros((steps, steps))
    truth[np.arange(steps), source] = 1
    data = Batch(x, y, np.ones(y.shape, bool))
    return template._replace(
        data=data, by_step=learnt, held_out=np.tile(np.arange(n), (4, 1)), fits={"pooled": fit}
    ), truth


def test_the_probe_that_learnt_is_asked_whatever_its_part():
    climbed, truth = made_up(np.full(3, 2))
    fit = climbed.fits["pooled"]
    knows = np.zeros((4, 1, 1))
    knows[2] = 1  # of the probes of four parts, one learnt the rule
    fitted = fit.fitted._replace(params=knows, curve=np.log(2) * (1 - knows.repeat(2, 2)))
    swaps = step_swaps.dependence(climbed._replace(fits={"pooled": fit._replace(fitted=fitted)}))
    assert swaps is not None
    np.testing.assert_array_equal(swaps.matrix, truth)


def test_what_was_learnt_of_no_single_step_cannot_be_told():
    climbed, _ = made_up(np.arange(2))
    fit = climbed.fits["pooled"]
    fitted = fit.fitted._replace(params=np.zeros((4, 1, 1)))
    swaps = step_swaps.dependence(climbed._replace(fits={"pooled": fit._replace(fitted=fitted)}))
    assert swaps is not None
    assert np.isnan(swaps.matrix).all()


SOURCES = {
    "the step before, at 40": np.maximum(np.arange(40) - 1, 0),
    "the last, at 40": np.full(40, 39),
    "two steps far apart, at 70": np.where(np.arange(70) % 2, 3, 66),
    "the own, at 32, one by one": np.arange(32),
}


@pytest.mark.parametrize("name", SOURCES)
def test_many_steps_are_swapped_in_blocks_and_then_one_by_one(name):
    climbed, truth = made_up(SOURCES[name])
    swaps = step_swaps.dependence(climbed)
    assert swaps is not None
    np.testing.assert_array_equal(swaps.matrix, truth)
    assert swaps.rise[truth > 0].min() > 0.5
    assert np.abs(swaps.rise[truth == 0]).max() == 0


def test_steps_that_are_not_scored_do_not_count():
    """Labels of masked steps are wrong, and change nothing; a step that is never scored needs nothing."""
    climbed, truth = made_up(np.maximum(np.arange(6) - 1, 0))
    x, y, mask = climbed.data
    mask = mask & (np.random.default_rng(2).random(mask.shape) < 0.7) & (np.arange(6) != 4)
    by_step = climbed.by_step | {("position", None): np.where(np.arange(6) == 4, 0, np.log(2))}
    both = [
        step_swaps.dependence(climbed._replace(data=Batch(x, labels, mask), by_step=by_step))
        for labels in (y, np.where(mask, y, 1 - y))
    ]
    np.testing.assert_array_equal(both[0].rise, both[1].rise)
    truth[4] = 0
    np.testing.assert_array_equal(both[0].matrix, truth)


@pytest.mark.full
@pytest.mark.parametrize("rule", ["own_step", "last_step", "previous_step", "reversed_step"])
def test_forty_steps_from_data_alone(rule):
    """What was learnt is right; what was not is left open."""
    rng = np.random.default_rng(3)
    x, events = climbs.bits(rng, 40, 1_500)
    label = climbs.RULES[rule][0]
    read = arrays.load(x=x, y=label(events))
    swaps = step_swaps.dependence(climbs.climb(ladder.sample(read, read.train)[0], 2))
    assert swaps is not None
    truth = np.zeros((40, 40))
    for s in range(40):
        one = np.eye(40, dtype=int)[s : s + 1]
        truth[:, s] = label(one)[0]
    known = ~np.isnan(swaps.matrix)
    np.testing.assert_array_equal(swaps.matrix[known], truth[known])
    assert known.mean() > 0.9
