"""Verdicts, their words and the remedies: what is promised is computed, read back, applied and trained."""

import dataclasses
import itertools
import math
import re
from typing import Any

import numpy as np
import outcomes
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_forecasts import AGAIN, TRAINED

from experiments.flags import main_flags
from seqjax import diagnosis, experiment, findings, label_dependence, models, tasks
from seqjax.bayes import View
from seqjax.config import Config
from seqjax.diagnosis import Measured
from seqjax.findings import SIGMAS, WORTH_IT
from seqjax.forecasts import Forecast, Outlook, look_ahead_of
from seqjax.loss_budget import loss_budget
from seqjax.tasks import LABEL_RULES

DEFAULT = look_ahead_of(Config())

# --- The cause, with made-up numbers ---


def made_up(
    terms: dict[str, float] | None = None,
    *,
    noise: float = 0.0,
    prior: float = 100.0,
    kind: str = "exact",
    error: float = 0.0,
    train_se: float = 0.0,
    val_se: float = 0.0,
) -> tuple[Outlook, Measured]:
    """An outlook and losses with these terms in the budget; all others are zero."""
    sizes = dict.fromkeys(
        ("unseen_steps", "unknown_position", "model_family", "optimisation", "generalisation"), 0.0
    )
    sizes |= terms or {}
    if kind == "lower_bound":
        sizes["model_family"] = 0.0  # not known
    floors = list(itertools.accumulate([noise, *list(sizes.values())[:3]]))
    forecast = Forecast(
        prior_entropy=prior,
        noise_entropy=noise,
        known_position_loss=floors[1],
        bayes_loss=floors[2],
        family_loss=floors[3],
        bayes_predictor_loss=np.full(2, floors[2]),
        kind=kind,
        standard_error=error,
        reason="nobody knows" if kind == "lower_bound" else None,
    )
    train_loss = floors[3] + sizes["optimisation"]
    val_loss = train_loss + sizes["generalisation"]
    budget = loss_budget(forecast, train_loss, val_loss)
    return dataclasses.replace(DEFAULT, forecast=forecast), Measured(
        train_loss, train_se, val_loss, val_se, budget
    )


AVOIDABLE = ("unseen_steps", "unknown_position", "model_family", "optimisation", "generalisation")
sizes = st.floats(0, 5)


@given(st.fixed_dictionaries(dict.fromkeys(AVOIDABLE, sizes)))
def test_the_largest_avoidable_term_is_the_cause(terms):
    ranked = sorted(terms.values())
    cause = diagnosis.cause(*made_up(terms))
    if ranked[-1] - ranked[-2] > 1e-9 and abs(ranked[-1] - WORTH_IT) > 1e-9:
        assert cause == (max(terms, key=lambda t: terms[t]) if ranked[-1] > WORTH_IT else "healthy")
    assert cause in (*AVOIDABLE, "healthy")


@given(st.sampled_from(AVOIDABLE), st.floats(0, 0.2), st.floats(0, 0.05))
def test_a_cause_is_above_a_hundredth_and_three_standard_errors(term, size, error):
    errors = {
        "optimisation": {"train_se": error},
        "generalisation": {"val_se": error},
    }.get(term, {"error": error})
    limit = max(WORTH_IT, SIGMAS * error)
    if abs(size - limit) > 1e-9:
        assert diagnosis.cause(*made_up({term: size}, **errors)) == (term if size > limit else "healthy")


@pytest.mark.parametrize("term", AVOIDABLE)
def test_the_thresholds_at_the_edge(term):
    assert (WORTH_IT, SIGMAS) == (0.01, 3.0)
    assert diagnosis.cause(*made_up({term: 0.0101})) == term
    assert diagnosis.cause(*made_up({term: 0.0099})) == "healthy"


@given(st.floats(0.02, 0.2), st.floats(0.001, 0.02), st.floats(0.001, 0.02))
def test_both_standard_errors_count_against_generalisation(size, train_se, val_se):
    limit = max(WORTH_IT, SIGMAS * math.hypot(train_se, val_se))
    found = diagnosis.cause(*made_up({"generalisation": size}, train_se=train_se, val_se=val_se))
    if abs(size - limit) > 1e-9:
        assert found == ("generalisation" if size > limit else "healthy")


