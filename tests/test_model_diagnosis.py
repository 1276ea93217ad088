"""A person's model or training on their arrays: what is found of it where the answer is known."""

import math
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import example_fit
from seqjax import adapters, data_diagnosis, model_diagnosis
from seqjax.adapters import UserCodeError
from seqjax.arrays import load
from seqjax.batch import Batch
from seqjax.config import ConfigError
from seqjax.findings import WORTH_IT

RNG = np.random.default_rng(0)
X = (RNG.integers(0, 2, (900, 2, 4)) - 0.5).astype(np.float32)
EVENT = (X.sum(-1) > 0).astype(int)
THREE = (RNG.integers(0, 2, (900, 3, 4)) - 0.5).astype(np.float32)
LABELS = {
    "own": EVENT,
    "last": np.repeat(EVENT[:, 1:], 2, 1),
    "last of three": np.repeat(THREE[:, 2:].sum(-1) > 0, 3, 1).astype(int),
}
SURE = 12.0  # a logit: of certain labels the loss is below 1e-5


def logits(one: np.ndarray) -> np.ndarray:
    """Logits `[N, T, 2]` that say that the label is 1 where `one [N, T]`."""
    return np.stack([np.where(one, -SURE, SURE), np.where(one, SURE, -SURE)], -1)


def own_step(x):
    return logits(x.sum(-1) > 0)


def last_step(x):
    return logits(np.broadcast_to(x[:, -1:].sum(-1) > 0, x.shape[:2]))


def own_step_as_the_last(x):
    """The best that a model can say that sees its own step and does not know which one it is."""
    p = np.where(x.sum(-1) > 0, 0.5 + 0.5 * 0.7, 0.25)  # half of the steps are last; fair, but for the ties
    return np.log(np.stack([1 - p, p], -1))


@pytest.fixture(scope="module")
def diagnosed():
    """The diagnosis of each model on each set; the ladder of a set is climbed once."""
    climbed = {}

    def diagnose(labels, causal=False, **own):
        arrays = load(x=THREE if "three" in labels else X, y=LABELS[labels])
        if labels not in climbed:
            from seqjax import ladder, step_swaps

            of = ladder.climb(ladder.sample(arrays, arrays.train)[0], 2)
            climbed[labels] = of, step_swaps.dependence(of)
        return model_diagnosis.look(
            arrays, *climbed[labels], model_diagnosis.own_of(arrays, **own), causal=causal, control_samples=0
        )

    return diagnose


def causes(looked):
    return [finding.cause for finding in looked.findings]


def test_a_model_that_reaches_what_there_is_has_no_findings(diagnosed):
    for labels, predict, rung in (("own", own_step, "own_step"), ("last", last_step, "all")):
        looked = diagnosed(labels, predict=predict)
        assert looked.reached, labels
        assert causes(looked) == []
        assert looked.on[1] == "nonlinear"
        assert looked.loss.mean < 1e-4
        assert looked.on[0] in (rung, "future")


def test_what_later_steps_tell_is_no_loss_where_outputs_may_not_see_them(diagnosed):
    def last_step_once_seen(x):
        return logits(x.sum(-1) > 0) * (np.arange(2)[:, None] == 1)

    free, causal = (diagnosed("last", predict=last_step_once_seen, causal=causal) for causal in (False, True))
    assert not free.reached
    assert free.values["budget"]["unseen_steps"] > 0.2
    assert causal.reached
    assert abs(causal.values["budget"]["unseen_steps"]) < 0.05
    assert causes(causal) == []


def test_a_set_of_steps_is_no_order(diagnosed):
    """The label is the event of the last step, and the model sees the sum of all."""
    looked = diagnosed("last of three", predict=lambda x: logits(x.sum((1, 2))[:, None] + 0 * x[..., 0] > 0) / 12)
    assert "unknown_position" in causes(looked)
    assert "as a set" in next(f.evidence for f in looked.findings if f.cause == "unknown_position")


