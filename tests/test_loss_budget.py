"""The six terms add up to the validation loss, whatever the numbers."""

import math

import numpy as np
import outcomes
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_forecasts import TRAINED

from seqjax import experiment
from seqjax.config import Config
from seqjax.forecasts import Forecast, look_ahead_of
from seqjax.loss_budget import TERMS, known_terms, loss_budget

losses = st.floats(0, 20)


@st.composite
def forecasts(draw, kinds=("exact", "estimate", "lower_bound")) -> Forecast:
    """Noise below known position below Bayes below family; where the family is not known, its loss is Bayes's."""
    noise, known, best, reachable = sorted(draw(st.tuples(losses, losses, losses, losses)))
    kind = draw(st.sampled_from(kinds))
    return Forecast(
        prior_entropy=draw(losses),
        noise_entropy=noise,
        known_position_loss=known,
        bayes_loss=best,
        family_loss=best if kind == "lower_bound" else reachable,
        bayes_predictor_loss=np.zeros(1),
        kind=kind,
        standard_error=0.01 if kind == "estimate" else 0.0,
        reason="not known" if kind == "lower_bound" else None,
    )


@given(forecasts(), losses, losses)
def test_the_terms_add_up_to_the_validation_loss(forecast, train_loss, val_loss):
    budget = loss_budget(forecast, train_loss, val_loss)
    assert tuple(budget) == TERMS
    total = math.fsum(value for value in budget.values() if value is not None)
    assert total == pytest.approx(val_loss, abs=1e-13 * (1 + forecast.family_loss + train_loss + val_loss))


@given(forecasts(), losses, losses)
def test_each_term_is_the_gap_that_its_name_says(forecast, train_loss, val_loss):
    budget = loss_budget(forecast, train_loss, val_loss)
    assert budget["label_noise"] == forecast.noise_entropy
    assert budget["unseen_steps"] == forecast.known_position_loss - forecast.noise_entropy
    assert budget["unknown_position"] == forecast.bayes_loss - forecast.known_position_loss
    assert budget["generalisation"] == val_loss - train_loss
    assert known_terms(forecast).items() <= budget.items()
    if forecast.kind == "lower_bound":
        assert budget["model_family"] is None
        assert budget["optimisation"] == train_loss - forecast.bayes_loss  # of both
    else:
        assert budget["model_family"] == forecast.family_loss - forecast.bayes_loss
        assert budget["optimisation"] == train_loss - forecast.family_loss


@given(forecasts(), losses, losses)
def test_no_term_that_is_known_before_training_is_negative(forecast, train_loss, val_loss):
    budget = loss_budget(forecast, train_loss, val_loss)
    for term in TERMS[:4]:
        assert budget[term] is None or budget[term] >= 0
    assert (budget["optimisation"] < 0) == (train_loss < forecast.family_loss)


def test_the_budget_of_the_default_run():
    forecast = look_ahead_of(Config()).forecast
    budget = loss_budget(forecast, 0.604, 0.605)
    expected = [0, 0.34499, 0.21455, 0.04361, 0.00085, 0.001]
    np.testing.assert_allclose([budget[term] for term in TERMS], expected, atol=2e-5)


def test_memorising_makes_optimisation_negative():
    forecast = look_ahead_of(Config(labels="own_step", seq_len=1, label_noise=0.2, activation="relu")).forecast
    budget = loss_budget(forecast, 0.1, 1.5)
    assert budget["label_noise"] == pytest.approx(0.50040, abs=1e-5)
    assert budget["optimisation"] == pytest.approx(0.1 - 0.50040, abs=1e-5)
    assert budget["generalisation"] == pytest.approx(1.4)


@pytest.mark.parametrize("name", ["linear", "conv_linear", "gru"])
def test_the_budget_of_trained_models_adds_up(name):
    for rule, (_, _, measured) in outcomes.trained(**TRAINED[name]).items():
        total = sum(value for value in measured.budget.values() if value is not None)
        assert total == pytest.approx(measured.val_loss, abs=1e-9), rule


def test_the_budget_in_a_result_adds_up_and_null_stands_for_what_is_not_known():
    tiny = {"num_features": 5, "num_samples": 60, "batch_size": 16, "num_epochs": 1, "hidden_sizes": (4,)}
    exact = experiment.run(Config(num_replicates=2, **tiny)).values
    for values in (exact, *(_of_replicate(exact["replicates"], n) for n in range(2))):
        assert tuple(values["budget"]) == TERMS
        assert sum(values["budget"].values()) == pytest.approx(values["final"]["val_loss"], abs=1e-6)
    assert set(exact["ci95"]["budget"]) == set(TERMS)

    bound = experiment.run(Config(model="causal_conv", activation="none", **tiny)).values
    assert bound["forecast"]["kind"] == "lower_bound"
    assert bound["budget"]["model_family"] is None
    total = sum(value for value in bound["budget"].values() if value is not None)
    assert total == pytest.approx(bound["final"]["val_loss"], abs=1e-6)


def _of_replicate(replicates: dict, n: int) -> dict:
    return {part: {k: v[n] for k, v in replicates[part].items()} for part in ("budget", "final")}
