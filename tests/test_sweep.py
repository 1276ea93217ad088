"""The grid: how it is read, what is refused, what is recorded, taken up again and drawn."""

import io
import itertools
import json
import os
import re
import signal
import sys

import pytest
import tiny
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_figures import texts

from experiments import command, main, sweep, workdir
from experiments.flags import sweep_flags
from seqjax import experiment
from seqjax import grid as grids
from seqjax.checkpoints import CheckpointError
from seqjax.config import Config
from seqjax.experiment import NotFiniteError, Result
from seqjax.report import sweep_figure
from seqjax.report.sweep_console import SweepReport
from seqjax.tasks import LABEL_RULES

# The lock of a workdir is held to the end of the process.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
GRID = ["--seq_len=1,2", "--model=dense,gru"]


@pytest.fixture(autouse=True)
def own_signals():
    """A command takes SIGTERM and Ctrl-C for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(folder, *argv):
    """The sweep in this process: `result.json`."""
    sweep.main(["sweep", *tiny.ARGV, f"--workdir={folder}", *argv])
    return json.loads((folder / "result.json").read_text())


def end(monkeypatch, capsys, *argv):
    """The sweep as a command: its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["sweep", *tiny.ARGV, *argv])
    code = 0
    try:
        command.run_command(sweep.main, "")
    except SystemExit as left:
        code = left.code
    return code, *capsys.readouterr()


def lines(folder):
    return [json.loads(line) for line in (folder / "sweep.jsonl").read_text().splitlines()]


@pytest.fixture
def runs(monkeypatch):
    """Runs are not done but counted; each gives the numbers of one small run."""
    given = tiny.run(num_replicates=2).values
    done = []

    def count(config, watch, **kwargs):
        experiment.check(config)
        done.append(config)
        watch("model", [])
        watch("forecast", {"forecast": given["forecast"]})
        watch("epoch", {"epoch": 1, "val_loss": 0.5, "val_accuracy": 0.75})
        return Result(config, given | {"config": experiment.full_config(config)})

    monkeypatch.setattr(experiment, "run", count)
    return done


# --- The grid ---


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--seq_len=1,2, 8"], {"seq_len": [1, 2, 8]}),
        (["--learning_rate=1e-3,0.01"], {"learning_rate": [0.001, 0.01]}),
        (["--labels=last_step,own_step"], {"labels": ["last_step", "own_step"]}),
        (["--hidden_sizes=10,10;32"], {"hidden_sizes": [[10, 10], [32]]}),
        (["--hidden_sizes=10,10"], {"hidden_sizes": [[10, 10]]}),
        (["--eval_seq_len=4;4,8"], {"eval_seq_len": [[4], [4, 8]]}),
        (["--step_position=true,false"], {"step_position": [True, False]}),
        (["--step_position"], {"step_position": [True]}),
        (["--nostep_position"], {"step_position": [False]}),
        (["--preset=two_steps_gru"], {"seq_len": [2], "model": ["gru"], "hidden_sizes": [[32]]}),
        (
            ["--preset=two_steps_gru", "--seq_len=1,2"],
            {"seq_len": [1, 2], "model": ["gru"], "hidden_sizes": [[32]]},
        ),
    ],
    ids=" ".join,
)
def test_flags_give_the_values_of_every_setting(argv, expected):
    grid, _ = sweep_flags(["sweep", *argv])
    defaults = json.loads(json.dumps({name: [value] for name, value in vars(Config()).items()}))
    assert grid == defaults | expected


def test_there_is_a_cell_for_every_combination():
    grid, _ = sweep_flags(["sweep", "--seq_len=1,2", "--labels=own_step,parity", "--model=dense,gru"])
    cells = grids.cells_of(grid)
    combinations = [(cell["seq_len"], cell["labels"], cell["model"]) for cell in cells]
    assert combinations == list(itertools.product([1, 2], ["own_step", "parity"], ["dense", "gru"]))
    assert {Config(**cell).num_features for cell in cells} == {100}


def test_no_name_that_is_known_is_refused_by_itself():
    names = [f"--labels={','.join(LABEL_RULES)}", "--optimizer=adam,adamw,sgd,rmsprop"]
    names += ["--model=dense,gru,attention", "--activation=none,relu", "--schedule=constant,cosine,warmup_cosine"]
    grid, _ = sweep_flags(["sweep", *names])
    grids.check(grid, grids.cells_of(grid))


