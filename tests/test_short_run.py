"""The short run names what holds a model back, and nothing of a model that learns."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from seqjax import findings, short_run

initializers = nn.initializers
PRIOR = 0.693


def of(model, x, y, **known):
    trainable = model if hasattr(model, "init") and not isinstance(model, nn.Module) else zoo.trainable(model, x)
    return short_run.instrumented(
        trainable, zoo.loaded(x, y), **({"needs": 0, "floor": 0.0, "seconds": 600.0} | known)
    )


def causes(result):
    for finding in result.findings:
        assert finding.cause in findings.RANK
        assert finding.ci95[0] <= finding.value <= finding.ci95[1]
        assert finding.evidence.endswith(".")
        assert finding.remedy.endswith(".")
        assert "{" not in finding.evidence + finding.remedy
    return [finding.cause for finding in result.findings]


# --- Healthy ------------------------------------------------------------------------------------------------


def test_a_model_that_learns_has_no_finding_and_its_values_are_plain():
    x, y = zoo.own_step()
    result = of(zoo.Mlp(), x, y)
    assert causes(result) == []
    values = json.loads(json.dumps(result.values))
    assert values["outputs"] == "logits"
    assert values["updates"] == 320
    assert values["train_loss"][-1] < 0.2 < values["train_loss"][0]
    assert values["ci95"]["loss"][0] < values["loss"] < values["ci95"]["loss"][1]
    assert set(values["gradients"]["before"]) == {
        f"Dense_{n}/{leaf}" for n in range(3) for leaf in ("bias", "kernel")
    }
    assert max(values["dead_share"]["after"].values()) < 0.2
    influence = values["influence_by_distance"]["after"]
    assert influence["gradient"][0] > 1
    assert influence["gradient"][1:] == influence["swap"][1:] == [0] * 5
    # predict is of the trained parameters, and on any number of sequences
    logits = result.predict(x[:301])
    assert logits.shape == (301, 6, 2)
    assert (logits.argmax(-1) == y[:301]).mean() > 0.95


def test_a_recurrence_that_learns_has_no_finding():
    x, y = zoo.earlier_step()
    result = of(zoo.Rnn(), x, y, needs=1)
    assert causes(result) == []
    assert result.values["influence_by_distance"]["after"]["gradient"][1] > 0.1


def test_tokens_are_neither_scaled_nor_differentiated():
    x, y = zoo.tokens()
    result = of(zoo.trainable(zoo.Embedded(), x, 3), x, y)
    assert causes(result) == []
    assert set(result.values["influence_by_distance"]["after"]) == {"swap"}


HEALTHY = {
    **{name: name for name in ("dense", "gru", "lstm", "bidirectional_gru", "causal_conv", "attention")},
    "mlp_tanh": zoo.Mlp(act=nn.tanh),
    "mlp_narrow": zoo.Mlp(sizes=(10, 10)),
    "mlp_norm": zoo.Mlp(norm=True),
    "simple": zoo.Rnn(nn.SimpleCell),
    "lstm_flax": zoo.Rnn(nn.OptimizedLSTMCell),
    "conv": zoo.Conv(),
    "transformer": zoo.Transformer(),
    "batch_norm": zoo.Normed(),
}
OWN_STEP = (
    "dense",
    "mlp_tanh",
    "mlp_narrow",
    "mlp_norm",
    "attention",
    "batch_norm",
)  # what cannot tell one before


@pytest.mark.full
@pytest.mark.parametrize("data", ["own_step", "earlier_step"])
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_models_have_no_finding(name, data):
    x, y = getattr(zoo, data)()
    model = HEALTHY[name]
    model = zoo.kit(model, x) if isinstance(model, str) else model
    before = data == "earlier_step"
    # The first label is always 0: of the prior 0.68, seven eighths are left to those that see no other step.
    floor = 0.68 if before and name in OWN_STEP else 0.0
    assert causes(of(model, x, y, needs=int(before), floor=floor)) == []


# --- What does not train ------------------------------------------------------------------------------------


def test_a_gradient_that_is_cut_is_found_with_its_layer():
    x, y = zoo.own_step()
    [found] = of(zoo.Mlp(after_first=jax.lax.stop_gradient), x, y).findings
    assert found.cause == "does_not_train"
    assert found.value == pytest.approx((8 * 32 + 32) / (9 * 32 + 33 * 32 + 33 * 2))
    assert "the outputs move with Dense_0/bias, Dense_0/kernel" in found.evidence


@pytest.mark.full
def test_rounding_cuts_a_gradient_too():
    x, y = zoo.own_step()
    assert causes(of(zoo.Mlp(after_first=lambda h: jnp.round(4 * h) / 4), x, y)) == ["does_not_train"]


@pytest.mark.full
def test_kernels_that_start_at_zero_never_move():
    x, y = zoo.own_step()
    zero = zoo.Mlp(kernel=initializers.zeros)
    result = of(zero, x, y)
    assert causes(result) == ["stuck_at_prior"]
    assert "Dense_0/kernel and Dense_1/kernel" in result.findings[0].evidence
    assert "random" in result.findings[0].remedy


@pytest.mark.full
def test_a_layer_whose_outputs_are_not_used_is_found_where_the_loss_could_be_lower():
    x, y = zoo.own_step()
    unused = zoo.Mlp(after_first=lambda h: 0 * h)
    result = of(unused, x, y)
    assert causes(result) == ["does_not_train"]
    assert "no output moves with" in result.findings[0].evidence


def test_a_state_that_is_not_handed_on():
    """Recurrent weights that no output moves with, and labels that need the step before."""
    x, y = zoo.earlier_step(steps=3)
    [found] = of(zoo.SimpleRecurrence(forgets=True), x, y, needs=1, floor=0.0).findings
    assert found.cause == "history_unused"
    assert "No output moves with the inputs of other steps" in found.evidence
    assert "SimpleCell_0/h/kernel" in found.evidence
    assert found.ci95[0] < found.value < found.ci95[1]


@pytest.mark.full
@pytest.mark.parametrize(("detached", "expected"), [(True, ["does_not_train"]), (False, [])])
def test_a_gradient_that_is_cut_between_steps(detached, expected):
    x, y = zoo.earlier_step(back=4, steps=10)
    assert causes(of(zoo.SimpleRecurrence(detached), x, y, needs=4)) == expected


# --- Units --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bias", "floor"), [(-10.0, 0.0), pytest.param(-6.0, None, marks=pytest.mark.full)])
def test_dead_units_wake_at_a_standard_initialisation(bias, floor):
    x, y = zoo.own_step()
    [found] = of(zoo.Mlp(sizes=(64,), bias=initializers.constant(bias)), x, y, floor=floor).findings
    assert found.cause == "dead_units"
    assert found.value > 0.9
    assert "Dense_0/kernel" in found.evidence


@pytest.mark.parametrize("size", [20.0, pytest.param(50.0, marks=pytest.mark.full)])
def test_large_weights_saturate(size):
    x, y = zoo.own_step()
    [found] = of(zoo.Mlp(act=nn.tanh, kernel=initializers.normal(size)), x, y, floor=None).findings
    assert found.cause == "saturated"
    assert 0.2 < found.ci95[0] < PRIOR


# --- The scale of inputs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "offset"),
    [
        (1e3, 0.0),
        pytest.param(100.0, 500.0, marks=pytest.mark.full),
        pytest.param(1e-3, 0.0, marks=pytest.mark.full),
        pytest.param(1.0, 100.0, marks=pytest.mark.full),
    ],
)
def test_inputs_of_an_odd_scale_are_mended_by_standardising(scale, offset):
    x, y = zoo.own_step()
    result = of(zoo.Mlp(), x * scale + offset, y, floor=None)
    assert causes(result) == ["input_scale"]
    assert result.findings[0].ci95[0] > findings.WORTH_IT


def test_inputs_of_an_odd_scale_where_a_sequence_has_one_label():
    """Steps that are not scored are no padding."""
    x, y = zoo.own_step(size=3000)
    result = of(zoo.Mlp(), 1e3 * x, y[:, -1], floor=None)
    assert causes(result) == ["input_scale"]
    assert causes(of(zoo.Mlp(), x, y[:, -1], floor=None)) == []


@pytest.mark.full
def test_a_model_that_scales_its_inputs_itself_may_have_any():
    x, y = zoo.own_step()
    assert causes(of(zoo.Normed(), 1e3 * x, y)) == []


@pytest.mark.full
def test_rare_features_are_of_ordinary_scale():
    rng = np.random.default_rng(0)
    number = rng.integers(0, 200, (1500, 6))
    assert causes(of(zoo.Mlp(), np.eye(200, dtype=np.float32)[number], number % 2, floor=None)) == []


# --- Gradients over steps and layers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("radius", "expected"),
    [(2.0, ["exploding_gradient"]), pytest.param(0.5, [], marks=pytest.mark.full)],
)
@pytest.mark.parametrize("steps", [pytest.param(10, marks=pytest.mark.full), 40])
def test_a_recurrence_that_grows(radius, expected, steps):
    x, y = zoo.earlier_step(steps=steps)
    result = of(zoo.LinearRecurrence(radius), x, y, needs=1)
    assert causes(result) == expected


@pytest.mark.full
def test_an_overflow_is_told_with_the_share_of_initialisations():
    x, y = zoo.earlier_step(steps=60)
    [found] = of(zoo.LinearRecurrence(8.0), x, y, needs=1).findings
    assert found.cause == "exploding_gradient"
    assert found.value == 1.0
    assert found.ci95 == pytest.approx((0.398, 1.0), abs=1e-3)  # Clopper and Pearson, 4 of 4


@pytest.mark.full
@pytest.mark.parametrize(("layers", "expected"), [(25, ["vanishing_gradient"]), (2, [])])
def test_a_deep_stack_of_sigmoids(layers, expected):
    x, y = zoo.own_step()
    assert causes(of(zoo.Mlp(act=nn.sigmoid, sizes=(32,) * layers), x, y)) == expected


@pytest.mark.full
def test_sigmoids_that_learn_nothing_for_long():
    """Seven layers: the gradient of the first grows as it learns at last, and the loss is still far above."""
    x, y = zoo.own_step()
    found = of(zoo.Mlp(act=nn.sigmoid, sizes=(32,) * 7), x, y)
    assert causes(found) in ([], ["vanishing_gradient"])
    assert (found.values["loss"] > 0.1) == bool(found.findings)


@pytest.mark.full
@pytest.mark.parametrize(("back", "expected"), [(20, ["vanishing_gradient"]), (1, [])])
def test_steps_far_away_are_lost_where_the_labels_need_them(back, expected):
    x, y = zoo.earlier_step(size=1000, steps=24, back=back)
    forgets = zoo.Rnn(nn.SimpleCell, initializers.normal(0.02))
    assert causes(of(forgets, x, y, needs=back)) == expected


@pytest.mark.full
def test_a_gated_recurrence_loses_what_is_fifty_steps_away():
    x, y = zoo.earlier_step(size=1000, steps=60, back=50)
    assert causes(of(zoo.Rnn(nn.OptimizedLSTMCell), x, y, needs=50)) == ["vanishing_gradient"]


@pytest.mark.full
def test_and_what_is_five_steps_away_is_learnt():
    x, y = zoo.earlier_step(size=2000, steps=10, back=5)
    assert causes(of(zoo.Rnn(), x, y, needs=5)) == []


def test_a_model_that_does_better_than_guessing_nowhere_is_stuck():
    x, y = zoo.own_step(size=600)

    def another(h):  # the features of the next sequence of the batch
        return jnp.roll(h, 1, 0)

    result = of(zoo.Mlp(after_first=another, sizes=(16,)), x, y, floor=0.0)
    assert causes(result) == ["stuck_at_prior"]
    assert result.values["updates"] == 1600
    assert result.findings[0].value == pytest.approx(PRIOR, abs=0.05)


@pytest.mark.full
@pytest.mark.parametrize("floor", [None, PRIOR])
def test_nothing_is_stuck_where_nothing_better_is_known(floor):
    x, y = zoo.own_step()
    noise = np.random.default_rng(1).integers(0, 2, y.shape)
    assert causes(of(zoo.Mlp(), x, noise, floor=floor)) == []


def test_without_time_nothing_that_may_be_slow_is_named():
    x, y = zoo.own_step(size=600)
    rolled = zoo.Mlp(after_first=lambda h: jnp.roll(h, 1, 0), sizes=(16,))
    result = of(rolled, x, y, seconds=0.0)
    assert causes(result) == []
    assert result.values["updates"] == 64


# --- What is given ------------------------------------------------------------------------------------------


def test_padding_counts_nowhere():
    x, y = zoo.own_step()
    mask = np.arange(6)[None] < np.random.default_rng(0).integers(1, 7, (len(x), 1))
    wild = np.where(mask[..., None], x, 1e6)
    result = of_masked(wild, y, mask)
    assert causes(result) == []
    assert result.values["loss"] < 0.25


def of_masked(x, y, mask):
    given = zoo.loaded(x.astype(np.float32), y, mask=mask)
    return short_run.instrumented(zoo.trainable(zoo.Mlp(sizes=(32,)), x), given, needs=0, floor=0.0, seconds=60.0)


@pytest.mark.full
def test_a_given_validation_set_is_judged_on():
    x, y = zoo.own_step()
    given = dataclasses.replace(zoo.loaded(x, y), val=zoo.loaded(x[:100], 1 - y[:100]).train)
    result = short_run.instrumented(zoo.trainable(zoo.Mlp(), x), given, seconds=60.0)
    assert result.values["loss"] > 1  # of labels turned round