def test_what_was_memorised_was_never_there_to_gain():
    """Far below the floor in training, at the floor in validation: nothing to mend."""
    assert diagnosis.cause(*made_up({"optimisation": -0.4, "generalisation": 0.4})) == "healthy"
    assert diagnosis.cause(*made_up({"optimisation": -0.4, "generalisation": 0.45})) == "generalisation"
    # Of the 0.7 that lie between training and validation 0.3 alone can be gained, less than what is unseen.
    terms = {"unseen_steps": 0.35, "optimisation": -0.4, "generalisation": 0.7}
    assert diagnosis.cause(*made_up(terms)) == "unseen_steps"


@given(st.floats(0, 1), st.floats(0.01, 1))
def test_noise_is_the_cause_where_it_is_most_of_the_prior_and_nothing_else_is(noise, prior):
    expected = "label_noise" if noise > prior / 2 else "healthy"
    assert diagnosis.cause(*made_up(noise=noise, prior=prior)) == expected
    assert diagnosis.cause(*made_up({"optimisation": 0.02}, noise=noise, prior=prior)) == "optimisation"


def test_a_lower_bound_cannot_tell_family_from_optimisation():
    assert diagnosis.cause(*made_up({"optimisation": 0.2}, kind="lower_bound")) == "cannot_tell"
    assert (
        diagnosis.cause(*made_up({"optimisation": 0.2, "unseen_steps": 0.3}, kind="lower_bound")) == "unseen_steps"
    )
    terms = {"optimisation": 0.2, "generalisation": 0.3}
    assert diagnosis.cause(*made_up(terms, kind="lower_bound")) == "generalisation"
    assert diagnosis.cause(*made_up({"optimisation": 0.005}, kind="lower_bound")) == "healthy"
    outlook, measured = made_up({"optimisation": 0.2}, kind="lower_bound")
    text = diagnosis.text(Config(), outlook, measured)
    assert "Cannot tell model family and optimisation apart: nobody knows." in text
    assert "a lower bound" in text


@given(
    st.fixed_dictionaries(dict.fromkeys(AVOIDABLE, sizes)),
    st.floats(0, 0.7),
    st.sampled_from(["exact", "estimate", "lower_bound"]),
)
def test_the_text_names_every_term_that_matters_and_no_other(terms, noise, kind):
    outlook, measured = made_up(terms, noise=noise, kind=kind)
    text = diagnosis.text(Config(), outlook, measured)
    phrases = {
        "unseen_steps": "do not see cost",
        "unknown_position": "Not knowing the position",
        "model_family": "model's family costs",
        "optimisation": "above the lowest loss",
        "generalisation": "does not carry over",
    }
    for term, size in terms.items():
        if term == "model_family" and kind == "lower_bound":
            size = 0.0
        if abs(size - WORTH_IT) > 1e-9:
            assert (phrases[term] in text) == (size > WORTH_IT), (term, text)
    assert "{" not in text
    assert "}" not in text
    assert "nan" not in text


# --- Trained models ---

# fmt: off
HEALTHY = [
    ("linear", "own_step"), ("dense", "own_step"), ("dense_position", "own_step"), ("dense_last", "last_step"),
    ("gru", "own_step"), ("gru", "first_step"), ("gru", "previous_step"), ("gru", "any_so_far"),
    ("gru", "parity_so_far"), ("bidirectional_gru", "last_step"), ("bidirectional_gru", "reversed_step"),
    ("bidirectional_gru", "next_step"), ("bidirectional_gru", "majority"), ("conv", "previous_step"),
    ("attention_2_steps", "parity"), ("attention_2_steps", "reversed_step"), ("attention_3_steps", "majority"),
]
UNHEALTHY = [
    ("linear", "last_step", "unseen_steps"), ("dense", "parity", "unseen_steps"),
    ("gru", "last_step", "unseen_steps"), ("gru", "majority", "unseen_steps"),
    ("conv", "next_step", "unseen_steps"),
    ("attention_2_steps", "last_step", "unknown_position"),
    ("attention_3_steps", "any_so_far", "unknown_position"),
    ("attention_3_steps", "previous_step", "unknown_position"),
    ("conv_linear", "any_so_far", "cannot_tell"),
]
# fmt: on


