"""The page: whole, well-formed, all of the result's numbers on it, and nothing of a user's taken for markup."""

import dataclasses
import json
import re
import shlex
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import test_diagnosis_report as diagnoses
import test_figures as runs
import tiny

from experiments import workdir
from experiments.flags import diagnose_flags, main_flags, settings_of, settings_of_grid, sweep_flags
from seqjax.config import Config
from seqjax.report import figures, markup, page_matrices, sweep_figure
from seqjax.report.console import number
from seqjax.report.diagnosis_console import RUNGS, best_curves
from seqjax.report.page import FIGURES, changed_command, page

COMMAND = "python -m experiments.main --seq_len=2"
HOSTILE = "<script>alert('1')</script> & \"quoted\" \x1b[31m \udcff </style> -->"
KEY = "M0 0h1v1h-1z"  # what a legend shows
ENVIRONMENT = {"python": "3.11.7", "backend": "cpu", "seconds": {"train": 1.25}}


class Read(HTMLParser):
    """A page, read strictly: what is opened is closed, in order."""

    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(html.replace("<wbr>", ""))  # where a line may break, which is no word and no element
        self.close()
        assert not self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
            if {"td", "th"} & set(self.open):
                self.cells[-1][-1] += data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    def row(self, first):
        """The cells of the one row that starts so."""
        (found,) = [cells for cells in self.cells if cells and cells[0] == first]
        return found


def read(values, command=COMMAND, svgs=None):
    """The page, read and with all that holds for every page looked at."""
    before = json.dumps(values)
    html = page(values, command, svgs)
    assert json.dumps(values) == before
    html.encode()  # no character that a file cannot hold
    found = Read(html)
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    named = [a[key] for _, a in found.tags for key in ("aria-labelledby", "href", "xlink:href") if key in a]
    assert {name.removeprefix("#") for name in named} <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= set(ids)
    assert not re.search(r"""(src|href|action|url)\s*[=(]\s*["']?(?!#|\s)[a-z/]""", html), "nothing from elsewhere"
    assert [len(found.all(tag)) for tag in ("script", "style", "h1", "main", "header")] == [1] * 5
    assert "None" not in found.text
    assert "nan" not in found.text.split()
    for tag, attributes in found.tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or "viewbox" in attributes
    return found


def of_run(name="default", **more):
    values = dict(runs.CASES[name])
    settings = {"model": "dense", "labels": "last_step", "seq_len": len(values["label_dependence"])}
    values["config"] = settings | values["config"]
    forecast = {"noise_entropy": 0.0, "reason": "the class of functions is not known"} | values["forecast"]
    verdict = {"cause": "unseen_steps", "text": "Steps cost 0.345 nats.", "remedies": []}
    last = values["history"]["val_loss"][-1]
    return values | {
        "forecast": forecast, "verdict": verdict, "environment": ENVIRONMENT,
        "final": {"val_loss": last}, **more,
    }  # fmt: skip


def of_diagnosis(name="original", **more):
    return diagnoses.CASES[name] | {"config": {"command": "diagnose", "data": "train.npz"}} | more


def cell(seq_len=2, model="dense", error=None, loss=0.61, **more):
    settings = {"seq_len": seq_len, "model": model}
    values = {"settings": settings, "config": {"labels": "last_step", "vary": "all", **settings}, "seconds": 1.5}
    if error is not None:
        return values | {"error": error}
    forecast = {"kind": "exact", "family_loss": 0.6032, "standard_error": 0.0, "prior_entropy": 0.69}
    final = {"val_loss": loss, "val_accuracy": 0.75, "val_loss_se": 0.003}
    return values | {"forecast": forecast, "final": final, "ci95": None, "verdict": {"cause": "healthy"}} | more


def of_sweep(cells):
    return {"config": {"seq_len": [1, 2], "model": ["dense"]}, "environment": ENVIRONMENT, "cells": cells}


def svgs(module, values):
    return {name: figures.svg(drawn).decode() for name, drawn in module.draw(values).items() if name in FIGURES}


