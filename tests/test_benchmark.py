"""The benchmark: what it writes, that it times in turns, and what it refuses; not how fast anything is."""

import json

import pytest

from experiments import benchmark
from experiments.flags import HelpRequested, UsageError, benchmark_flags
from seqjax.config import ConfigError


def test_runs_take_turns_and_the_first_round_is_not_counted():
    order = []
    seconds = benchmark.in_turns({name: lambda name=name: order.append(name) for name in "ab"}, 2)
    assert "".join(order) == "ababab"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}


def test_replicates_are_timed_beside_one_run(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        benchmark, "REPLICATES", [("one run", "all", 1), ("2, data shared", "init", 2), ("2", "all", 2)]
    )
    monkeypatch.setattr(benchmark, "SEQUENCES", 100)
    monkeypatch.setattr(benchmark.command, "use_compilation_cache", lambda folder: None)
    out = tmp_path / "benchmark.json"
    benchmark.main(["benchmark", f"--out={out}", "--rounds=2"])
    found = json.loads(out.read_text())
    rows = found["suites"]["replicates"]
    assert [row["replicates"] for row in rows] == ["one run", "2, data shared", "2"]
    assert rows[0]["of one run"] == 1
    for row in rows:
        assert 0 < row["least"] <= row["ms per epoch and replicate"] <= row["most"]
    assert found["machine"]["versions"].keys() >= {"python", "jax", "jaxlib"}
    shown = capsys.readouterr().out
    assert "128" not in shown
    assert "2, data shared" in shown
    assert str(found["machine"]["versions"]["jax"]) in shown


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