def short(cases: list[tuple[str, ...]]) -> list[Any]:
    """The cases; those of models that take long to train and ask nothing new are left to `.ci/run --full`."""
    return [pytest.param(*case, marks=pytest.mark.full) if case[0] in AGAIN else case for case in cases]


@pytest.mark.parametrize(("name", "rule"), short(HEALTHY))
def test_healthy_experiments_are_healthy(name, rule):
    outcome = outcomes.trained(**TRAINED[name])[rule]
    verdict = outcome.verdict
    assert verdict["cause"] == "healthy", (verdict, outcome.measured)
    assert verdict["text"].startswith("Healthy")
    assert "Training stopped where it had to" in verdict["text"]
    assert verdict["remedies"] == []


@pytest.mark.parametrize(("name", "rule", "cause"), short(UNHEALTHY))
def test_every_cause_of_the_forecast_is_named_after_training(name, rule, cause):
    outcome = outcomes.trained(**TRAINED[name])[rule]
    assert outcome.cause == cause
    phrase = {
        "unseen_steps": "Steps that the outputs do not see cost",
        "unknown_position": "Not knowing the position or the order of steps costs",
        "cannot_tell": "Cannot tell model family and optimisation apart: which functions of its window",
    }[cause]
    assert phrase in outcome.verdict["text"]
    if cause != "cannot_tell":
        assert outcome.verdict["remedies"]


SMALL = {"num_features": 5, "num_samples": 2_000, "batch_size": 100, "num_epochs": 12, "learning_rate": 0.02}


def run(**settings) -> tuple[Config, dict]:
    config = Config(**(SMALL | settings))
    return config, experiment.run(config).values


def test_too_few_epochs_are_optimisation():
    _, values = run(
        labels="own_step",
        activation="relu",
        num_epochs=1,
        learning_rate=1e-3,
        hidden_sizes=(16,),
        num_samples=2_000,
    )
    verdict = values["verdict"]
    assert verdict["cause"] == "optimisation"
    assert "Training could have gone further" in verdict["text"]
    # Validation may lie below training: no more than what it lacks itself can be gained.
    size = min(values["budget"]["optimisation"], values["final"]["val_loss"])
    assert f"Training stopped {findings.nats(size)} nats above the lowest loss" in verdict["text"]
    offered = {remedy["change"] for remedy in verdict["remedies"]}
    assert {"--num_epochs=4", "--learning_rate=0.00025", "--hidden_sizes=32"} <= offered
    assert not any("--model" in change or "--labels" in change for change in offered)
    assert all(remedy["reachable_loss"] == 0 for remedy in verdict["remedies"])
    # And the cheapest one keeps the promise, given the updates.
    _, after = run(
        labels="own_step",
        activation="relu",
        num_epochs=100,
        learning_rate=1e-3,
        hidden_sizes=(16,),
        num_samples=2_000,
    )
    assert after["final"]["val_loss"] < 0.02
    assert after["verdict"]["cause"] == "healthy"


def test_too_little_data_and_a_wide_network_is_generalisation_and_memorised():
    _, values = run(
        labels="own_step",
        activation="relu",
        label_noise=0.2,
        seq_len=1,
        num_features=30,
        hidden_sizes=(128,),
        num_samples=250,
        batch_size=50,
        num_epochs=60,
        learning_rate=0.01,
    )
    verdict, final = values["verdict"], values["final"]
    assert verdict["cause"] == "generalisation"
    assert final["train_loss"] < 0.2
    assert values["budget"]["optimisation"] < -0.25
    memorised = values["forecast"]["family_loss"] - final["train_loss"]
    assert f"memorised: its training loss lies {findings.nats(memorised)} nats below" in verdict["text"]
    assert "does not carry over" in verdict["text"]
    assert [remedy["change"] for remedy in verdict["remedies"]] == ["--num_samples=1000"]


def check_family(config: Config, verdict: dict) -> None:
    assert verdict["cause"] == "model_family"
    assert "without activation it is linear" in verdict["text"]
    assert "Training stopped where it had to" in verdict["text"]
    relu = next(remedy for remedy in verdict["remedies"] if remedy["change"] == "--activation=relu")
    promised = look_ahead_of(dataclasses.replace(config, activation="relu")).forecast
    assert relu["reachable_loss"] == promised.family_loss == pytest.approx(promised.bayes_loss)