# --- A run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in runs.WITH_BUDGET if name not in ("masked_step_one_epoch", "replicates")]
)
def test_every_number_of_a_run_is_on_its_page(name):
    values = of_run(name)
    found = read(values)
    budget = values["budget"]
    for term, value in budget.items():
        words = term.replace("_", " ")
        if term == "optimisation" and budget["model_family"] is None:
            words = "model family + optimisation"
        if value is not None:
            assert number(value) in found.row(words)
    for loss in (values["forecast"][key] for key in ("prior_entropy", "bayes_loss", "family_loss")):
        assert number(loss) in found.text
    assert "Verdict: unseen steps" in found.text
    assert number(values["history"]["val_loss"][-1]) in found.text
    assert found.all("pre")


@pytest.mark.parametrize("name", ["last_loss_null", "masked_step_one_epoch", "zeros_and_gaps"])
def test_what_is_null_is_left_out_or_a_dash(name):
    values = of_run(name)
    if name == "masked_step_one_epoch":
        values["per_step"] = {"val_loss": [None, 0.5, 0.5]}
        assert read(values).row("0") == ["0", "-"]
    assert read(values).text


@pytest.mark.parametrize("num_steps", [1, 2, 16, 64, 65, 256])
def test_matrices_at_all_lengths(num_steps):
    values = of_run(label_dependence=runs.last(num_steps), receptive_field=runs.own(num_steps))
    found = read(values)
    walked = [svg for svg in found.all("svg") if svg.get("role") == "application"]
    boxes = [box for box in found.all("div") if "data-needs" in box]
    assert len(walked) == 2 * (num_steps <= page_matrices.MAX_WALKED)
    assert len(boxes) == (num_steps <= page_matrices.MAX_WALKED)
    if boxes:
        assert boxes[0]["data-needs"] == " ".join(["0" * (num_steps - 1) + "1"] * num_steps)
        assert boxes[0]["data-sees"].split()[0] == "1" + "0" * (num_steps - 1)
        assert boxes[0]["data-scored"] == "1" * num_steps
        n = num_steps - 1
        assert f"label {n} needs step {n}; its output sees step {n}" in found.text
    assert all(svg.get("aria-label") for svg in found.all("svg") if "matrix" in (svg.get("class") or "").split())
    cells = [p["d"] for p in found.all("path") if p.get("class") == "cell missing" and p["d"] != KEY]
    assert len(cells) == (2 if num_steps > 1 else 0)
    if num_steps == 1:
        assert "Every output sees all that its label is known to need." in found.text
    else:
        told = "Label 0 needs a step" if num_steps == 2 else f"Labels 0 to {num_steps - 2} need steps"
        assert told in found.text


def test_a_matrix_is_its_cells():
    kinds = [["yes", "no", "no"], ["missing", "missing", "unknown"]]
    found = Read(markup.matrix("m", "cells", kinds, interactive=False))
    paths = {path["class"]: path["d"] for path in found.all("path") if "cell" in path.get("class", "")}
    assert paths == {
        "cell yes": "M0 0h1v1h-1z", "cell no": "M1 0h2v1h-2z",
        "cell missing": "M0 1h2v1h-2z", "cell unknown": "M2 1h1v1h-1z",
    }  # fmt: skip
    assert [path["fill"] for path in found.all("path") if "fill" in path] == ["url(#m-missing)", "url(#m-unknown)"]


def test_steps_that_are_not_scored_are_never_missing():
    found = read(of_run("last_output_only"))
    (box,) = [box for box in found.all("div") if "data-scored" in box]
    assert box["data-scored"] == "0" * 63 + "1"
    assert "Label 63 needs steps that its output does not see: 63 pairs of label and step, of 4,096." in found.text
    assert "yes, not scored" in found.text


def test_a_forecast_that_is_a_bound_or_refused():
    found = read(of_run("lower_bound"))
    assert any(cells[1].startswith("≥ 0.4410 ± ") for cells in found.cells if cells[0] == "This model")
    assert "A lower bound: the class of functions is not known." in found.text
    left_out = ("label_dependence", "verdict", "budget")
    refused = {name: value for name, value in of_run().items() if name not in left_out}
    refused["forecast"] = {"kind": None, "reason": "no forecast: seq_len=600 is above 512"}
    found = read(refused)
    assert "no forecast: seq_len=600 is above 512" in found.text
    assert "Where the loss went" not in found.text


