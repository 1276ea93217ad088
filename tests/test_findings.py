"""The order in which causes are told."""

import re
from pathlib import Path

from seqjax.findings import ORDER, RANK, Finding, once, ranked

CAUSES = [cause for group in ORDER for cause in group]


def finding(cause, value=1.0, evidence=""):
    return Finding(cause, value, (0.0, 2.0), evidence, "")


def test_every_cause_has_one_place():
    assert len(CAUSES) == len(set(CAUSES)) == len(RANK)


def test_findings_use_the_names_of_the_table_and_no_others():
    """Every name that is given to a Finding in the library stands in the table."""
    files = (Path(__file__).parents[1] / "seqjax").glob("*.py")
    named = {name for file in files for name in re.findall(r'Finding\(\s*"([a-z_]+)"', file.read_text())}
    assert len(named) > 5
    assert named <= set(CAUSES)


def test_what_explains_comes_before_what_it_brings():
    told = ["unseen_steps", "optimisation", "batch_time_swapped", "stuck_at_prior", "softmax_twice"]
    assert [f.cause for f in ranked(map(finding, told))] == [
        "softmax_twice", "batch_time_swapped", "stuck_at_prior", "unseen_steps", "optimisation",
    ]  # fmt: skip
    # A recurrence that goes on without its state sees no label of earlier steps.
    assert RANK["history_unused"] < RANK["labels_shifted"]


def test_a_cause_is_told_once_with_its_first_evidence():
    found = [finding("optimisation", 1, "a"), finding("bad_values", 1, "b"), finding("optimisation", 9, "c")]
    assert [(f.cause, f.evidence) for f in once(found)] == [("bad_values", "b"), ("optimisation", "a")]