def test_a_linear_model_of_noisy_labels_is_model_family():
    """Noise keeps the slope finite, and a finite slope is no threshold."""
    settings = {"labels": "own_step", "seq_len": 1, "label_noise": 0.1, "num_features": 9}
    config, values = run(num_epochs=20, fresh_data=True, num_samples=8_000, schedule="cosine", **settings)
    check_family(config, values["verdict"])
    assert values["budget"]["model_family"] > 0.05


def test_a_linear_model_of_a_parity_is_model_family():
    """One slope cannot rise at one step and fall at the other."""
    outcome = outcomes.trained(**TRAINED["linear_position"])["parity_so_far"]
    check_family(outcome.config, outcome.verdict)
    assert outcome.measured.budget["model_family"] > outcome.measured.budget["unseen_steps"] > WORTH_IT


def test_noisy_labels_are_label_noise_and_there_is_nothing_to_mend():
    outcome = outcomes.trained(**TRAINED["dense_noise"])["own_step"]
    assert outcome.cause == "label_noise"
    assert "Nothing to mend: the labels themselves are noisy (0.5004 nats)" in outcome.verdict["text"]
    assert outcome.verdict["remedies"] == []


# --- Remedies ---


def parsed(config: Config, change: str) -> Config:
    """The Config that a change's text leads to, read as a person would type it beside the flags of the run."""
    change, _, without = change.partition(" without ")
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(Config)}
    dropped = {flag.removeprefix("--") for flag in without.split()}
    flags = []
    for name, value in given.items():
        if value is None or value is False or value == () or name in dropped:
            continue
        flags.append(f"--{name}" if value is True else f"--{name}={flag_text(value)}")
    return main_flags(["main", *flags, *change.split()])[0]  # of a flag given twice the last one counts