@pytest.mark.parametrize("turned", [True, False])
def test_outputs_that_see_the_mirrored_step_are_reversed(diagnosed, turned):
    def own_step_from_the_end(x):
        return np.stack([-x.sum(-1), x.sum(-1)], -1)[:, :: -1 if turned else 1]

    looked = diagnosed("last of three", predict=own_step_from_the_end)
    assert ("outputs_reversed" in causes(looked)) == turned


def test_the_terms_of_the_budget_add_up_to_the_loss(diagnosed):
    looked = diagnosed("last", predict=own_step_as_the_last)
    budget, final = looked.values["budget"], looked.values["final"]
    assert math.isclose(sum(budget.values()), final["val_loss"], abs_tol=1e-12)
    assert budget["unseen_steps"] > 0.2
    assert budget["unknown_position"] > 0.1
    assert not looked.reached


def test_a_wrong_model_stopped_far_above_its_floor(diagnosed):
    looked = diagnosed("own", predict=lambda x: logits(x[..., 0] > 0) / 20)
    assert "optimisation" in causes(looked)
    finding = next(f for f in looked.findings if f.cause == "optimisation")
    assert finding.ci95[0] < finding.value < finding.ci95[1]
    assert finding.value > 0.3


def test_outputs_that_are_less_sure_than_they_could_be_are_told_by_a_factor(diagnosed):
    """Right names with log-odds of 1.2, which is a loss of 0.263 nats: the surer the better."""
    looked = diagnosed("own", predict=lambda x: own_step(x) / 20)
    (finding,) = [f for f in looked.findings if f.cause == "optimisation"]
    assert "Log-odds 10.0 times as large would take 0.2633 off it." in finding.evidence
    assert "smoothed labels" in finding.remedy
    other = diagnosed("own", predict=lambda x: logits(x[..., 0] > 0) / 20)  # wrong, not unsure
    (finding,) = [f for f in other.findings if f.cause == "optimisation"]
    assert "Log-odds" not in finding.evidence
    factor, gain = model_diagnosis._sharper(
        adapters.read_outputs(np.log([[[0.75, 0.25]] * 8]), 1, 8, 2),
        Batch(np.zeros((1, 8, 1)), np.array([[0] * 7 + [1]]), np.ones((1, 8), bool)),
    )
    assert factor == pytest.approx(math.log(7) / math.log(3), rel=0.03)  # to a twentieth
    best = -(7 * math.log(7 / 8) + math.log(1 / 8)) / 8
    assert gain == pytest.approx(-(7 * math.log(0.75) + math.log(0.25)) / 8 - best, abs=1e-3)


def test_history_that_is_seen_and_not_used(diagnosed):
    def hardly(x):
        return own_step(x) / 4 + 1e-3 * x[:, ::-1, :2]

    looked = diagnosed("last", predict=hardly)
    assert "history_unused" in causes(looked)
    assert "history_unused" not in causes(diagnosed("last", predict=own_step_as_the_last)), "it sees none"
    assert "history_unused" not in causes(diagnosed("own", predict=hardly)), "the labels need none"
    assert "history_unused" not in causes(diagnosed("last", predict=lambda x: last_step(x) / 8))


def test_a_fit_may_return_losses_in_any_usual_form_and_a_model(diagnosed):
    class Model:
        def predict(self, x):
            return own_step(x)

    forms = (
        [0.5, 0.1],
        np.array([0.5, 0.1]),
        {"loss": [0.5, 0.1]},
        types.SimpleNamespace(history={"loss": [0.5, 0.1]}),
    )
    for losses in forms:
        looked = diagnosed("own", fit=lambda x, y, mask, losses=losses: (own_step, losses))
        assert looked.values["history"] == {"epoch": [1, 2], "train_loss": [0.5, 0.1]}
    assert diagnosed("own", fit=lambda x, y: Model()).reached
    with pytest.raises(ConfigError, match="no list of numbers"):
        diagnosed("own", fit=lambda x, y, mask: (own_step, ["much"]))
    with pytest.raises(ConfigError, match=r"^fit: it is <lambda>\(x\); expected a function fit\(x, y, mask\) or"):
        diagnosed("own", fit=lambda x: own_step)


