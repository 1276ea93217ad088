"""The suite of mistakes: every cause has cases, twins are sound, and a diagnosis names the one and not the other.

`python tests/mistakes/table.py` runs all of them over many seeds.  Here each runs once: with `-m full` one of each
group of causes, as `findings.ORDER` has them, that shows where something is trained; the others are marked `table`
(an hour on two cores).  What arrays, outputs or controls alone show has tests of its own.
"""

import climbs
import jax
import numpy as np
import pytest
from mistakes import table
from mistakes.cases import CASES, Case

from seqjax import findings, ladder, step_swaps

LEFT_OUT = table.load()

# What needs no training, no framework and little time: outputs alone are wrong, and arrays alone.
QUICK = ["numpy.softmax_over_batch", "numpy.never_flipped_back"]


# Mistakes that are not named first as yet, and what is said instead; how many they are, `table.py` counts.
MISSED = {
    "numpy.shuffled_apart": "cannot_tell: with so few sequences noise looks like a riddle",
    "jax.weights_times_hundred": "healthy: the short run gets out of it",
}


def of(framework: str) -> list[str]:
    return [name for name, c in CASES.items() if c.framework == framework]


# The first of each group of causes in which something is trained, without a framework of its own.
ONE_EACH: dict[int, str] = {}
for known in of("numpy") + of("jax"):
    if CASES[known].way in ("model", "fit") and known not in MISSED:
        ONE_EACH.setdefault(findings.RANK[CASES[known].cause][0], known)


def marked(names: list[str]) -> list:
    known = {name: [pytest.mark.xfail(reason=why, strict=True)] for name, why in MISSED.items()}
    table = {name: [pytest.mark.table] for name in set(names) - set(ONE_EACH.values())}
    return [pytest.param(n, marks=[*known.get(n, []), *table.get(n, [])]) for n in names]


@pytest.fixture(autouse=True)
def ladders_climbed_once(monkeypatch):
    monkeypatch.setattr(ladder, "climb", climbs.climb)
    known = {}

    def once(climbed, dependence=step_swaps.dependence):
        if id(climbed) not in known:
            known[id(climbed)] = dependence(climbed)
        return known[id(climbed)]

    monkeypatch.setattr(step_swaps, "dependence", once)
    yield
    jax.clear_caches()  # a hundred cases in one process would use up its memory maps


@pytest.fixture
def ranks_promoted():
    """People's programs have it so, in all threads: `jax.numpy_rank_promotion` would hold for one alone."""
    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_rank_promotion", "raise")


def judge(case: Case, seed: int = 0) -> None:
    row = table.outcome(case, seed, {})
    assert row["first"], (row["verdict"], row["details"])
    assert not row["false_alarm"], (row["twin_verdict"], row["twin_details"])


def test_the_names_of_causes_are_those_of_findings():
    assert {c.cause for c in CASES.values()} <= set(findings.RANK)
    plain = {CASES[name].cause for name in of("numpy") + of("jax")}
    assert plain == {c.cause for c in CASES.values()}, "each has a case that needs no framework of its own"
    assert all(name in findings.RANK for c in CASES.values() for name in c.also + c.allowed)


@pytest.mark.skipif(bool(LEFT_OUT), reason=f"not installed: {LEFT_OUT}")
def test_every_cause_has_two_cases():
    counts = {cause: sum(c.cause == cause for c in CASES.values()) for cause in findings.RANK}
    assert not {cause: count for cause, count in counts.items() if count < 2}


@pytest.mark.parametrize("name", of("numpy"))
def test_a_case_and_its_twin_can_be_told_apart_and_are_drawn_anew_by_seed(name):
    case = CASES[name]
    wrong, right, other = case.build(0), case.twin(0), case.twin(1)
    assert set(right.known) - set(wrong.known) <= {"mask"}
    assert not np.array_equal(right.known["x"], other.known["x"])
    again = case.twin(0)
    assert np.array_equal(right.known["x"], again.known["x"])
    assert np.array_equal(right.known["y"], again.known["y"])


@pytest.mark.parametrize("name", [name for name in of("numpy") if CASES[name].way == "predict"])
def test_twins_reach_what_there_is_to_reach(name):
    twin = CASES[name].twin(0)
    loss, _ = table.loss(twin.known["predict"], twin.test)
    spread = 3 * 0.5 / np.sqrt(twin.test[2].sum())  # three standard errors of a loss that varies by half a nat
    assert np.isnan(twin.reach) or loss < twin.reach + 0.03 + spread * (twin.reach > 0.05)


def test_a_share_has_the_interval_of_its_count():
    """None of 20: the upper end p is where (1 - p)^20 is 0.025."""
    rows = [{"first": False, "found": True}] * 20
    assert table.share_of(rows, "first") == f"0.0 % (0.0 to {100 * (1 - 0.025 ** (1 / 20)):.1f})"
    assert table.share_of(rows, "found") == f"100.0 % ({100 * 0.025 ** (1 / 20):.1f} to 100.0)"


def test_a_table_goes_on_where_its_file_ends(tmp_path, monkeypatch, capsys):
    ran = []

    def outcome(case, seed, options):
        ran.append((case.name, seed))
        known = {"case": case.name, "cause": case.cause, "seed": seed, "verdict": case.cause, "findings": []}
        return known | {"first": True, "found": True, "false_alarm": False, "seconds": 1.0, "twin_seconds": 1.0}

    monkeypatch.setattr(table, "outcome", outcome)
    monkeypatch.setattr(table, "share_ladders", lambda: None)
    argv = ["table.py", "--seeds=10", f"--json={tmp_path / 'rows.json'}", "--quiet", "--spread"]
    monkeypatch.setattr("sys.argv", [*argv, "--cases=batch_leak"])
    table.main()
    some = list(ran)
    assert some
    monkeypatch.setattr("sys.argv", argv)
    table.main()
    assert {name for name, _ in ran} == set(CASES)
    assert len(ran) == len(set(ran)) > len(some)
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["table.py", f"--report={tmp_path / 'rows.json'}"])
    table.main()
    assert "first 100.0 %" in capsys.readouterr().out


@pytest.mark.parametrize("name", QUICK)
def test_quick_cases(name):
    judge(CASES[name])


@pytest.mark.full
@pytest.mark.parametrize("name", marked(sorted(set(of("numpy")) - set(QUICK))))
def test_arrays_and_models_in_numpy(name):
    judge(CASES[name])


@pytest.mark.full
@pytest.mark.parametrize("name", marked(of("jax")))
def test_jax(name, ranks_promoted):
    judge(CASES[name])


@pytest.mark.full
@pytest.mark.frameworks
@pytest.mark.parametrize("name", marked(of("torch")))
@pytest.mark.filterwarnings("default")
def test_torch(name):
    judge(CASES[name])


@pytest.mark.full
@pytest.mark.frameworks
@pytest.mark.parametrize("name", marked(of("keras")))
@pytest.mark.filterwarnings("default")
def test_keras(name, ranks_promoted):
    judge(CASES[name])