def flag_text(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


SETTINGS = [
    {},
    {"step_position": True},
    {"activation": "relu"},
    {"activation": "tanh", "labels": "previous_step"},
    {"activation": "relu", "step_position": True},
    {"hidden_sizes": (7, 5), "labels": "any_so_far", "seq_len": 3},
    {"labels": "parity", "seq_len": 3},
    {"labels": "majority", "seq_len": 4, "label_noise": 0.1},
    {"model": "gru"},
    {"model": "gru", "hidden_sizes": (8,), "remat": True, "labels": "reversed_step", "seq_len": 3},
    {"model": "lstm", "labels": "next_step", "seq_len": 3, "step_position": True},
    {"model": "causal_conv", "kernel_size": 3, "hidden_sizes": (8,), "seq_len": 5},
    {"model": "causal_conv", "activation": "none", "seq_len": 3, "labels": "any_so_far"},
    {"model": "attention", "num_layers": 1, "num_heads": 2, "labels": "parity_so_far", "seq_len": 3},
    {"model": "causal_attention", "seq_len": 3, "labels": "next_step"},
    {"readout": "last_step", "labels": "majority", "seq_len": 3},
    {"labels": "previous_step", "seq_len": 1},
]


def ids(settings: dict) -> str:
    return ",".join(f"{name}={flag_text(value)}" for name, value in settings.items()) or "default"


def remedies_of(settings: dict) -> tuple[Config, Outlook, list[dict]]:
    config = Config(**({"num_features": 9} | settings))
    outlook = look_ahead_of(config)
    return config, outlook, diagnosis.remedies(config, outlook, None)


def test_remedies_of_the_default_run():
    config = Config()
    outlook = look_ahead_of(config)
    found = diagnosis.remedies(config, outlook, None)
    losses = {remedy["change"]: remedy["reachable_loss"] for remedy in found}
    expected = {
        "--labels=own_step": 0,
        "--readout=last_step": 0,
        "--model=reverse_gru": 0,
        "--model=bidirectional_gru": 0,
        "--model=gru": 0.34499,
        "--step_position --activation=relu": 0.34499,
        "--activation=relu": 0.55954,
    }
    assert losses == pytest.approx(expected, abs=1e-5)
    assert list(losses)[:2] == ["--labels=own_step", "--readout=last_step"]  # the cheapest of those at 0
    assert list(losses)[-1] == "--activation=relu"
    assert "--step_position" not in losses
    assert all(remedy["kind"] == "exact" for remedy in found)
    provisos = {remedy["change"]: remedy["proviso"] for remedy in found if remedy["proviso"]}
    assert set(provisos) == {"--labels=own_step", "--readout=last_step"}
    # The same after a training that stopped where it had to.
    measured = Measured(0.604, 0.002, 0.605, 0.004, loss_budget(outlook.forecast, 0.604, 0.605))
    assert diagnosis.remedies(config, outlook, measured) == found


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_a_remedy_reads_as_flags_and_reaches_what_it_says(settings):
    config, outlook, found = remedies_of(settings)
    for remedy in found:
        after = look_ahead_of(parsed(config, remedy["change"])).forecast
        assert remedy["reachable_loss"] == after.family_loss, remedy
        assert remedy["kind"] == after.kind
        assert after.family_loss < outlook.forecast.family_loss - WORTH_IT


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_remedies_come_best_first(settings):
    _, _, found = remedies_of(settings)
    losses = [remedy["reachable_loss"] for remedy in found]
    assert all(later > earlier - 1e-3 for earlier, later in itertools.pairwise(losses))


@pytest.mark.parametrize("settings", SETTINGS, ids=ids)
def test_no_remedy_says_what_is_so_already_or_what_another_says(settings):
    config, _, found = remedies_of(settings)
    configs = []
    for remedy in found:
        flags, _, without = remedy["change"].partition(" without ")
        for flag in flags.split():
            name, _, value = flag.removeprefix("--").partition("=")
            now = getattr(config, name)
            assert flag_text(now) != value, remedy
            assert not (now is True and not value), remedy
        for flag in without.split():
            assert getattr(config, flag.removeprefix("--")) is not None, (
                remedy
            )  # what was not given cannot be left out
        configs.append(parsed(config, remedy["change"]))
    assert len(configs) == len(set(configs)), found


def test_what_would_help_is_not_forgotten():
    """Every change of one setting among those a person would try, that the forecast says helps, is offered."""
    for rule, model in itertools.product(LABEL_RULES, ("dense", "gru", "attention")):
        config = Config(num_features=5, seq_len=3, labels=rule, model=model)
        outlook = look_ahead_of(config)
        now = outlook.forecast.family_loss
        offered = [parsed(config, r["change"]) for r in diagnosis.remedies(config, outlook, None)]
        tried = [
            {"model": "gru"},
            {"model": "reverse_gru"},
            {"model": "bidirectional_gru"},
            {"step_position": True},
        ]
        for change in tried:
            after = dataclasses.replace(config, **change)
            helps = look_ahead_of(after).forecast.family_loss < now - WORTH_IT
            assert (after in offered) == (helps and after != config), (rule, model, change)


def test_a_bound_that_was_not_reached_offers_what_may_help():
    """Nobody knows what a linear window can express; with an activation it is known, and below."""
    outcome = outcomes.trained(**TRAINED["conv_linear"])["any_so_far"]
    assert outcome.cause == "cannot_tell"
    remedies = {remedy["change"]: remedy["reachable_loss"] for remedy in outcome.verdict["remedies"]}
    assert outcome.measured.val_loss > 0.3
    assert remedies.get("--activation=relu") == pytest.approx(0.0937, abs=1e-4), remedies


def test_the_promise_of_the_top_remedies_comes_true():
    """The first of all, and the first that takes nothing for granted, each applied and trained."""
    before = outcomes.trained(**TRAINED["linear"])["first_step"]
    assert before.cause == "unseen_steps"
    remedies = before.verdict["remedies"]
    for remedy, change, name, rule in [
        (remedies[0], "--labels=own_step", "linear", "own_step"),
        (next(remedy for remedy in remedies if remedy["proviso"] is None), "--model=gru", "gru", "first_step"),
    ]:
        assert remedy["change"] == change
        after = outcomes.trained(**TRAINED[name])[rule]
        assert parsed(before.config, change) == after.config
        assert after.measured.val_loss == pytest.approx(remedy["reachable_loss"], abs=0.01)
        assert after.cause == "healthy"


def test_a_remedy_that_does_not_reach_zero_holds_too():
    """Dense with relu, first step of three: positions reach 0.4621, and training comes to that."""
    config = outcomes.config(**(TRAINED["dense_position"] | {"step_position": False, "labels": "first_step"}))
    remedies = diagnosis.remedies(config, look_ahead_of(config), None)
    remedy = next(remedy for remedy in remedies if remedy["change"] == "--step_position")
    after = outcomes.trained(**TRAINED["dense_position"])["first_step"]
    assert parsed(config, remedy["change"]) == after.config
    assert remedy["reachable_loss"] == pytest.approx(math.log(2) * 2 / 3, abs=1e-6)
    assert after.measured.val_loss == pytest.approx(remedy["reachable_loss"], abs=0.01)


# --- The words ---

MODELS = {
    "dense": {},
    "dense_position": {"step_position": True},
    "gru": {"model": "gru"},
    "reverse_gru": {"model": "reverse_gru"},
    "bidirectional_gru": {"model": "bidirectional_gru"},
    "conv": {"model": "causal_conv"},
    "conv_wide": {"model": "causal_conv", "kernel_size": 3, "hidden_sizes": (4, 4, 4)},
    "attention": {"model": "attention"},
    "causal_attention": {"model": "causal_attention", "num_layers": 1},
}


def steps_of(words: str) -> tuple[set[int], int]:
    """The steps in "0, 2 to 5 and 9", and how many runs of them are only counted ("and 3 more")."""
    found, more = set(), 0
    for part in re.split(r", | and ", words):
        if part.endswith(" more"):
            more = int(part.split()[0])
        else:
            first, _, last = part.partition(" to ")
            found |= set(range(int(first), int(last or first) + 1))
    return found, more


def check_steps(words: str, expected: set[int]) -> None:
    found, more = steps_of(words)
    runs = sum(1 for s in expected if s - 1 not in expected)
    if more:
        assert found < expected
        assert sum(1 for s in found if s - 1 not in found) + more == runs
    else:
        assert found == expected


def check_unseen(words: str, missing: np.ndarray) -> None:
    rows = set(np.flatnonzero(missing.any(1)).tolist())
    if not rows:
        assert words == ""
        return
    numbers = r"([\d, a-z]+?)"
    many = re.fullmatch(
        rf"Labels? {numbers} depends? on (later|earlier|other) steps that their outputs do not see "
        rf"\(label (\d+), for one, on steps? {numbers}\)\.",
        words,
    )
    if many:
        labels, where, example, on = many.groups()
        check_steps(labels, rows)
        check_steps(on, set(np.flatnonzero(missing[int(example)]).tolist()))
        t, s = np.nonzero(missing)
        assert where == ("later" if (s > t).all() else "earlier" if (s < t).all() else "other")
        return
    one = rf"Labels? {numbers} depends? on steps? {numbers}, which (?:its output does|their outputs do) not see\."
    told = re.findall(one, words)
    assert re.sub(one, "", words).strip() == ""
    assert 1 <= len(told) <= 2
    covered = set()
    for labels, on in told:
        assert ("depends" in words) or len(steps_of(labels)[0]) > 1
        these = steps_of(labels)[0] if " more" not in labels else None
        if these is None:
            continue
        covered |= these
        for t in these:
            check_steps(on, set(np.flatnonzero(missing[t]).tolist()))
    if not any(" more" in labels for labels, _ in told):
        assert covered == rows


@pytest.mark.parametrize("readout", ["every_step", "last_step"])
@pytest.mark.parametrize("seq_len", [1, 2, 3, 16, 64])
def test_the_labels_and_steps_that_are_named_are_right(seq_len, readout):
    for rule in LABEL_RULES:
        base = Config(num_features=4, seq_len=seq_len, labels=rule, readout=readout)
        dependence = label_dependence.label_dependence(tasks.build(base))
        for settings in MODELS.values():
            config = dataclasses.replace(base, **settings)
            view = View(*models.sight(config), config.scored_steps)
            outlook = Outlook(DEFAULT.forecast, dependence, view, None)
            missing = dependence.matrix & ~view.sees & config.scored_steps[:, None]
            check_unseen(diagnosis.unseen_in_words(config, outlook), missing)


# fmt: off
SIGHT = {
    ("dense", 1): "sees the one step that there is",
    ("dense", 2): "sees only its own step and cannot tell steps apart",
    ("dense", 64): "sees only its own step and cannot tell steps apart",
    ("dense_position", 16): "sees only its own step",
    ("gru", 1): "sees the one step that there is",
    ("gru", 3): "sees its own and all earlier steps",
    ("reverse_gru", 16): "sees its own and all later steps",
    ("bidirectional_gru", 2): "sees all steps",
    ("conv", 2): "sees its own and all earlier steps",
    ("conv", 16): "sees its own step and the 3 before it and cannot tell steps 3 to 15 apart",
    ("conv_wide", 64): "sees its own step and the 14 before it and cannot tell steps 14 to 63 apart",
    ("attention", 3): "sees all steps and cannot tell steps apart, the others as a set without order",
    ("causal_attention", 3): "sees its own and all earlier steps, the others as a set without order",
}
# fmt: on


@pytest.mark.parametrize(("name", "seq_len"), SIGHT)
def test_what_the_model_sees_in_words(name, seq_len):
    config = Config(num_features=4, seq_len=seq_len, **MODELS[name])
    view = View(*models.sight(config), config.scored_steps)
    dependence = label_dependence.LabelDependence(np.eye(seq_len, dtype=bool), True, None)
    outlook = Outlook(DEFAULT.forecast, dependence, view, None)
    assert diagnosis.sight_in_words(outlook) == SIGHT[name, seq_len]


def test_what_the_last_output_sees_in_words():
    def words(**settings) -> str:
        return diagnosis.sight_in_words(look_ahead_of(Config(num_features=4, readout="last_step", **settings)))

    assert words() == "sees only its own step"
    assert words(model="gru", seq_len=3) == "sees all steps"
    assert words(model="causal_conv", seq_len=6) == "sees its own step and the 3 before it"


DEFAULT_SENTENCE = (
    "This model sees only its own step and cannot tell steps apart. Label 0 depends on step 1, which its output "
    "does not see. The lowest loss that it can reach is 0.6032 nats; guessing gives 0.6900."
)


def test_the_sentence_of_the_default_run_is_the_readme_s(request):
    sentence = diagnosis.outlook_sentence(Config(), look_ahead_of(Config()))
    assert sentence == DEFAULT_SENTENCE
    readme = (request.config.rootpath / "README.md").read_text()
    quoted = " ".join(line.removeprefix("> ") for line in readme.splitlines() if line.startswith("> "))
    assert sentence in quoted


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seq_len", [1, 2, 3, 16])
def test_the_sentence_gives_the_losses_of_the_forecast(name, seq_len):
    for rule in ("last_step", "own_step", "any_so_far"):
        config = Config(num_features=4, seq_len=seq_len, labels=rule, **MODELS[name])
        outlook = look_ahead_of(config)
        sentence = diagnosis.outlook_sentence(config, outlook)
        found = re.search(r"([\de.-]+)(?: ± ([\d.]+))? nats; guessing gives ([\d.]+)\.", sentence)
        assert found, sentence
        assert float(found[1]) == pytest.approx(outlook.forecast.family_loss, abs=5.1e-5)
        assert float(found[3]) == pytest.approx(outlook.forecast.prior_entropy, abs=5.1e-5)
        assert ("which its output" in sentence or "their outputs" in sentence) == (
            outlook.dependence.matrix & ~outlook.view.sees
        ).any()
        exact_if_wide = name not in ("dense", "dense_position") and outlook.forecast.kind == "exact"
        assert ("(This assumes enough width.)" in sentence) == exact_if_wide
        assert not set("{}") & set(sentence)


def test_the_sentence_calls_a_bound_a_bound():
    config = Config(num_features=4, seq_len=3, model="causal_conv", activation="none", labels="any_so_far")
    sentence = diagnosis.outlook_sentence(config, look_ahead_of(config))
    assert "It cannot get below (a lower bound: which functions of its window" in sentence
    assert "can reach" not in sentence
    assert "enough width" not in sentence


@pytest.mark.parametrize("activation", ["none", "relu"])
@pytest.mark.parametrize("rule", ["next_step", "previous_step"])
def test_constant_labels_are_said_to_be_constant(rule, activation):
    config = Config(num_features=4, seq_len=1, labels=rule, activation=activation)
    outlook = look_ahead_of(config)
    sentence = diagnosis.outlook_sentence(config, outlook)
    assert "Its labels depend on no input at all: they are constant, or noise." in sentence
    assert "The lowest loss that it can reach is 0.0000 nats; guessing gives 0.0000." in sentence
    verdict = diagnosis.verdict(config, outlook)
    assert verdict["cause"] == "healthy"
    assert verdict["remedies"] == []