RETURNED = {  # by a fit, and what is said of it
    "nothing": (
        None,
        "None; expected predict(x), a model, or (either of these, the loss of each epoch): it may lack",
    ),
    "three": ((own_step, [0.5], {}), "a tuple of 3 (function, list, dict); expected predict(x), a model, or"),
    "a dict": ({"predict": own_step}, "a dict of 1 (function); expected predict(x), a model, or"),
    "losses alone": ([0.5, 0.4, 0.3], "a list of 3 (float, float, float); expected predict(x), a model, or"),
    "the other way round": (([0.5], own_step), "losses that are no list of numbers"),
    "text": ((own_step, "12345"), "losses that are no list of numbers"),
    "words": ((own_step, ["much"]), "losses that are no list of numbers"),
    "no float": ((own_step, [10**400]), "losses that are no list of numbers"),
    "a history": (types.SimpleNamespace(history={}), "something of type SimpleNamespace; expected predict(x)"),
}


@pytest.mark.parametrize(("returned", "said"), RETURNED.values(), ids=RETURNED)
def test_what_a_fit_may_not_return_is_told_with_what_it_should(returned, said):
    with pytest.raises(ConfigError) as e:
        model_diagnosis.fit_of(lambda x, y: returned, load(x=X, y=EVENT).form)(X, EVENT, EVENT >= 0)
    assert str(e.value).startswith(f"fit returned {said}")
    assert "\n" not in str(e.value)


def test_losses_that_cannot_be_read_are_theirs():
    def generated():
        yield 0.5
        raise RuntimeError("in the generator")

    fit = model_diagnosis.fit_of(lambda x, y: (own_step, generated()), load(x=X, y=EVENT).form)
    with pytest.raises(UserCodeError, match="the losses of fit raised RuntimeError: in the generator"):
        fit(X, EVENT, EVENT >= 0)


def test_what_float32_does_not_hold_is_an_infinite_loss():
    fit = model_diagnosis.fit_of(lambda x, y: (own_step, [1e308, -1e308, 2.0]), load(x=X, y=EVENT).form)
    assert fit(X, EVENT, EVENT >= 0)[1] == [math.inf, -math.inf, 2.0]


def test_a_fit_may_return_a_linen_module_with_its_variables():
    module = nn.Dense(2)
    variables = module.init(jax.random.key(0), X)
    for returned in ((module, variables), ((module, variables), [0.5])):
        fit = model_diagnosis.fit_of(lambda x, y, returned=returned: returned, load(x=X, y=EVENT).form)
        predict, losses = fit(X, EVENT, EVENT >= 0)
        np.testing.assert_allclose(predict(X), module.apply(variables, X), atol=1e-5)
        assert losses == ([0.5] if len(returned[1]) == 1 and isinstance(returned[1], list) else None)


@pytest.mark.frameworks
def test_a_fit_may_return_the_history_of_keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.layers.Input((2, 4)), keras.layers.Dense(2)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with jax.numpy_rank_promotion("allow"):
        history = model.fit(X, EVENT, epochs=2, verbose=0)
        for returned in (history, (model, history), (model, history.history["loss"]), model):
            fit = model_diagnosis.fit_of(lambda x, y, returned=returned: returned, load(x=X, y=EVENT).form)
            predict, losses = fit(X, EVENT, EVENT >= 0)
            np.testing.assert_allclose(predict(X), model.predict(X, verbose=0), atol=1e-5)
            assert losses == (None if returned is model else history.history["loss"])


def dense(key, x):
    return {"w": 0.1 * jax.random.normal(key, (4, 2)), "b": jnp.zeros(2)}


def of_own_step(params, x):
    return jnp.einsum("ntf,fc->ntc", x, params["w"]) + params["b"][None, None]