def test_a_real_run_and_its_forecast_alone():
    values = tiny.run().values
    found = read(values, COMMAND)
    for step in range(2):
        row = found.row(str(step))
        for column in ("val_loss", "bayes_predictor_loss", "val_accuracy", "train_loss", "train_accuracy"):
            assert number(values["per_step"][column][step]) in row
    assert number(values["final"]["val_loss"]) in found.row("all")
    assert number(values["final"]["val_sequence_accuracy"]) in found.text
    for remedy in values["verdict"]["remedies"]:
        assert number(remedy["reachable_loss"]) in found.text
        assert changed_command(COMMAND, remedy["change"]) in found.text
    measured = ("history", "final", "per_step", "budget", "ci95")
    alone = read({name: value for name, value in values.items() if name not in measured})
    assert "Forecast" in alone.text
    assert "Where the loss went" not in alone.text


def test_replicates_have_intervals_and_each_its_row():
    values = tiny.run(num_replicates=3).values
    found = read(values)
    low, high = values["ci95"]["final"]["val_loss"]
    ends = f"{number(low)} to {number(high)}"
    assert found.row("val loss")[1:3] == [number(values["final"]["val_loss"]), ends]
    assert found.row("validation loss")[-1] == ends
    assert found.row("2")[1] == number(values["replicates"]["final"]["val_loss"][2])
    assert ends in found.row("all")
    assert any("band" in path.get("class", "") for path in found.all("path"))
    init = read(values | {"config": values["config"] | {"vary": "init"}})
    assert "for these data only" in init.text


def test_other_lengths_and_many_steps():
    at = {
        "seq_len": 8,
        "val_loss": 0.7,
        "val_loss_se": 0.01,
        "val_accuracy": 0.5,
        "forecast": {"family_loss": None},
    }
    found = read(of_run("gru_last_step", lengths=[at], per_step={"val_loss": [0.5] * 40}))
    assert found.row("8 steps") == ["8 steps", "0.7000", "0.0100", "0.5000", "-"]
    assert "All 40 steps" in found.text


def test_no_remedy_no_list():
    assert "What would help" not in read(of_run()).text


# --- Charts ------------------------------------------------------------------------------------------------------


def test_a_chart_puts_losses_where_they_belong():
    axis = markup.heights([0.2, 0.8], [0.5])
    assert (axis.log, axis(axis.low), axis(axis.high)) == (False, 100.0, 0.0)
    assert axis(0.5) == 50.0
    assert markup.heights([], []).ticks()
    log = markup.heights([1.0, 1e-4], [0.0, 0.5])
    assert log.log
    assert log(1e-2) == pytest.approx(50, abs=0.01)
    assert log.ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])
    chart = markup.chart(
        "t", [1, 2, 3], "epoch", [markup.Line("val", "v", [1.0, None, 1e-4])], [("f", "floor", 0.0)]
    )
    assert "floor, below this picture" in chart
    assert re.search(r'd="M0\.0 [\d.]+h0M100\.0 [\d.]+h0" class="line val"', chart)


def test_long_curves_are_thinned_and_keep_their_ends():
    y: list[Any] = np.linspace(1, 0.5, 50_001).tolist()
    chart = markup.chart("t", range(50_001), "epoch", [markup.Line("val", "v", y)], [])
    (path,) = re.findall(r'd="([^"]+)" class="line val"', chart)[:1]
    assert path.count("L") <= markup.MAX_POINTS + 1
    assert path.startswith("M0.0 ")
    assert "L100.0 " in path


# --- A diagnosis -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", diagnoses.CASES)
def test_every_number_of_a_diagnosis_is_on_its_page(name):
    values = of_diagnosis(name)
    found = read(values)
    for entry in values["ladder"]:
        if entry["loss"] is not None:
            assert number(entry["loss"]) in found.text
            assert number(entry["ci95"][0]) in found.text
    for finding in values["findings"]:
        assert finding["cause"].replace("_", " ") in found.text
        assert all(part in found.text for part in (finding["evidence"], finding["remedy"]) if part)
        assert all(number(end) in found.text for end in finding["ci95"] or ())
    for note in values["data"]["notes"]:
        assert note["where"] in found.text
    if values["observed"]:
        assert number(values["observed"]["loss"]) in found.text
    assert values["sentence"] in found.text
    assert "Report card" not in found.text


