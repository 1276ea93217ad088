"""Bayes and family losses against the issue's table, a naive enumeration, closed forms and SciPy."""

import dataclasses
import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from seqjax import bayes
from seqjax.bayes import View
from seqjax.label_dependence import label_dependence
from seqjax.tasks import LABEL_RULES, Task, bits_task

Q = 0.46020538  # P(more than 50 of 100 fair bits)


def rule_task(rule: str, seq_len: int, noise: float = 0.0, **kwargs) -> Task:
    sizes = {"num_features": 100, "threshold": 50} | kwargs
    return bits_task(seq_len=seq_len, rule=LABEL_RULES[rule], label_noise=noise, **sizes)


def h(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


# --- Views, as the built-in models have them ---


def views(seq_len: int) -> dict[str, View]:
    steps, one_class = np.arange(seq_len), np.zeros(seq_len, int)
    ordered, unordered = np.zeros(seq_len, bool), np.ones(seq_len, bool)
    every = np.ones(seq_len, bool)
    own, past = np.eye(seq_len, dtype=bool), np.tri(seq_len, dtype=bool)
    back = steps[:, None] - steps
    windows = {
        f"window{size}": View((back >= 0) & (back < size), np.minimum(steps, size - 1), ordered, every)
        for size in (2, 3, 4)
    }
    # Without zero-padded edges to tell them apart: one class where the whole window is inside.
    centred = np.where((steps > 0) & (steps < seq_len - 1), -1, steps)
    return windows | {
        "dense": View(own, one_class, ordered, every),
        "dense with positions": View(own, steps, ordered, every),
        "forward": View(past, steps, ordered, every),
        "reverse": View(past.T, steps, ordered, every),
        "bidirectional": View(past | True, steps, ordered, every),
        "centred window": View(abs(back) <= 1, centred, ordered, every),
        "attention": View(past | True, one_class, unordered, every),
        "causal attention": View(past, steps, unordered, every),
        "blind to itself": View(~own, one_class, unordered, every),
        "last step alone": View(own, one_class, ordered, steps == seq_len - 1),
        "attention of two": View(past | True, one_class, unordered, steps >= seq_len - 2),
    }


# --- The reference: every pattern, one at a time, in dictionaries ---


def naive_loss(patterns, probs, labels, view: View, num_classes: int, noise: float = 0.0) -> np.ndarray:
    seq_len = len(view.scored)
    scored = [t for t in range(seq_len) if view.scored[t]]
    table = defaultdict(lambda: [0.0] * num_classes)

    def seen(t, pattern):
        visible = [s for s in range(seq_len) if view.sees[t, s]]
        if view.unordered[t]:
            others = sorted(int(pattern[s]) for s in visible if s != t)
            content = (int(pattern[t]) if t in visible else None, tuple(others))
        else:
            content = tuple((s - t, int(pattern[s])) for s in visible)
        return int(view.position_classes[t]), bool(view.unordered[t]), content

    def label_probs(label):
        return [1 - noise if c == label else noise / (num_classes - 1) for c in range(num_classes)]

    for t in scored:
        for pattern, prob, label in zip(patterns, probs, labels, strict=True):
            for c, p in enumerate(label_probs(label[t])):
                table[seen(t, pattern)][c] += prob * p
    losses = np.full(seq_len, np.nan)
    for t in scored:
        losses[t] = 0.0
        for pattern, prob, label in zip(patterns, probs, labels, strict=True):
            row = table[seen(t, pattern)]
            for c, p in enumerate(label_probs(label[t])):
                if prob * p > 0:
                    losses[t] -= prob * p * math.log(row[c] / sum(row))
    return losses


def enumerated(task: Task):
    """Every pattern of events, its probability and its labels."""
    patterns = list(itertools.product(range(len(task.event_probs)), repeat=task.seq_len))
    probs = [math.prod(task.event_probs[e] for e in pattern) for pattern in patterns]
    return patterns, probs, [task.labels_of(np.array(pattern)) for pattern in patterns]


def naive_task_loss(task: Task, view: View) -> np.ndarray:
    return naive_loss(*enumerated(task), view, task.num_classes, task.label_noise)


def check(loss: bayes.Loss, expected: np.ndarray) -> None:
    assert loss.kind == "exact"
    assert loss.standard_error == 0
    np.testing.assert_allclose(loss.per_step, expected, atol=1e-12)
    np.testing.assert_allclose(loss.mean, np.nanmean(expected), atol=1e-12)


# --- The table of the issue ---


@pytest.mark.parametrize(
    ("rule", "seq_len", "prior", "blind", "linear", "position", "past", "everything"),
    [
        ("last_step", 2, 0.68998, 0.55954, 0.60315, 0.34499, 0.34499, 0),
        ("last_step", 3, 0.68998, 0.63346, 0.65325, 0.45998, 0.45998, 0),
        ("any_so_far", 3, 0.63381, 0.36089, 0.47705, 0.23272, 0, 0),
        ("majority", 3, 0.68603, 0.55638, 0.59965, 0.55638, 0.29973, 0),
        ("parity_so_far", 2, 0.69222, 0.53940, 0.58994, 0.34499, 0, 0),
    ],
)
def test_the_table_of_known_values(rule, seq_len, prior, blind, linear, position, past, everything):
    task, of = rule_task(rule, seq_len), views(seq_len)
    found = [
        bayes.prior_entropy(task, of["dense"].scored),
        bayes.bayes_loss(task, of["dense"]),
        bayes.family_loss(task, of["dense"], step_position=False),
        bayes.bayes_loss(task, bayes.known_positions(of["dense"])),
        bayes.bayes_loss(task, of["forward"]),
        bayes.bayes_loss(task, of["bidirectional"]),
    ]
    expected = [prior, blind, linear, position, past, everything]
    np.testing.assert_allclose([loss.mean for loss in found], expected, atol=1e-5)


def test_other_known_values():
    last = rule_task("last_step", 3)
    assert bayes.bayes_loss(last, views(3)["window2"]).mean == pytest.approx(0.60302, abs=1e-5)
    noisy = rule_task("own_step", 1, noise=0.1)
    assert bayes.noise_entropy(noisy) == pytest.approx(0.32508, abs=1e-5)
    assert bayes.family_loss(noisy, views(1)["dense"], step_position=False).mean == pytest.approx(0.4256, abs=1e-5)
    default, dense = rule_task("last_step", 2), views(2)["dense"]
    assert bayes.family_loss(default, dense, step_position=True).mean == pytest.approx(0.60315, abs=1e-5)
    # The best on average trades one step against the other.
    np.testing.assert_allclose(bayes.bayes_loss(default, dense).per_step, [0.83315, 0.28592], atol=1e-5)


# --- Exact values against the reference ---


@pytest.mark.parametrize("rule", LABEL_RULES)
@pytest.mark.parametrize("noise", [0.0, 0.1, 0.5])
def test_every_rule_and_view_against_enumeration(rule, noise):
    for seq_len in range(1, 7):
        task = rule_task(rule, seq_len, noise, num_features=9, threshold=5)
        table = enumerated(task)
        for view in views(seq_len).values():
            check(bayes.bayes_loss(task, view), naive_loss(*table, view, 2, noise))
            nothing = view._replace(sees=view.sees & False, position_classes=0 * view.position_classes)
            nothing = nothing._replace(unordered=nothing.position_classes > 0)
            check(bayes.prior_entropy(task, view.scored), naive_loss(*table, nothing, 2, noise))


@st.composite
def any_view(draw, seq_len: int) -> View:
    def array(elements, *shape):
        size = math.prod(shape)
        return np.array(draw(st.lists(elements, min_size=size, max_size=size))).reshape(shape)

    scored = array(st.booleans(), seq_len)
    scored[draw(st.integers(0, seq_len - 1))] = True
    if draw(st.booleans()):
        sees = array(st.booleans(), seq_len, seq_len)
        return View(sees, array(st.integers(0, 1), seq_len), array(st.booleans(), seq_len), scored)
    # A window of two or three steps, so that the views of a class do correspond.
    offset = np.arange(seq_len) - np.arange(seq_len)[:, None]
    sees = np.isin(offset, draw(st.sampled_from([[-2, -1], [-1, 1], [0, 2], [-2, -1, 0], [-1, 0, 1]])))
    return View(sees, np.zeros(seq_len, int), np.full(seq_len, draw(st.booleans())), scored | True)


@st.composite
def any_task(draw, *, symmetric: bool) -> Task:
    """Labels from a random table: of the pattern, or of the counts among a random set of steps."""
    kinds, seq_len = draw(st.sampled_from([(2, 1), (2, 3), (2, 5), (2, 6), (3, 2), (3, 4), (4, 2)]))
    num_classes = draw(st.integers(2, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = kinds ** np.arange(seq_len)
    table = rng.integers(0, num_classes, (kinds**seq_len, seq_len))
    by_count = rng.integers(0, num_classes, ((seq_len + 1) ** kinds, seq_len if rng.random() < 0.5 else 1))
    needed = rng.random((seq_len, seq_len)) < 0.5

    def labels_of(e):
        if not symmetric:
            return table[(e * weights).sum(-1)]
        counts = [((e == kind)[..., None, :] & needed).sum(-1) for kind in range(kinds)]
        index = sum(count * (seq_len + 1) ** kind for kind, count in enumerate(counts))
        return by_count[index, np.arange(seq_len) % by_count.shape[1]]

    return dataclasses.replace(
        rule_task("own_step", seq_len),
        num_classes=num_classes,
        labels_of=labels_of,
        event_probs=rng.dirichlet(np.ones(kinds)),
        count_probs=None,
        label_noise=draw(st.sampled_from([0.0, 0.2])),
        symmetric=symmetric,
    )


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data(), st.booleans())
def test_any_labels_under_any_view_against_enumeration(data, symmetric):
    task = data.draw(any_task(symmetric=symmetric))
    view = data.draw(any_view(task.seq_len))
    check(bayes.bayes_loss(task, view), naive_task_loss(task, view))


def test_symmetric_and_plain_enumeration_agree():
    for rule in LABEL_RULES:
        counted = rule_task(rule, 8, 0.1)
        plain = dataclasses.replace(counted, symmetric=False)
        for view in views(8).values():
            check(bayes.bayes_loss(plain, view), bayes.bayes_loss(counted, view).per_step)


def test_events_that_never_happen_change_nothing():
    task = rule_task("last_step", 3)
    probs = np.append(task.event_probs, 0.0)
    for symmetric in (True, False):
        wider = dataclasses.replace(task, event_probs=probs, symmetric=symmetric)
        for view in views(3).values():
            check(bayes.bayes_loss(wider, view), bayes.bayes_loss(task, view).per_step)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data(), st.integers(0, 2**32))
def test_a_table_may_hold_correlated_steps(data, seed):
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 3, (int(rng.integers(1, 40)), 3))
    labels = rng.integers(0, 3, patterns.shape)  # rows may repeat: labels need not be a function
    probs = rng.dirichlet(np.ones(len(patterns)))
    view = data.draw(any_view(3))
    loss = bayes.table_loss(patterns, probs, labels, view, num_classes=3, label_noise=0.1)
    check(loss, naive_loss(patterns, probs, labels, view, 3, 0.1))