BAD = [
    (["--seq_len=1,x"], "seq_len='x': expected a whole number"),
    (["--seq_len=1,,2"], "seq_len='1,,2': has an empty value; expected values separated by commas"),
    (["--labels="], "labels='': has an empty value"),
    (["--hidden_sizes=10;"], "hidden_sizes='10;': has an empty value; expected values separated by semicolons"),
    (["--seq_len=2,1,2"], "seq_len='2,1,2': has the value 2 twice"),
    (["--learning_rate=0.01,1e-2"], "has the value 1e-2 twice"),
    (["--step_position=true,perhaps"], "step_position='perhaps': expected true or false"),
    (["--model=dense,gruu"], "unknown model 'gruu'; did you mean gru?"),
    (["--activation=relux", "--model=gru,dense"], "unknown activation 'relux'"),
    (["--seq_len=1,0"], "seq_len=0: expected a whole number of at least 1"),
    (["--num_features=10,20", "--threshold=5,130"], "threshold=130"),
    (["--readout=last_step,first_step"], "unknown readout 'first_step'"),
    (["--model=gru", "--activation=relu,tanh"], "activation=relu"),  # no cell can run
    (["--checkpoint_every=0"], "checkpoint_every=0"),
    (["--checkpoint_every=1,2"], "checkpoint_every='1,2': expected a whole number"),
    (["--preset=two_step"], "unknown preset 'two_step'"),
    (["--forecast_only"], "Unknown command line flag 'forecast_only'"),
    (["--mesh=replica:0"], "mesh=replica:0"),
    (["--resume"], "holds no sweep to resume"),
]


