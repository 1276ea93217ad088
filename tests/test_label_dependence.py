"""Label dependence against what each rule says, enumerated and sampled."""

import dataclasses
import itertools

import numpy as np
import pytest

from seqjax.label_dependence import label_dependence
from seqjax.tasks import LABEL_RULES, Task, bits_task


def rule_task(rule: str, seq_len: int, threshold: int = 50) -> Task:
    return bits_task(seq_len=seq_len, num_features=100, threshold=threshold, rule=LABEL_RULES[rule])


def expected(rule: str, seq_len: int) -> np.ndarray:
    """D[t, s] as the rule reads, with no code of the library."""
    last = seq_len - 1
    needs = {
        "last_step": lambda t, s: s == last,
        "own_step": lambda t, s: s == t,
        "first_step": lambda t, s: s == 0,
        "previous_step": lambda t, s: s == t - 1,
        "next_step": lambda t, s: s == t + 1,
        "reversed_step": lambda t, s: s == last - t,
        "any_so_far": lambda t, s: s <= t,
        "parity_so_far": lambda t, s: s <= t,
        "parity": lambda t, s: True,
        "majority": lambda t, s: True,
    }[rule]
    return np.array([[needs(t, s) for s in range(seq_len)] for t in range(seq_len)])


@pytest.mark.parametrize("rule", LABEL_RULES)
@pytest.mark.parametrize("seq_len", [1, 2, 3, 4, 5, 6])
def test_enumerated_dependence_is_what_the_rule_says(rule, seq_len):
    found = label_dependence(rule_task(rule, seq_len))
    np.testing.assert_array_equal(found.matrix, expected(rule, seq_len))
    assert found.exact
    assert found.detection_limit is None


@pytest.mark.parametrize("rule", LABEL_RULES)
@pytest.mark.parametrize("threshold", [40, 50, 54])  # events at 97, 46 and 18 of 100 steps
def test_sampled_dependence_is_what_the_rule_says_even_where_events_are_rare(rule, threshold):
    found = label_dependence(rule_task(rule, 64, threshold))
    np.testing.assert_array_equal(found.matrix, expected(rule, 64))
    assert not found.exact
    assert found.detection_limit == 1 / 4000


@pytest.mark.parametrize("rule", LABEL_RULES)
def test_symmetric_rules_do_not_care_about_order(rule):
    """The flag lets the forecast count instead of enumerating; here every exchange is tried."""
    assert LABEL_RULES[rule].symmetric
    for seq_len in range(1, 7):
        needed = expected(rule, seq_len)
        patterns = np.array(list(itertools.product([0, 1], repeat=seq_len)))
        labels = LABEL_RULES[rule].labels(patterns)
        for t in range(seq_len):
            counts = patterns[:, needed[t]].sum(-1)
            for count in np.unique(counts):
                assert len(np.unique(labels[counts == count, t])) == 1


def custom_task(labels_of, event_probs, seq_len: int) -> Task:
    return dataclasses.replace(
        rule_task("own_step", seq_len),
        num_classes=len(event_probs),
        labels_of=labels_of,
        event_probs=np.array(event_probs),
        count_probs=None,
        symmetric=False,
    )


@pytest.mark.parametrize("seq_len", [4, 30])  # 3^4 patterns are enumerated, 3^30 sampled
def test_events_may_be_of_more_than_two_kinds(seq_len):
    # The label is the event of the step before, but for a first step that is always 0.
    task = custom_task(lambda e: np.concatenate([0 * e[..., :1], e[..., :-1]], -1), [0.2, 0.3, 0.5], seq_len)
    np.testing.assert_array_equal(label_dependence(task).matrix, np.eye(seq_len, k=-1, dtype=bool))


@pytest.mark.parametrize("seq_len", [4, 30])
def test_events_that_never_happen_are_not_tried(seq_len):
    task = custom_task(lambda e: (e == 2).astype("int32"), [0.5, 0.5, 0.0], seq_len)
    assert not label_dependence(task).matrix.any()


def test_a_step_with_one_event_alone_has_no_dependence():
    task = custom_task(lambda e: e, [1.0], 64)
    found = label_dependence(task)
    assert found.exact
    assert not found.matrix.any()