def test_noise_entropy_of_several_classes():
    task = dataclasses.replace(rule_task("own_step", 2, noise=0.3), num_classes=4)
    assert bayes.noise_entropy(task) == pytest.approx(-0.7 * math.log(0.7) - 0.3 * math.log(0.1))
    assert bayes.noise_entropy(rule_task("own_step", 2)) == 0


# --- Long sequences ---


@pytest.mark.parametrize("seq_len", [64, 256])
def test_long_sequences_against_closed_forms(seq_len):
    of = views(seq_len)
    last, backwards = rule_task("last_step", seq_len), rule_task("reversed_step", seq_len)
    values = [
        (bayes.bayes_loss(last, of["forward"]), h(Q) * (seq_len - 1) / seq_len),
        (bayes.bayes_loss(last, of["reverse"]), 0),
        (bayes.bayes_loss(backwards, of["forward"]), h(Q) / 2),
        (bayes.prior_entropy(rule_task("parity", seq_len), of["dense"].scored), math.log(2)),
        (bayes.bayes_loss(rule_task("majority", seq_len), of["attention"]), 0),
        (bayes.bayes_loss(rule_task("any_so_far", seq_len), of["causal attention"]), 0),
    ]
    for loss, expected in values:
        assert loss.kind == "exact"
        assert loss.mean == pytest.approx(expected, abs=1e-6)
    # Half of the other steps, all of them alike to a window: their number is all that tells.
    half = seq_len // 2
    back = np.arange(seq_len)[:, None] - np.arange(seq_len)
    window = of["dense"]._replace(
        sees=(back >= 0) & (back < half), position_classes=np.minimum(np.arange(seq_len), half - 1)
    )
    assert 0 < bayes.bayes_loss(backwards, window).mean < h(Q)