@pytest.mark.parametrize("name", diagnoses.CASES)
def test_the_learning_curves_have_a_line_for_each_rung(name):
    found = read(of_diagnosis(name))
    assert "Would more data help?" in found.text
    shown = 0
    for entry in best_curves(diagnoses.CASES[name]["ladder"]):
        family = f", {entry['family']}" if entry["family"] else ""
        assert f"{RUNGS[entry['rung']]}{family}: {number(entry['loss'])}" in found.text
        assert (f", then about {number(entry['twice_the_data'])}" in found.text) or entry["settled"]
        drawn = [path for path in found.all("path") if path.get("class") == f"line rung {entry['rung']}"]
        assert drawn[0]["d"].count("L") == len(entry["curve"]["loss"]) - 1
        (twice,) = (path for path in found.all("path") if path.get("class") == f"line rung {entry['rung']} twice")
        assert "L100.0 " in twice["d"]
        shown += 1
    assert shown


def test_sequences_are_shown_on_a_log_scale():
    lines = [markup.Line("rung all", "", [0.6, 0.5, 0.4])]
    chart = markup.chart("t", [1000, 2000, 4000], "sequences", lines, [], log_x=True)
    (path,) = re.findall(r'd="([^"]+)" class="line rung all"', chart)
    assert re.findall(r"[ML]([\d.]+) ", path) == ["0.0", "50.0", "100.0"]
    assert "1,000" in chart
    assert 'class="swatch"' not in chart


def test_a_diagnosis_with_a_model_and_its_controls():
    row = {"control": "own_feature", "loss": 0.0123, "reachable": 0.0, "chance": 0.69, "passed": True,
           "ci95": [0.01, 0.02], "text": ""}  # fmt: skip
    values = of_diagnosis(
        controls=[row, row | {"control": "padding", "passed": False, "text": "Never learnt."},
                  row | {"control": "next_step", "loss": None, "ci95": None, "passed": None, "text": "Left out."}],
        model={"outputs": {"text": "float32 [9, 2, 2]"}, "rung": "own_step", "family": "linear", "loss": 0.6},
        receptive_field=[[True, None], [False, True]],
        budget={"unseen_steps": 0.4, "optimisation": 0.2}, final={"val_loss": 0.6},
        history={"epoch": [1, 2], "train_loss": [0.7, 0.6]},
    )  # fmt: skip
    found = read(values)
    assert found.row("own feature") == ["own feature", "passed", "0.0123", "0.0000", "0.6900", "0.0100 to 0.0200"]
    assert found.row("paddingNever learnt.")[1] == "failed"
    assert found.row("next stepLeft out.")[1:3] == ["cannot tell", "-"]
    assert "It stands on the rung: own step, linear; loss 0.6000" in found.text
    assert "training 0.6000 nats" in found.text


def test_one_label_for_a_sequence_is_one_row():
    found = read(of_diagnosis("one_label"))
    (box,) = [box for box in found.all("div") if "data-needs" in box]
    assert (box["data-needs"], box["data-first"], box["data-scored"]) == ("100?0111", "7", "1")
    assert json.loads(box["data-rise"])[0][3] is None


# --- A sweep -----------------------------------------------------------------------------------------------------


def test_a_sweep_tells_its_cells_and_why_others_failed():
    error = "ValueError: two\nlines <b>bold</b>"
    values = of_sweep([cell(1), cell(2, loss=0.6532), cell(2, "gru", error)])
    found = read(values, svgs=svgs(sweep_figure, values))
    assert "2 cells ended, 1 failed." in found.text
    assert "median of 0.0284, at most 0.0500 nats" in found.text
    assert found.cells[1][:5] == ["1", "dense", "0.6032", "0.6100", "0.7500"]
    at = found.words.index(error)
    assert found.words[at - 1] == "seq_len=2, model=gru"
    assert [found.text.count(title) for title in ("Outcome against forecast", "Loss by length")] == [2, 2]


def test_a_sweep_of_failed_cells_alone():
    found = read(of_sweep([cell(1, error="out of memory")]))
    assert "0 cells ended, 1 failed." in found.text
    assert "Outcome" not in found.text


# --- What users write --------------------------------------------------------------------------------------------


