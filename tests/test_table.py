"""The table as a command: its rows, and what it refuses."""

import json
import sys

import pytest

from experiments import command, table
from seqjax.forecasts import MAX_STEPS


def end(monkeypatch, capsys, *argv):
    """Exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["table", *argv])
    code = 0
    try:
        command.run_command(table.main, "")
    except SystemExit as ended:
        code = ended.code
    return code, *capsys.readouterr()


def test_the_original_question_is_a_row(monkeypatch, capsys):
    code, out, _ = end(monkeypatch, capsys, "--json", "--labels=last_step", "--seq_len=2")
    (row,) = json.loads(out)
    assert code == 0
    assert (row["labels"], row["seq_len"]) == ("last_step", 2)
    assert row["the same, linear"] == pytest.approx(0.6032, abs=1e-4)
    assert row["own and earlier steps"] == pytest.approx(0.3450, abs=1e-4)
    assert row["all steps"] == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--seq_len=1000000000"], f"seq_len=1000000000: expected at most {MAX_STEPS}"),
        ([f"--seq_len=2,{MAX_STEPS + 1}"], f"seq_len={MAX_STEPS + 1}: expected at most {MAX_STEPS}"),
        (["--num_features=2000000000"], "num_features=2000000000"),
        ([f"--num_features=1{400 * '0'}"], "at most 2147483647"),
        (["--seq_len=0"], "seq_len=0"),
        (["--seq_len=2,,3"], "has an empty value"),
        (["--seq_len=2,2"], "has the value 2 twice"),
        (["--labels="], "has an empty value"),
        (["--labels=last_stp"], "did you mean last_step?"),
        (["--label_noise=nan"], "label_noise=nan"),
        (["--threshold=-1"], "threshold=-1"),
        (["--readout=first"], "unknown readout 'first'"),
        (["--every_model=perhaps"], "every_model"),
        (["--num_samples=10"], "num_samples"),
        (["2"], "unexpected argument '2'"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_bad_input_is_one_line(monkeypatch, capsys, argv, said):
    code, out, err = end(monkeypatch, capsys, *argv)
    assert (code, out, err.count("\n"), said in err) == (2, "", 1, True)