@pytest.mark.parametrize("rule", ["reversed_step", "any_so_far", "parity_so_far", "majority"])
@pytest.mark.parametrize("name", ["dense", "window3", "attention", "forward", "causal attention"])
def test_counting_and_sampling_agree_at_64_steps(rule, name):
    task, view = rule_task(rule, 64, num_features=20, threshold=12), views(64)[name]
    dependence = label_dependence(task)
    exact = bayes.bayes_loss(task, view, dependence=dependence)
    sampled = bayes.bayes_loss(task, view, dependence=dependence, max_patterns=0, num_samples=2**14)
    assert exact.kind == "exact"
    assert abs(sampled.mean - exact.mean) <= 4 * sampled.standard_error + 1e-12


# --- Samples ---


@pytest.mark.parametrize(
    ("rule", "seq_len", "name", "noise", "symmetric"),
    [
        ("any_so_far", 4, "dense", 0.0, True),
        ("majority", 5, "forward", 0.1, True),
        ("reversed_step", 6, "attention", 0.0, True),
        ("parity_so_far", 6, "window3", 0.2, False),
        ("majority", 15, "forward", 0.0, False),  # too many views to repeat: hidden steps are drawn anew
    ],
)
def test_the_interval_of_a_sampled_loss_holds_what_it_says(rule, seq_len, name, noise, symmetric):
    task, view = rule_task(rule, seq_len, noise), views(seq_len)[name]
    exact = bayes.bayes_loss(task, view).mean
    task, dependence = dataclasses.replace(task, symmetric=symmetric), label_dependence(task)
    estimates = [
        bayes.bayes_loss(task, view, dependence=dependence, seed=seed, max_patterns=0, num_samples=2**12)
        for seed in range(100)
    ]
    errors = np.array([loss.mean - exact for loss in estimates])
    standard_errors = np.array([loss.standard_error for loss in estimates])
    assert all(loss.kind == "estimate" for loss in estimates)
    assert (abs(errors) <= 1.96 * standard_errors).sum() >= 90
    assert standard_errors.mean() < 3 * errors.std() + 1e-3  # and not because it is wide


