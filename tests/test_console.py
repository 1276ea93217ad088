"""What a run shows while it goes on, on a terminal and elsewhere."""

import io
import re

import pytest
import tiny

from seqjax.report.console import RunReport


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(file, monkeypatch, columns):
    """All that is written while a small run is told as it goes on."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    result = tiny.run(labels="own_step")
    history = result.values["history"]
    with RunReport(result.config, file) as report:
        report.watch("model", [])
        report.watch("forecast", {"forecast": result.values["forecast"], "sentence": "It can."})
        report.progress.refresh()
        for n in range(len(history["epoch"])):
            report.watch("epoch", {name: of[n] for name, of in history.items()})
            report.progress.refresh()
    return file.getvalue()


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_a_line_says_what_is_being_done(monkeypatch, columns):
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown(Terminal(), monkeypatch, columns))
    assert "compiling" in text
    val_loss = f"val {tiny.run(labels='own_step').values['history']['val_loss'][-1]:.4f}"
    line = next(line for line in re.split(r"[\r\n]", text) if val_loss in line and "2/2" in line)
    assert len(line.rstrip()) <= columns


def test_elsewhere_there_are_plain_lines(monkeypatch):
    text = shown(io.StringIO(), monkeypatch, 80)
    assert "\x1b" not in text
    assert "\r" not in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("epoch")] == ["1/2", "2/2"]


def test_a_bound_has_its_sign():
    file, result = io.StringIO(), tiny.run(labels="own_step")
    bound = result.values["forecast"] | {"kind": "lower_bound", "reason": "no family is known"}
    at = {"seq_len": 5, "val_loss": 0.5, "val_loss_se": 0.01, "val_accuracy": 0.7, "forecast": bound}
    with RunReport(result.config, file) as report:
        report.watch("forecast", {"forecast": bound, "sentence": "It can."})
        report.result(result.values | {"forecast": bound, "lengths": [at]})
    assert file.getvalue().count(f"≥ {bound['family_loss']:.4f}") == 2