def planted(value):
    """The same result, every text in it hostile but those that the kit looks up."""
    if isinstance(value, dict):
        kept = ("kind", "rung", "family", "reading", "sufficient_rung", "sufficient_family", "labels_per", "cause")
        return {key: item if key in kept else planted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [planted(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.mark.parametrize(
    "values", [of_run(), of_diagnosis(), of_sweep([cell(), cell(error="x")])], ids=["run", "diagnosis", "sweep"]
)
def test_hostile_names_stay_text(values):
    found = read(planted(values), f"python {HOSTILE}")
    assert "<script>alert('1')</script>" in found.text
    assert "\\x1b[31m \\udcff" in found.text
    assert "<h1>" + "<" not in page(planted(values), COMMAND)


def test_attributes_are_escaped_and_markup_is_not_twice():
    made = markup.el("p", "a < b", markup.el("b", "&"), title='"><i>', hidden=True, lang=None)
    assert made == '<p title="&quot;&gt;&lt;i&gt;" hidden>a &lt; b<b>&amp;</b></p>'


def test_figures_of_a_hostile_sweep_stay_text():
    values = of_sweep([cell(model=HOSTILE.replace("\udcff", "").replace("\x1b", "")), cell(1)])
    read(values, svgs=svgs(sweep_figure, values))


# --- Commands ----------------------------------------------------------------------------------------------------

SETTINGS: list[dict[str, Any]] = [
    {},
    {"seq_len": 3, "hidden_sizes": (4, 8), "step_position": True, "learning_rate": 3e-4, "eval_seq_len": ()},
    {"model": "gru", "eval_seq_len": (4, 8), "weight_decay": 1e-5, "optimizer": "adamw", "remat": False},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_command_repeats_the_run(settings):
    config = Config(**settings)
    flags = main_flags(["main"])[1]
    line = dataclasses.replace(flags, mesh="data:1", save_predictions=True).repeat_line("m", settings_of(config))
    again, flags = main_flags(shlex.split(line)[2:])
    assert (again, flags.mesh, flags.save_predictions, flags.workdir) == (config, "data:1", True, None)


def test_the_command_repeats_a_sweep_and_a_diagnosis():
    argv = [
        "--hidden_sizes=4,8;2",
        "--step_position=true,false",
        "--seq_len=1,2",
        "--eval_seq_len=4,8",
        "--remat=true",
    ]
    grid, flags = sweep_flags(["sweep", *argv])
    assert sweep_flags(shlex.split(flags.repeat_line("m", settings_of_grid(grid)))[2:])[0] == grid
    argv = ["--data=my arrays/a'b.npz", "--nobatch_first", "--linear", "--observed_loss=0.6053"]
    given, flags = diagnose_flags(["diagnose", *argv])
    assert diagnose_flags(shlex.split(flags.repeat_line("m", given))[2:])[0] == given


@pytest.mark.parametrize(
    ("change", "after"),
    [
        ("--model=gru", "python -m main --hidden_sizes=4 --step_position --model=gru"),
        ("--model=gru without --hidden_sizes", "python -m main --step_position --model=gru"),
        ("--hidden_sizes=8", "python -m main --model=dense --step_position --hidden_sizes=8"),
        ("--activation=relu", "python -m main --model=dense --hidden_sizes=4 --step_position --activation=relu"),
    ],
)
def test_a_remedy_changes_the_command(change, after):
    assert changed_command("python -m main --model=dense --hidden_sizes=4 --step_position", change) == after


def test_remedies_of_a_run_are_commands_that_parse():
    config = tiny.config(hidden_sizes=(4,), activation="none")
    line = main_flags(["main"])[1].repeat_line("experiments.main", settings_of(config))
    for remedy in tiny.run_of(config).values["verdict"]["remedies"]:
        changed = main_flags(shlex.split(changed_command(line, remedy["change"]))[2:])[0]
        assert changed != config
        assert dataclasses.replace(changed, **{f: getattr(config, f) for f in SAME}) == changed


SAME = ("num_features", "batch_size", "seed", "seq_len")


# --- The command's files -----------------------------------------------------------------------------------------


def test_a_run_leaves_a_page_that_overwrite_replaces(main_command):
    ended = main_command("--workdir=run", *tiny.ARGV)
    assert ended.code == 0
    html = (main_command.home / "run" / workdir.PAGE).read_text("utf-8")
    assert "python -m experiments.main --num_features=9" in Read(html).text
    assert workdir.PAGE in workdir.FILES
    assert main_command("--workdir=forecast", "--forecast_only", *tiny.ARGV).code == 0
    alone = Read((main_command.home / "forecast" / workdir.PAGE).read_text("utf-8"))
    assert "--forecast_only" in alone.text
    assert "Curves" not in alone.text