def test_drawing_hidden_steps_anew_keeps_an_unordered_view_unordered():
    """The label tells the order of two events; the last output sees the multiset of eight, one of 6435."""
    task = dataclasses.replace(
        rule_task("own_step", 9),
        labels_of=lambda e: (e[..., :1] < e[..., 1:2]).astype("int32") + 0 * e,
        event_probs=np.full(8, 1 / 8),
        symmetric=False,
    )
    view = views(9)["causal attention"]
    view = view._replace(scored=np.arange(9) == 8)
    dependence = label_dependence(task)
    exact = bayes.bayes_loss(task, view, dependence=dependence)
    sampled = bayes.bayes_loss(task, view, dependence=dependence, max_patterns=0, num_samples=2**13)
    assert exact.mean > 0.1
    assert abs(sampled.mean - exact.mean) < 4 * sampled.standard_error < 0.2


def test_nothing_is_sampled_where_an_output_sees_all_that_its_label_needs():
    loss = bayes.bayes_loss(rule_task("majority", 8, 0.1), views(8)["bidirectional"], max_patterns=0)
    check(loss, np.full(8, h(0.1)))


def test_a_rule_without_symmetry_beyond_enumeration_is_estimated():
    task = dataclasses.replace(rule_task("majority", 40), symmetric=False)
    exact = bayes.bayes_loss(rule_task("majority", 40), views(40)["dense"])
    loss = bayes.bayes_loss(task, views(40)["dense"])
    assert loss.kind == "estimate"
    assert abs(loss.mean - exact.mean) < 4 * loss.standard_error < 0.02


def test_what_cannot_be_trusted_is_refused():
    task = dataclasses.replace(rule_task("any_so_far", 60, num_features=20, threshold=12), symmetric=False)
    steps = np.arange(60)
    back = steps[:, None] - steps
    wide = View((back >= 0) & (back < 25), np.minimum(steps, 24), steps < 0, steps >= 24)
    with pytest.raises(bayes.ForecastRefused, match="steps 24 to 59 share one function") as refused:
        bayes.bayes_loss(task, wide)
    assert "\n" not in str(refused.value)


# --- The linear family ---