@pytest.mark.parametrize("turned", [True, False])
def test_a_model_whose_outputs_stand_in_reverse(diagnosed, turned):
    """It is trained by the kit, as well as it goes."""
    apply = (lambda params, x: of_own_step(params, x)[:, ::-1]) if turned else of_own_step
    looked = diagnosed("last of three", model=(dense, apply))
    assert ("outputs_reversed" in causes(looked)) == turned


def test_a_model_that_cannot_see_what_labels_need_is_not_called_stuck(diagnosed):
    """A Dense layer for each step, where every label is the last step's: it stops where it must."""
    looked = diagnosed("last", model=(dense, of_own_step))
    assert looked.on == ("own_step", "linear")
    assert not {"stuck_at_prior", "vanishing_gradient", "does_not_train"} & set(causes(looked))


def test_an_error_of_theirs_is_theirs(diagnosed):
    def fit(x, y, mask):
        raise ValueError("shapes (32, 2) and (3,)")

    with pytest.raises(UserCodeError, match="fit raised ValueError: shapes") as raised:
        diagnosed("own", fit=fit)
    assert "raise ValueError" in raised.value.frames
    assert "seqjax/" not in raised.value.frames


def test_a_training_of_plain_jax_is_diagnosed_from_its_arrays_to_its_controls():
    with jax.numpy_rank_promotion("allow"):  # it is no code of ours
        values = data_diagnosis.diagnose(load(x=X, y=LABELS["last"]), fit=example_fit.fit, control_samples=256)
    assert values["verdict"]["cause"] == "labels_repeat_one_step"
    assert values["model"]["rung"] == "own_step"
    assert values["model"]["family"] == "linear"
    assert {"unseen_steps", "unknown_position"} <= {finding["cause"] for finding in values["findings"]}
    own = next(row for row in values["controls"] if row["control"] == "own_feature")
    assert own["passed"] is not False
    assert own["loss"] < own["chance"]
    prior, family = (values["forecast"][key] for key in ("prior_entropy", "family_loss"))
    assert family < prior - WORTH_IT


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"predict": own_step, "fit": example_fit.fit}, "predict and fit given"),
        ({"observed_accuracy": 0.5}, "observed_accuracy=0.5"),
        ({"column": "loss"}, "^column='loss': needs the history"),
        ({"causal": True}, "^causal: .*add --predict, --model or --fit"),
        ({"control_samples": 256}, "^control_samples=256: .*add --fit, or a --model"),
        ({"control_seconds": 5.0}, r"^control_seconds=5.0: .*add --fit, or a --model"),
        ({"control_samples": 0, "predict": own_step}, "^control_samples=0: .*add --fit, or a --model"),
        ({"observed_accuracy": -0.5, "predict": own_step}, "observed_accuracy=-0.5"),
    ],
)
def test_what_does_not_go_together_is_refused(known, said):
    with pytest.raises(ConfigError, match=said):
        data_diagnosis.diagnose(load(x=X, y=LABELS["own"]), **known)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"predict": lambda x: x.sum(-1) > 0}, "returned whole numbers"),
        ({"predict": lambda x: x[:5]}, "for 128 sequences it returned 5"),
        ({"predict": lambda x: "nonsense"}, "expected numbers"),
        ({"predict": lambda x: 1 / 0}, "raised ZeroDivisionError"),
        ({"model": lambda x: x}, "what predicts goes to --predict"),
        ({"model": (lambda key: {}, lambda params, x: x[..., :2])}, "nothing to train"),
        ({"fit": lambda x: x}, "expected a function fit"),
        ({"fit": 3}, "fit: what was given is of type int; expected a function fit"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(own, said, monkeypatch):
    monkeypatch.setattr(data_diagnosis.ladders, "climb", lambda *_: pytest.fail("the ladder was climbed"))
    with pytest.raises(ConfigError, match=said):
        data_diagnosis.diagnose(load(x=X, y=LABELS["own"]), **own)
