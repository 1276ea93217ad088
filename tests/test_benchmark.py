"""The benchmark: what it writes, that it times in turns and compares the same work; not how fast anything is."""

import json
import sys

import numpy as np
import pytest

from experiments import benchmark, peers, suites, turns
from experiments.flags import HelpRequested, UsageError, benchmark_flags
from seqjax.config import Config, ConfigError

# A peer that answers at once: no framework is needed to test how peers are spoken to.
PEER = """import json, sys
print(json.dumps({"versions": {}}), flush=True)
for _ in sys.stdin: print(json.dumps({"seconds": 2.0, "loss": 1.5, "times": int(sys.argv[1])}), flush=True)
"""


@pytest.fixture(autouse=True)
def without_peers(monkeypatch):
    """No peer is installed, and the machine's limits are known."""
    monkeypatch.setattr(peers, "installed", lambda peer: False)
    for module in (suites, benchmark):
        monkeypatch.setattr(module, "limits", lambda: {"flops": 1e12, "bytes": 1e11})
    monkeypatch.setattr(benchmark.command, "use_compilation_cache", lambda folder: None)


def test_runs_take_turns_and_the_first_round_is_not_counted():
    order = []
    seconds = turns.in_turns({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert "".join(order) == "ababab"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}


def test_what_times_itself_is_believed():
    assert turns.in_turns({"a": lambda: 7.0}, 2) == {"a": [7.0, 7.0]}


def test_ratios_are_of_each_round():
    rows = turns.compared({turns.OURS: [1.0, 10.0, 1.0], "it": [2.0, 20.0, 4.0]}, twice=lambda took: 2 * took[0])
    assert rows[1] == {"of": "it", "s": 4.0, "least": 2.0, "most": 20.0, "twice": 4.0, "ours / it": 0.5}


def test_a_peer_works_once_for_each_line(monkeypatch):
    monkeypatch.setattr(turns, "command_of", lambda work, peer, settings: [sys.executable, "-c", PEER, "3"])
    found = {}
    with turns.peer_at_work("train", "it", {}, found) as run:
        assert [run(), run()] == [2.0, 2.0]
    assert found["it"]["times"] == 3


def test_a_peer_that_ends_early_is_told(monkeypatch):
    monkeypatch.setattr(turns, "command_of", lambda work, peer, settings: [sys.executable, "-c", ""])
    with pytest.raises(turns.Unequal, match="ended before"), turns.peer_at_work("train", "it", {}, {}):
        pass


@pytest.mark.parametrize(
    "theirs", [{"loss": 0.7, "updates": 9}, {"loss": 0.6, "updates": 8}, {"loss": float("nan"), "updates": 9}]
)
def test_other_work_is_not_compared(theirs):
    turns.the_same({turns.OURS: {"loss": 0.6, "updates": 9}, "it": {"loss": 0.61, "updates": 9}}, ("loss",))
    with pytest.raises(turns.Unequal):
        turns.the_same({turns.OURS: {"loss": 0.6, "updates": 9}, "it": theirs}, ("loss",))


def test_peers_get_the_question_of_the_main_job():
    x, y = peers.sequences(suites.peer_settings(Config(seq_len=3, num_samples=500), 1))
    assert x.shape == (500, 3, 100)
    assert set(np.unique(x)) == {-0.5, 0.5}
    assert y.shape == (500, 3)
    assert (y == (x[:, -1:].sum(-1) > 0)).all()
    assert abs(y.mean() - 0.46021) < 4 * 0.5 / 500**0.5


def small(monkeypatch):
    monkeypatch.setattr(
        suites, "REPLICATES", [("one run", "all", 1), ("2, data shared", "init", 2), ("2", "all", 2)]
    )
    monkeypatch.setattr(suites, "SEQUENCES", 100)
    monkeypatch.setattr(suites, "MAIN_JOB", Config(num_samples=100, num_epochs=2))
    monkeypatch.setattr(suites, "LENGTHS", (1, 2))
    monkeypatch.setattr(suites, "GRUS", [(2, 5, 3, 4)])
    monkeypatch.setattr(suites, "LONG", (8, 16))
    monkeypatch.setattr(suites, "DIAGNOSED", (2,))
    monkeypatch.setattr(suites, "LADDER_SEQUENCES", 200)


def test_every_suite_gives_rows_and_names_the_peers_that_are_not_there(monkeypatch, tmp_path, capsys):
    small(monkeypatch)
    monkeypatch.setattr(suites, "our_gru", few_times(suites.our_gru))
    out = tmp_path / "benchmark.json"
    benchmark.main(["benchmark", f"--out={out}", "--rounds=1", "--suites=train,replicates,recurrent,long"])
    found = json.loads(out.read_text())
    rows = found["suites"]
    assert [row["T"] for row in rows["train"] if row["of"] == turns.OURS] == [1, 2]
    assert {row["of"] for row in rows["train"] if row["s"] == "not installed"} == set(peers.PEERS)
    assert [row["replicates"] for row in rows["replicates"]] == ["one run", "2, data shared", "2"]
    assert rows["replicates"][0]["of one run"] == 1
    assert {row["of"] for row in rows["recurrent"]} == {turns.OURS, "Flax", "PyTorch"}
    assert [(row["model"], row["T"]) for row in rows["long"]] == [
        ("gru", 8), ("gru", 16), ("causal_conv", 8), ("causal_conv", 16)
    ]  # fmt: skip
    for row in rows["replicates"]:
        assert 0 < row["least"] <= row["ms per epoch and replicate"] <= row["most"]
    assert found["machine"]["versions"].keys() >= {"python", "jax", "jaxlib", "keras", "torch"}
    shown = capsys.readouterr().out
    assert "2, data shared" in shown
    assert "not installed" in shown
    assert str(found["machine"]["versions"]["jax"]) in shown


def few_times(our_gru):
    """Few repetitions: a small GRU would otherwise run for as long as a large one."""
    return lambda function, settings, *rest: our_gru(function, settings | {"times": 2}, *rest)


def test_a_diagnosis_is_timed_part_by_part(monkeypatch):
    small(monkeypatch)
    monkeypatch.setattr(suites.ladder, "climb", lambda data, num_classes: None)
    rows = suites.diagnose(0, 1)
    assert [row["of"] for row in rows] == ["forecast", "receptive field", "ladder"]


def test_our_answer_is_that_of_the_command(monkeypatch):
    small(monkeypatch)
    rows = suites.answer(0, 1)
    assert [(row["cache"], row["of"]) for row in rows[:2]] == [("cold", turns.OURS), ("warm", turns.OURS)]
    assert all(row["s"] == "not installed" for row in rows[2:])


def test_what_is_not_given_has_a_default_and_what_is_wrong_is_refused():
    assert benchmark_flags(["benchmark"], ["a", "b"]) == (
        ["a", "b"], {"rounds": 5, "seed": 0, "out": "benchmark.json", "json": False}
    )  # fmt: skip
    assert benchmark_flags(["benchmark", "--suites=b"], ["a", "b"])[0] == ["b"]
    with pytest.raises(ConfigError, match="suite"):
        benchmark_flags(["benchmark", "--suites=c"], ["a", "b"])
    for wrong in ("--rounds=0", "--seed=-1", "--out=", "--round=2"):
        with pytest.raises(UsageError):
            benchmark_flags(["benchmark", wrong], ["a", "b"])
    with pytest.raises(HelpRequested):
        benchmark_flags(["benchmark", "--help"], ["a", "b"])


def test_a_place_that_cannot_be_written_is_said_before_anything_is_timed(tmp_path):
    for out in (tmp_path, tmp_path / "nowhere" / "benchmark.json"):
        with pytest.raises(ConfigError, match="expected a file, in a folder that is there"):
            benchmark.main(["benchmark", f"--out={out}", "--rounds=1", "--suites=train"])