def naive_family_loss(task: Task, view: View, step_position: bool) -> float:
    """By SciPy, over every pattern of events and every number of set bits of the own step."""
    assert task.count_probs is not None
    scored = np.flatnonzero(view.scored)
    num_counts = task.count_probs.shape[1]
    joint = np.zeros((len(scored), num_counts, 2))
    for pattern, prob, label in zip(*enumerated(task), strict=True):
        for n, t in enumerate(scored):
            given = task.count_probs[pattern[t]] / task.event_probs[pattern[t]]
            for c in range(2):
                p = 1 - task.label_noise if c == label[t] else task.label_noise
                joint[n, :, c] += prob * p * given / len(scored)

    def loss(params):
        biases = params[1:] if step_position else params[1:].repeat(len(scored))
        logits = params[0] * np.linspace(-4, 4, num_counts) + biases[:, None]
        return (joint[..., 0] * np.logaddexp(0, logits) + joint[..., 1] * np.logaddexp(0, -logits)).sum()

    start = np.zeros(1 + (len(scored) if step_position else 1))
    return minimize(loss, start, method="BFGS", options={"gtol": 1e-10, "maxiter": 2000}).fun


@pytest.mark.parametrize("rule", LABEL_RULES)
@pytest.mark.parametrize("step_position", [False, True])
def test_linear_family_against_scipy(rule, step_position):
    cases = [(1, 0.0, 10, 5), (3, 0.0, 10, 5), (3, 0.2, 10, 7), (4, 0.0, 7, 2), (2, 0.0, 1, 0)]
    for seq_len, noise, num_features, threshold in cases:
        task = rule_task(rule, seq_len, noise, num_features=num_features, threshold=threshold)
        for name in ("dense", "last step alone"):
            view = views(seq_len)[name]
            expected = naive_family_loss(task, view, step_position)
            found = bayes.family_loss(task, view, step_position=step_position)
            # BFGS ends a little above an infimum at infinity.
            assert expected - 1e-4 < found.mean < expected + 1e-6
            if noise:
                assert found.mean == pytest.approx(expected, abs=1e-6)
            shared = view if not step_position else bayes.known_positions(view)
            assert found.mean >= bayes.bayes_loss(task, shared).mean - 1e-9


def test_linear_family_of_separable_labels_is_the_infimum():
    dense = views(3)["dense"]
    own = bayes.family_loss(rule_task("own_step", 3), dense, step_position=False)
    np.testing.assert_allclose(own.per_step, 0, atol=1e-6)
    # The label of step 0 is constant; those of the others are unrelated to their own step.
    previous = bayes.family_loss(rule_task("previous_step", 3), dense, step_position=True)
    np.testing.assert_allclose(previous.per_step, [0, h(Q), h(Q)], atol=1e-6)


@pytest.mark.parametrize("threshold", [-1, 100])
def test_constant_labels_cost_nothing(threshold):
    task, dense = rule_task("own_step", 3, threshold=threshold), views(3)["dense"]
    assert bayes.family_loss(task, dense, step_position=False).mean == pytest.approx(0, abs=1e-6)
    assert bayes.bayes_loss(task, dense).mean == 0
    assert bayes.prior_entropy(task, dense.scored).mean == 0


def test_linear_family_of_the_last_step_alone():
    view = views(2)["last step alone"]
    loss = bayes.family_loss(rule_task("last_step", 2), view, step_position=False)
    assert np.isnan(loss.per_step[0])
    assert loss.mean == pytest.approx(0, abs=1e-6)


def test_linear_family_is_refused_where_it_is_not_known():
    task = rule_task("last_step", 3)
    with pytest.raises(bayes.ForecastRefused, match="own step"):
        bayes.family_loss(task, views(3)["forward"], step_position=False)
    with pytest.raises(bayes.ForecastRefused, match="two classes"):
        bayes.family_loss(dataclasses.replace(task, count_probs=None), views(3)["dense"], step_position=False)
    many = dataclasses.replace(rule_task("majority", 40), symmetric=False)
    with pytest.raises(bayes.ForecastRefused, match="too many events"):
        bayes.family_loss(many, views(40)["dense"], step_position=False)


# --- Views that are none ---


def test_a_view_of_another_length_or_without_scored_steps_is_an_error():
    task = rule_task("last_step", 3)
    with pytest.raises(ValueError, match="shapes"):
        bayes.bayes_loss(task, views(4)["dense"])
    with pytest.raises(ValueError, match="no step is scored"):
        bayes.prior_entropy(task, np.zeros(3, bool))