@pytest.mark.parametrize(("argv", "said"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(monkeypatch, capsys, tmp_path, argv, said):
    code, out, err = end(monkeypatch, capsys, f"--workdir={tmp_path / 'new'}", *argv)
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert said in err
    assert not (tmp_path / "new").exists()


def test_a_threshold_may_be_right_for_the_features_given(runs, tmp_path):
    cells = run(tmp_path, "--num_features=9,200", "--threshold=4,150")["cells"]
    assert ["error" in cell for cell in cells] == [False, True, False, False]


# --- What it leaves ---


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep in which activation has no meaning for half of the cells: the folder, and what it printed."""
    folder = tmp_path_factory.mktemp("swept")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", printed)
        run(folder, *GRID, "--activation=relu", "--num_replicates=2")
    return folder, printed.getvalue()


def test_a_cell_holds_the_numbers_of_the_same_run_alone(swept, tmp_path):
    folder, _ = swept
    argv = [*tiny.ARGV, "--seq_len=2", "--activation=relu", "--num_replicates=2", f"--workdir={tmp_path}"]
    main.main(["main", *argv])
    alone = json.loads((tmp_path / "result.json").read_text())
    (cell,) = (c for c in lines(folder) if c["settings"] == {"seq_len": 2, "model": "dense"})
    for key in ("config", "forecast", "final", "budget"):
        assert cell[key] == alone[key], key
    assert cell["ci95"] == {"final": alone["ci95"]["final"]}
    assert cell["verdict"] == {"cause": alone["verdict"]["cause"]}
    assert cell["seconds"] > 0


def test_a_cell_that_cannot_run_is_recorded_and_ends_nothing(swept):
    folder, _ = swept
    failed = [cell for cell in lines(folder) if "error" in cell]
    assert [cell["settings"] for cell in failed] == [{"seq_len": n, "model": "gru"} for n in (1, 2)]
    for cell in failed:
        assert "activation=relu" in cell["error"]
        assert cell["config"]["num_samples"] == tiny.SETTINGS["num_samples"]
        assert set(cell) == {"settings", "config", "error", "seconds"}


def test_the_result_holds_the_grid_the_environment_and_the_cells(swept):
    folder, _ = swept
    result = json.loads((folder / "result.json").read_text())
    assert list(result) == ["config", "environment", "cells"]
    assert result["config"] == json.loads((folder / "config.json").read_text())
    assert result["config"]["seq_len"] == [1, 2]
    assert result["cells"] == lines(folder)
    assert result["environment"]["seconds"]["cells"] == sum(cell["seconds"] for cell in result["cells"])
    files = {path.name for path in folder.iterdir()} - {".lock"}
    assert files == {"config.json", "sweep.jsonl", "result.json", "report.html", "sweep.png", "loss_by_length.png"}
    assert files <= set(workdir.FILES)


def test_piped_output_is_a_line_for_each_cell_and_the_result_last(swept):
    folder, printed = swept
    *cells, page, last = printed.splitlines()
    assert (page, last) == (f"to read: {folder / 'report.html'}", str(folder / "result.json"))
    assert [line.split("  ")[:3] for line in cells] == [
        [f"cell {n + 1}/4", f"seq_len={length}", f"model={model}"]
        for n, (length, model) in enumerate(itertools.product([1, 2], ["dense", "gru"]))
    ]
    for line, cell in zip(cells, lines(folder), strict=True):
        if "error" in cell:
            assert cell["error"] in line
        else:
            assert f"val loss {cell['final']['val_loss']:.4f}" in line
            assert cell["verdict"]["cause"] in line


def test_json_prints_the_result_and_nothing_else(runs, tmp_path, capsys):
    result = run(tmp_path, *GRID, "--json")
    out, err = capsys.readouterr()
    assert json.loads(out) == result
    assert err.count("cell ") == 4


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (NotFiniteError("the loss is not finite in epoch 1"), "the loss is not finite in epoch 1"),
        (MemoryError("too much"), "MemoryError: too much"),
        (RuntimeError("RESOURCE_EXHAUSTED: 4 GiB"), "RuntimeError: RESOURCE_EXHAUSTED: 4 GiB"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_ends_a_cell_is_recorded(runs, monkeypatch, tmp_path, error, said):
    fine = experiment.run

    def fail_once(config, *args, **kwargs):
        if config.seq_len == 1:
            raise error
        return fine(config, *args, **kwargs)

    monkeypatch.setattr(experiment, "run", fail_once)
    cells = run(tmp_path, "--seq_len=1,2")["cells"]
    assert [cell.get("error") for cell in cells] == [said, None]


@pytest.mark.parametrize("error", [CheckpointError("no room"), OSError(28, "No space left on device")])
def test_a_disk_that_cannot_be_written_ends_the_sweep_and_is_no_outcome(monkeypatch, capsys, tmp_path, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(experiment, "run", fail)
    code, _, err = end(monkeypatch, capsys, f"--workdir={tmp_path}", *GRID)
    assert (code, err.count("\n")) == (2, 1)
    assert lines(tmp_path) == []


# --- Taken up again ---


def test_a_sweep_that_was_killed_goes_on_and_repeats_nothing(runs, monkeypatch, tmp_path, capsys):
    fine = experiment.run

    def killed(config, *args, **kwargs):
        if len(runs) == 2:
            raise KeyboardInterrupt
        return fine(config, *args, **kwargs)

    monkeypatch.setattr(experiment, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, *GRID)
    assert len(lines(tmp_path)) == 2
    assert not (tmp_path / "result.json").exists()
    monkeypatch.setattr(experiment, "run", fine)
    capsys.readouterr()
    result = run(tmp_path, "--resume")  # the grid is that of the folder
    assert [(c.seq_len, c.model) for c in runs] == list(itertools.product([1, 2], ["dense", "gru"]))
    assert [cell["settings"]["seq_len"] for cell in result["cells"]] == [1, 1, 2, 2]
    assert capsys.readouterr().out.startswith("2 of 4 cells are done already")
    assert run(tmp_path, "--resume", *GRID) == result
    assert len(runs) == 4


@pytest.mark.parametrize("keep", [1, 40, -1], ids=["a byte", "a part", "all but the newline"])
def test_a_line_that_was_torn_is_run_again(runs, tmp_path, keep):
    whole = run(tmp_path, *GRID)
    path = tmp_path / "sweep.jsonl"
    first, second, *_ = path.read_text().splitlines()
    path.write_text(f"{first}\n{second[:keep]}")
    result = run(tmp_path, "--resume")
    assert len(runs) == 4 + 3
    assert lines(tmp_path) == result["cells"]
    for now, before in zip(result["cells"], whole["cells"], strict=True):
        assert now | {"seconds": 0} == before | {"seconds": 0}


@pytest.mark.parametrize(
    "damage", ["{}", "[]", "5", '{"settings": 1}', '{"settings": {"seq_len": 1, "model": "dense"}}']
)
def test_a_line_that_is_no_cell_is_dropped_and_the_cell_run_again(runs, tmp_path, damage):
    whole = run(tmp_path, *GRID)
    path = tmp_path / "sweep.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([damage, *others]) + "\n")
    result = run(tmp_path, "--resume")
    assert len(runs) == 4 + 1
    assert lines(tmp_path) == result["cells"]
    assert result["cells"][-1] | {"seconds": 0} == json.loads(first) | {"seconds": 0}
    assert result["cells"][:-1] == whole["cells"][1:]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "lists no grid"),
        ([["own_step"]], "labels=['own_step']: expected a name"),
        (["own_stp"], "did you mean own_step?"),
    ],
    ids=str,
)
def test_a_stored_grid_that_is_damaged_is_refused_in_one_line(runs, monkeypatch, capsys, tmp_path, values, said):
    run(tmp_path, *GRID)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"labels": values}))
    monkeypatch.setattr(sys, "argv", ["sweep", f"--workdir={tmp_path}", "--resume"])
    with pytest.raises(SystemExit) as ended:
        command.run_command(sweep.main, "")
    err = capsys.readouterr().err
    assert (ended.value.code, err.count("\n"), said in err) == (2, 1, True)
    assert len(lines(tmp_path)) == 4


def test_another_grid_is_refused_with_what_differs(runs, monkeypatch, capsys, tmp_path):
    run(tmp_path, *GRID)
    before = (tmp_path / "config.json").read_bytes()
    code, _, err = end(monkeypatch, capsys, f"--workdir={tmp_path}", "--resume", "--seq_len=1,3", "--seed=1")
    assert (code, err.count("\n")) == (2, 1)
    assert "holds another sweep: seq_len (stored [1, 2], given [1, 3]), seed (stored [0], given [1])" in err
    assert (tmp_path / "config.json").read_bytes() == before
    assert len(runs) == 4


def test_a_folder_in_use_is_neither_taken_nor_taken_for_another(runs, monkeypatch, capsys, tmp_path):
    run(tmp_path / "sweep", *GRID)
    main.main(["main", *tiny.ARGV, f"--workdir={tmp_path / 'main'}", "--forecast_only"])
    for folder, flag, said in (
        ("sweep", "--seq_len=1", "holds a run"),
        ("main", "--seq_len=1", "holds a run"),
        ("main", "--resume", "holds no sweep to resume"),
    ):
        code, _, err = end(monkeypatch, capsys, f"--workdir={tmp_path / folder}", flag)
        assert (code, said in err, err.count("\n")) == (2, True, 1)
    assert len(run(tmp_path / "sweep", "--seq_len=3", "--overwrite")["cells"]) == 1
    assert not (tmp_path / "sweep" / "loss_by_length.png").exists()


def test_a_signal_ends_the_epoch_in_hand_and_the_cell_itself_goes_on(monkeypatch, capsys, tmp_path):
    fine, epochs = experiment.run, []

    def interrupted(config, watch, **kwargs):
        def watch_and_stop(what, value):
            watch(what, value)
            if what == "epoch":
                epochs.append((config.seq_len, value["epoch"]))
                if epochs[-1] == (2, 2):
                    os.kill(os.getpid(), signal.SIGTERM)

        return fine(config, watch_and_stop, **kwargs)

    argv = ["--seq_len=1,2", "--num_epochs=4"]
    whole = run(tmp_path / "whole", *argv)
    monkeypatch.setattr(experiment, "run", interrupted)
    folder = tmp_path / "it's stopped"
    capsys.readouterr()
    code, _, err = end(monkeypatch, capsys, f"--workdir={folder}", *argv)
    assert code == 75
    assert "stopped after epoch 2 of 4 of cell 2 of 2" in err
    assert err.splitlines()[-1].endswith(f"--resume '--workdir={tmp_path}/it'\"'\"'s stopped'")
    assert (folder / workdir.CHECKPOINTS).exists()
    result = run(folder, "--resume", *argv)
    assert epochs == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (2, 3), (2, 4)]
    assert [cell["final"] for cell in result["cells"]] == [cell["final"] for cell in whole["cells"]]
    assert not (folder / workdir.CHECKPOINTS).exists()


def test_a_signal_between_two_cells_is_met_too(runs, monkeypatch, capsys, tmp_path):
    fine = experiment.run

    def interrupted(config, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return fine(config, *args, **kwargs)

    monkeypatch.setattr(experiment, "run", interrupted)
    code, _, err = end(monkeypatch, capsys, f"--workdir={tmp_path}", *GRID)
    assert code == 75
    assert "stopped before cell 2 of 4" in err
    assert len(lines(tmp_path)) == 1


# --- What it shows ---


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_table_is_live_and_stays_whole_at_the_end(swept, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("LINES", "10")
    records = lines(swept[0]) * 10
    terminal = Terminal()
    with SweepReport([record["settings"] for record in records], records[:-1], terminal) as report:
        report.watch(39, "model", [])
        report.watch(39, "forecast", {"forecast": {"kind": "exact", "family_loss": 0.25, "standard_error": 0}})
        report.watch(39, "epoch", {"epoch": 7, "val_loss": 0.3, "val_accuracy": 0.9})
        report.live.refresh()
        assert "epoch 7" in terminal.getvalue()
        assert "0.2500" in terminal.getvalue()
        report.ended(39, records[-1])
    last = terminal.getvalue().rpartition("40 of 40 cells")[2]
    assert len(re.findall(r"^ +[12] +dense .* (healthy|unseen_steps|optimisation)", last, re.M)) == 20
    assert len(re.findall(r"^ +[12] +gru .* error: activation=relu", last, re.M)) == 20


@pytest.mark.parametrize(
    ("width", "missing"), [(120, []), (84, ["val accuracy"]), (66, ["val accuracy", "seconds"])]
)
def test_a_narrow_terminal_shows_fewer_columns(swept, monkeypatch, width, missing):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    records = [record for record in lines(swept[0]) if "error" not in record]
    terminal = Terminal()
    with SweepReport([record["settings"] for record in records], records, terminal):
        pass
    shown = terminal.getvalue()
    assert [column for column in ("val accuracy", "seconds") if column not in shown] == missing
    for record in records:
        assert f"{record['final']['val_loss']:.4f} ± " in shown


def cell(settings, forecast, loss, ci95=None, **changes):
    """A record with these numbers.  changes: of `config`."""
    config = {"seq_len": 2, "labels": "last_step", "model": "dense", "vary": "all"} | settings | changes
    return {
        "settings": settings,
        "config": config,
        "forecast": {"kind": "exact", "family_loss": forecast, "standard_error": 0.0},
        "final": {"val_loss": loss, "val_loss_se": loss / 10, "val_accuracy": 0.5},
        "ci95": ci95 and {"final": {"val_loss": ci95}},
    }


def grid_of(lengths, rules, models, loss=lambda n: 3e-5 * 4**n, **others):
    """A made-up sweep; the forecasts are 0 and what the outcome is above."""
    cells = []
    names = ["seq_len", "labels", "model", *others]
    for n, values in enumerate(itertools.product(lengths, rules, models, *others.values())):
        outcome = min(loss(n % 9), 0.7)
        forecast = 0.0 if n % 2 else 0.9 * outcome
        cells.append(
            cell(dict(zip(names, values, strict=True)), forecast, outcome, [0.9 * outcome, 1.1 * outcome])
        )
    return {"cells": cells}


SIX = ["dense", "gru", "bidirectional_gru", "causal_conv", "attention", "causal_attention"]
GRIDS = {
    "one": grid_of([2], ["last_step"], ["dense"]),
    "issue": grid_of([1, 2, 3, 5, 8], ["last_step", "own_step"], ["dense", "gru", "bidirectional_gru"]),
    "rules": grid_of([2, 4, 8, 16, 32, 64, 1024], list(LABEL_RULES), SIX),
    "rates": grid_of([2, 3], ["parity"], SIX[-2:], learning_rate=[1e-3, 0.01], hidden_sizes=[[10, 10], [32]]),
    "close": grid_of([10, 11, 12, 100], ["parity"], ["gru"]),
    "large": grid_of([1, 2], ["parity"], ["gru"], lambda n: 0.7)
    | {"cells": [cell({}, 0.5, 40.0), cell({}, 0.5, 1e-7)]},
}


@pytest.mark.parametrize("name", GRIDS)
def test_no_text_overlaps_another_or_leaves_the_figure(name):
    for stem, figure in sweep_figure.draw(GRIDS[name]).items():
        boxes = texts(figure)
        width, height = figure.get_size_inches() * figure.dpi
        for (one, box), (other, its_box) in itertools.combinations(boxes, 2):
            assert not box.overlaps(its_box), (stem, one, other)
        for text, box in boxes:
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0, (stem, text)


def drawn(axes):
    """The points on axes: `{series: {(x, y), ...}}`."""
    points = {}
    for line in axes.lines:
        if line.get_gid():
            points.setdefault(line.get_gid(), set()).update(zip(*line.get_data(), strict=True))
    return points


@pytest.mark.parametrize("name", ["issue", "rates"])
def test_every_cell_is_a_point_at_its_forecast_and_outcome(name):
    values = GRIDS[name]
    points = drawn(sweep_figure.draw(values)["sweep"].axes[0])
    expected = {(c["forecast"]["family_loss"], c["final"]["val_loss"]) for c in values["cells"]}
    assert set().union(*points.values()) == expected
    assert len(points) == {"issue": 3, "rates": 8}[name]
    if name == "rates":
        assert "attention, learning_rate=0.01, hidden_sizes=10,10" in points


def test_every_point_has_its_interval_and_none_reaches_below_zero():
    values = {"cells": [cell({}, 0.5, 0.6, [0.55, 0.65]), cell({}, 0.0, 1e-4, [-1e-4, 3e-4])]}
    axes = sweep_figure.draw(values)["sweep"].axes[0]
    ends = sorted(
        tuple(segment[:, 1]) for bars in axes.collections for segment in bars.get_segments() if len(segment)
    )
    assert [end for end in ends if end[0] != end[1]] == [pytest.approx((0, 3e-4)), pytest.approx((0.55, 0.65))]


@pytest.mark.parametrize(
    ("ci95", "vary", "expected"),
    [([0.5, 0.7], "all", (0.5, 0.7)), ([0.5, 0.7], "init", (0.4824, 0.7176)), (None, "all", (0.4824, 0.7176))],
)
def test_an_interval_takes_in_what_the_validation_sequences_add(ci95, vary, expected):
    assert sweep_figure.interval(cell({}, 0.5, 0.6, ci95, vary=vary)) == pytest.approx(expected)


def test_loss_by_length_draws_outcome_and_floor_of_every_model_and_rule():
    values = GRIDS["issue"]
    figure = sweep_figure.draw(values)["loss_by_length"]
    assert [axes.get_title() for axes in figure.axes] == ["labels: last_step", "labels: own_step"]
    for axes, rule in zip(figure.axes, ("last_step", "own_step"), strict=True):
        for model in ("dense", "gru", "bidirectional_gru"):
            mine = [c for c in values["cells"] if (c["config"]["labels"], c["config"]["model"]) == (rule, model)]
            outcome = [(c["config"]["seq_len"], c["final"]["val_loss"]) for c in mine]
            floor = [(c["config"]["seq_len"], c["forecast"]["family_loss"]) for c in mine]
            assert drawn(axes)[model] == set(outcome)
            lines_drawn = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
            assert outcome in lines_drawn
            assert floor in lines_drawn


def test_what_failed_or_has_no_forecast_is_left_out_and_said():
    values = grid_of([1, 2, 3], ["parity"], ["gru"])
    values["cells"][1] |= {"forecast": {"kind": None, "reason": "too long"}}
    values["cells"].append({"settings": {}, "config": {}, "error": "no"})
    drawings = sweep_figure.draw(values)
    for figure in drawings.values():
        assert any(text.get_text().startswith("2 of 4 cells failed or have no forecast") for text in figure.texts)
    assert len(drawn(drawings["sweep"].axes[0])["gru"]) == 2
    assert sweep_figure.draw({"cells": values["cells"][-1:]}) == {}
    assert set(sweep_figure.draw(GRIDS["one"])) == {"sweep"}


def test_forecasts_of_zero_stand_side_by_side_by_model():
    values = {"cells": [cell({"model": model}, 0.0, 1e-4) for model in ("dense", "gru")]}
    figure = sweep_figure.draw(values)["sweep"]
    FigureCanvasAgg(figure).draw()
    markers = [line for line in figure.axes[0].lines if line.get_gid() and len(line.get_xdata())]
    places = [line.get_transform().transform(line.get_xydata())[0] for line in markers]
    assert abs(places[0][0] - places[1][0]) > 5
    assert places[0][1] == places[1][1]
