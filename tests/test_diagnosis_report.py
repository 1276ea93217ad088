"""A diagnosis on the console and as figures: what is printed and drawn is what the result says."""

import io
import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from seqjax.report import figures
from seqjax.report.diagnosis_console import RUNGS, dependence_in_words, show
from seqjax.report.diagnosis_figures import draw

ROOT = Path(__file__).parents[1]

ORIGINAL = {
    "nothing": 0.690,
    "position": 0.690,
    "own_step": (0.6033, 0.5600),
    "own_step_and_position": (0.603, 0.345),
    "past": (0.3453, 0.3451),
    "future": (0.0012, 0.001),
    "all": (0.001, 0.001),
}


def entry(rung, family, loss, half=0.008, unsettled=None, num_sequences=5000, reason=None, noise=0.0):
    """One entry of a ladder; `unsettled`: where it may fall to."""
    if loss is None:
        return {
            "rung": rung,
            "family": family,
            "loss": None,
            "ci95": None,
            "settled": True,
            "twice_the_data": None,
            "curve": None,
            "reason": reason,
        }
    low = max(loss - half, 0.0) if unsettled is None else unsettled
    numbers = [num_sequences // 4, num_sequences // 2, num_sequences]
    extra = 0.0 if unsettled is None else (loss - low) / 3
    return {
        "rung": rung,
        "family": family,
        "loss": loss,
        "ci95": [low, loss + half],
        "settled": unsettled is None,
        "twice_the_data": loss - extra,
        "curve": {"num_sequences": numbers, "loss": [loss + 3 * extra + noise, loss + extra, loss]},
        "reason": None,
    }


def ladder(losses, unsettled=(), half=0.008, reason=None, **more):
    """Entries of a ladder from losses by rung, (linear, nonlinear) where it has families; `unsettled` by rung
    and family."""
    unsettled = dict(unsettled)
    return [
        entry(rung, family, loss, half, unsettled.get((rung, family)), reason=reason, **more)
        for rung in RUNGS
        for family, loss in (
            zip(("linear", "nonlinear"), losses[rung], strict=True)
            if isinstance(losses[rung], tuple)
            else [(None, losses[rung])]
        )
    ]


def rises(matrix, size=0.345):
    loss = [[None if needed is None else size * needed for needed in row] for row in matrix]
    ci95 = [[None if rise is None else [rise - 0.01, rise + 0.01] for rise in row] for row in loss]
    return {"loss": loss, "ci95": ci95}


def diagnosis(losses=ORIGINAL, matrix=None, **more):
    values = {
        "data": {
            "num_sequences": 5000,
            "seq_len": 2 if matrix is None else len(matrix),
            "num_features": 100,
            "num_classes": 2,
            "left_out": 0,
            "labels_per": "step",
            "notes": [],
        },
        "ladder": ladder(losses),
        "sufficient_rung": "future",
        "sufficient_family": "nonlinear",
        "sentence": "The labels need later steps: own step 0.560, earlier 0.345, all 0.001.",
        "label_dependence": matrix,
        "dependence_rise": None if matrix is None else rises(matrix),
        "observed": None,
        "curve": None,
        "findings": [],
        "verdict": {"cause": "healthy", "text": "Nothing to mend.", "remedies": []},
        "environment": {"seconds": {"load": 0.1, "facts": 0.5, "ladder": 2.5, "dependence": 0.3}},
    }
    return values | more


def observed(loss=0.6053, rung: Any = "own_step", family: Any = "linear", reading="on_rung", **more):
    text = "A model that sees its own step alone, and is linear, stops here."
    return {
        "loss": loss,
        "val_loss": None,
        "rung": rung,
        "family": family,
        "reading": reading,
        "text": text,
    } | more


FINDINGS = [
    {
        "cause": "unseen_steps",
        "value": 0.345,
        "ci95": [0.33, 0.36],
        "evidence": "With later steps the loss falls to 0.001; the observed loss stands where a model must stop "
        "that sees its own step alone.",
        "remedy": "A model that reads backwards or both ways, or labels that belong to their own step.",
    },
    {
        "cause": "labels_repeat_one_step",
        "value": 2,
        "ci95": None,
        "evidence": "All labels are equal.",
        "remedy": None,
    },
]
NOTES = [
    {"note": "constant_feature", "value": 3, "where": "features 7, 8, 9"},
    {
        "note": "labels_constant_in_sequence",
        "value": 1,
        "where": "every sequence has one label at all of its steps",
    },
]
THE_ORIGINAL = diagnosis(
    matrix=[[False, True], [False, True]],
    data=diagnosis()["data"] | {"notes": NOTES},
    observed=observed(val_loss=0.6042),
    curve={
        "reading": "still_falling",
        "text": "The last epoch took off 0.002 nats.",
        "losses": [0.69, 0.61, 0.6053],
    },
    findings=FINDINGS,
    verdict={"cause": "unseen_steps", "text": "Later steps are not seen.", "remedies": []},
)
SEQUENCE = diagnosis()["data"] | {"labels_per": "sequence", "seq_len": 8}
UNSETTLED = {("past", "nonlinear"): 0.02, ("all", "linear"): 0.25, ("all", "nonlinear"): 0.05}
WITHOUT_FAMILIES = {rung: loss if isinstance(loss, float) else (None, None) for rung, loss in ORIGINAL.items()}


def near(num_steps, unknown, seed=0):
    """Labels that need up to two steps on either side; a part of the pairs is not known."""
    rng = np.random.default_rng(seed)
    hidden = rng.random((num_steps, num_steps)) < unknown
    return [[None if hidden[t, s] else abs(t - s) < 3 for s in range(num_steps)] for t in range(num_steps)]


def scattered(matrix):
    """Rises of all sizes; those of steps that are not needed around 0."""
    rng = np.random.default_rng(1)
    values = rises(matrix)
    values["loss"] = [
        [None if rise is None else float(rise * rng.random() if rise else 0.004 * rng.normal()) for rise in row]
        for row in values["loss"]
    ]
    return values


def random_matrix(matrix, **more):
    return diagnosis(matrix=matrix, dependence_rise=scattered(matrix), **more)


CASES = {
    "original": THE_ORIGINAL,
    "one_step": diagnosis(
        {rung: loss if isinstance(loss, float) else (0.3, 0.01) for rung, loss in ORIGINAL.items()},
        [[True]],
        sufficient_rung="own_step",
        observed=observed(0.002, None, None, "below_floor"),
    ),
    "five_with_gaps": random_matrix(near(5, 0.3), observed=observed(0.345, "own_step_and_position", "nonlinear")),
    "unsettled": random_matrix(
        np.tri(16, dtype=bool).tolist(),
        ladder=ladder(
            ORIGINAL | {"past": (0.4, 0.1), "future": (None, None), "all": (0.42, 0.2)},
            unsettled=UNSETTLED,
            noise=0.1,
            reason="fewer than 100 sequences",
        ),
        sufficient_rung="cannot_tell",
        sufficient_family=None,
        observed=observed(12.3456, None, None, "diverged"),
        curve={"reading": None, "text": "", "losses": []},
    ),
    "label_noise": random_matrix(
        near(64, 0.2),
        ladder=ladder(
            {
                "nothing": 0.6931,
                "position": 0.6930,
                "own_step": (0.6890, 0.6891),
                "own_step_and_position": (0.6892, 0.6891),
                "past": (0.6870, 0.6868),
                "future": (0.6890, 0.6900),
                "all": (0.6871, 0.6869),
            },
            half=0.002,
        ),
        sufficient_rung="past",
        observed=observed(0.6931, "nothing", None, "at_prior"),
    ),
    "many_classes": random_matrix(
        near(256, 0.1),
        data=diagnosis()["data"] | {"num_classes": 37, "seq_len": 256, "left_out": 3},
        observed=observed(0.001, "all", "nonlinear"),
    ),
    "nothing_computed": diagnosis(
        WITHOUT_FAMILIES, [[None, None], [None, None]], sufficient_rung="cannot_tell", sufficient_family=None
    ),
    "one_label": diagnosis(
        matrix=[*[[None] * 8] * 7, [True, False, False, None, False, True, True, True]], data=SEQUENCE
    ),
    "one_label_many_steps": diagnosis(matrix=[[s % 3 > 0 for s in range(64)]] * 64, data=SEQUENCE),
    "no_rises": diagnosis(matrix=near(6, 0.2), dependence_rise=None),
    "bare": diagnosis(),
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(values, width: Any = 80, file=None):
    file = file or io.StringIO()
    show(values, file, width)
    return file.getvalue()


def told(values, width=80):
    """What is printed, on one line."""
    return " ".join(printed(values, width).split())


# --- The console -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("name", CASES)
def test_no_line_is_longer_than_the_console_is_wide(name, width):
    assert max(map(len, printed(CASES[name], width).splitlines())) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_the_report_tells_all_of_a_diagnosis_in_its_order(width):
    parts = [
        "data: 5,000 sequences, each of 2 steps with 100 features; 2 classes, one label for each step",
        "notes: constant feature: features 7, 8, 9",
        "labels constant in sequence: every sequence has one label at all of its steps",
        "ladder: the loss that models can reach (nats per scored step, 95 % interval)",
        "The labels need later steps: own step 0.560, earlier 0.345, all 0.001.",
        "dependence (estimated): every label needs step 1",
        "observed: loss 0.6053, validation 0.6042, on the rung: own step, linear; where such a model must stop "
        "A model that sees its own step alone, and is linear, stops here.",
        "curve: still falling The last epoch took off 0.002 nats.",
        "findings, the first the most likely cause: 1. unseen steps: 0.3450 (0.3300 to 0.3600) With later steps",
        "remedy: A model that reads backwards or both ways, or labels that belong to their own step.",
        "2. labels repeat one step: 2 All labels are equal. verdict: unseen_steps Later steps are not seen.",
    ]
    text = told(THE_ORIGINAL, width)
    places = [text.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)]
    assert places == sorted(places)


def rows(values, width):
    """The rows of the ladder as printed: rung in words -> (text under linear, text under nonlinear)."""
    lines = printed(values, width).splitlines()
    (head,) = (line for line in lines if line.startswith(" what the model sees"))
    linear, nonlinear = head.index(" linear") + 1, head.index("nonlinear")
    found, rung = {}, None
    for line in lines[lines.index(head) + 2 :]:
        if not line.strip():
            return {rung: tuple(" ".join(cell.split()) for cell in cells) for rung, cells in found.items()}
        if line[:linear].strip():
            rung = line[:linear].strip()
            found[rung] = ["", ""]
        found[rung][0] += line[linear:nonlinear] + " "
        found[rung][1] += line[nonlinear:] + " "
    raise AssertionError("the table has no end")


@pytest.mark.parametrize("width", [80, 120])
def test_the_ladder_is_a_table_of_families_with_marks(width):
    assert rows(THE_ORIGINAL, width) == {
        "nothing (the prior)": ("0.6900 (0.6820 to 0.6980)", "the same"),
        "its position": ("0.6900 (0.6820 to 0.6980)", "the same"),
        "own step": ("0.6033 (0.5953 to 0.6113) <- observed: 0.6053", "0.5600 (0.5520 to 0.5680)"),
        "own step and position": ("0.6030 (0.5950 to 0.6110)", "0.3450 (0.3370 to 0.3530)"),
        "own and earlier steps": ("0.3453 (0.3373 to 0.3533)", "0.3451 (0.3371 to 0.3531)"),
        "own and later steps": ("0.0012 (0.0000 to 0.0092)", "0.0010 (0.0000 to 0.0090) <- suffices"),
        "all steps": ("0.0010 (0.0000 to 0.0090)", "0.0010 (0.0000 to 0.0090)"),
    }


@pytest.mark.parametrize("width", [80, 120])
def test_a_rung_that_is_not_settled_or_not_computed_says_so(width):
    table = rows(CASES["unsettled"], width)
    assert table["own and earlier steps"] == (
        "0.4000 (0.3920 to 0.4080)",
        "0.1000 (0.0200 to 0.1080) may still fall to 0.0200; twice the data would give about 0.0733",
    )
    assert table["own and later steps"] == ("not computed: fewer than 100 sequences",) * 2
    text = told(CASES["unsettled"], width)
    assert "which rung suffices: cannot tell" in text
    assert "<- suffices" not in text
    assert "observed: loss 12.3456; training diverged" in text
    assert "curve: cannot tell" in text


def test_marks_of_both_kinds_and_on_the_prior():
    values = diagnosis(sufficient_rung="nothing", sufficient_family=None, observed=observed(0.69, "nothing", None))
    assert rows(values, 80)["nothing (the prior)"][0].endswith("<- suffices <- observed: 0.6900")


def test_what_is_not_there_is_not_told():
    text = told(CASES["bare"])
    assert "dependence (estimated): not tried" in text
    assert "findings: none verdict: healthy Nothing to mend." in text
    assert not [word for word in ("notes", "observed", "curve", "left out", "what would help") if word in text]
    for key in ("observed", "curve", "label_dependence", "dependence_rise"):
        assert told({k: v for k, v in CASES["bare"].items() if k != key}) == text
    assert "2 classes, one label for each sequence" in told(diagnosis(data=SEQUENCE))
    data = diagnosis()["data"] | {"num_sequences": 1, "seq_len": 1, "num_features": 1, "left_out": 1}
    assert "data: 1 sequence, each of 1 step with 1 feature;" in told(diagnosis(data=data))
    assert "; 3 sequences left out" in told(CASES["many_classes"])


def test_remedies_stand_once_with_their_findings_and_what_they_reach():
    finding = {"cause": "unseen_steps", "value": 0.3, "ci95": [0.2, 0.4], "evidence": "Later steps."}
    finding |= {"remedy": "A model that sees all steps.", "reachable_loss": 0.0142}
    remedy = {"change": finding["remedy"], "reachable_loss": 0.0142, "kind": "estimate", "proviso": None}
    verdict = {"cause": "unseen_steps", "text": "Later steps.", "remedies": [remedy]}
    text = told(diagnosis(findings=[finding], verdict=verdict))
    assert "remedy: A model that sees all steps. It can reach 0.0142. verdict: unseen_steps" in text
    assert text.count(finding["remedy"]) == 1


def test_what_a_model_does_and_its_controls_are_told():
    outputs = {"kind": "logits", "text": "float32 [9, 2, 2] from -1 to 1: taken for logits"}
    row = {"control": "own_feature", "loss": 0.01, "reachable": 0.0, "chance": 0.69, "passed": True, "text": ""}
    values = diagnosis(
        model={"outputs": outputs, "rung": "own_step", "family": "linear", "loss": 0.6, "loss_se": 0.01},
        budget={"unseen_steps": 0.4, "optimisation": 0.2},
        final={"val_loss": 0.6},
        controls=[row, row | {"control": "padding", "passed": False}, row | {"passed": None, "text": "Left out."}],
    )
    text = told(values)
    assert "model: outputs float32 [9, 2, 2] from -1 to 1: taken for logits" in text
    assert "it stands on the rung: own step, linear; loss 0.6000 ± 0.0196" in text
    assert re.search(r"unseen steps +0.4000 optimisation +0.2000 validation loss +0.6000", text)
    assert re.search(r"own feature +0.0100 +0.0000 +0.6900 +passed", text)
    assert re.search(r"padding +0.0100 +0.0000 +0.6900 +FAILED", text)
    assert "Left out." in text
    assert max(map(len, printed(values).splitlines())) <= 80
    values["model"] |= {"rung": None, "swaps": "not tried: with few sequences predict: a batch of 100 at least"}
    assert "cannot tell what it sees (swaps not tried: with few sequences predict: a batch of 100 at" in told(
        values
    )


def test_texts_of_the_user_are_printed_as_they_are():
    path = "/data/[bold]x[/bold]/[/]:smile:/\x1b[31mred\a/" + "long" * 40 + ".npz"
    shown = path.replace("\x1b", r"\x1b").replace("\a", r"\x07")
    notes = [{"note": "constant_feature", "value": 1, "where": path}]
    finding = FINDINGS[0] | {"evidence": path, "remedy": path}
    values = diagnosis(
        data=diagnosis()["data"] | {"notes": notes},
        ladder=ladder(WITHOUT_FAMILIES, reason=path),
        sentence=path,
        observed=observed(text=path),
        curve={"reading": "memorising", "text": path, "losses": []},
        findings=[finding],
        verdict={"cause": "healthy", "text": path, "remedies": []},
    )
    for width in (80, 120):
        text = printed(values, width)
        assert max(map(len, text.splitlines())) <= width
        assert "".join(text.split()).count(shown) >= 7
        assert "\x1b" not in text


def test_bold_on_a_terminal_and_plain_elsewhere(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    on_terminal, elsewhere = printed(THE_ORIGINAL, file=Terminal()), printed(THE_ORIGINAL)
    assert "\x1b[1m<- suffices" in on_terminal
    assert "\x1b" not in elsewhere
    assert re.sub(r"\x1b\[[\d;]*m", "", on_terminal) == elsewhere
    monkeypatch.setenv("COLUMNS", "100")
    assert printed(THE_ORIGINAL, width=None) == printed(THE_ORIGINAL, width=100)


def test_letters_that_the_file_cannot_hold_are_escaped():
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    show(diagnosis(sentence="naïve \udc80 日本"), file, 80)
    file.flush()
    assert rb"na\xefve \udc80 \u65e5\u672c" in raw.getvalue()


F, T, U = False, True, None


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (None, "not tried"),
        ([[U, U], [U, U]], "cannot tell"),
        ([[F, F], [F, F]], "no label needs any step"),
        ([[T]], "every label needs its own step alone"),
        (np.eye(5, dtype=bool).tolist(), "every label needs its own step alone"),
        (np.tri(5, dtype=bool).tolist(), "every label needs its own and all earlier steps"),
        (np.tri(5, dtype=bool).T.tolist(), "every label needs its own and all later steps"),
        (np.tri(5, k=-1, dtype=bool).tolist(), "every label needs all earlier steps, not its own"),
        ([[T] * 4] * 4, "every label needs all steps"),
        (np.eye(5, k=-1, dtype=bool).tolist(), "every label needs the step before its own"),
        (np.eye(5, k=2, dtype=bool).tolist(), "every label needs the step 2 after its own"),
        (
            past_window := (np.tri(6) - np.tri(6, k=-3) > 0).tolist(),
            "every label needs its own step and the 2 before",
        ),
        (np.array(past_window).T.tolist(), "every label needs its own step and the 2 after"),
        (near(7, 0), "every label needs its own step, the 2 before and the 2 after"),
        ([[F, T], [F, T]], "every label needs step 1"),
        ([[T, F, T, T, F]] * 5, "every label needs steps 0 and 2 to 3"),
        ([[F, T, F], [F, F, F], [F, F, F]], "label 0 needs step 1; labels 1 to 2 need no step"),
        ([[F, T], [T, F]], "every label needs all steps but its own"),
        (
            [[T, U, U], [U, T, U], [U, U, T]],
            "every label needs its own step alone, as far as can be told "
            "(cannot tell for 6 of 9 pairs of label and step)",
        ),
        (
            [[F, T, F, F], [F, T, F, T], [F, F, T, F], [F, F, F, F]],
            "3 labels of 4 need their own step and later steps (label 1, for one, steps 1 and 3)",
        ),
    ],
)
def test_the_dependence_in_words(matrix, words):
    assert dependence_in_words(matrix) == words


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ([F, F, F, T], "the label needs step 3"),
        ([T, T, T, T], "the label needs all steps"),
        ([F, F, F, F], "the label needs no step"),
        ([T, F, T, U], "the label needs steps 0 and 2, as far as can be told (cannot tell for 1 of 4 pairs"),
        ([U, U, U, U], "cannot tell"),
    ],
)
def test_the_dependence_of_one_label_for_a_sequence(last, words):
    matrix = [[U] * 4, [U] * 4, [U] * 4, last]
    assert dependence_in_words(matrix, one_label=True).startswith(words)


def test_the_console_alone_does_not_load_matplotlib():
    code = "import sys, seqjax.report.diagnosis_console; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- The figures -------------------------------------------------------------------------------------------------


def texts(figure):
    """Every text that is drawn, with its place in pixels."""
    FigureCanvasAgg(figure).draw()
    of_ticks = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
                if not low <= tick.get_loc() <= high:
                    of_ticks |= {tick.label1, tick.label2}
    shown = [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and text not in of_ticks
    ]
    return [(text.get_text(), text.get_window_extent()) for text in shown]


def words(figure):
    return {text for text, _ in texts(figure)}


def by_gid(axes) -> dict[str, Any]:
    return {artist.get_gid(): artist for artist in (*axes.lines, *axes.patches) if artist.get_gid()}


@pytest.mark.parametrize("name", CASES)
def test_no_text_overlaps_another_or_leaves_the_figure(name):
    for stem, figure in draw(CASES[name]).items():
        width, height = figure.get_size_inches() * figure.dpi
        for (one, box), (other, its_box) in itertools.combinations(texts(figure), 2):
            assert not box.overlaps(its_box), (stem, one, other)
        for text, box in texts(figure):
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0, (stem, text)


@pytest.mark.parametrize("name", CASES)
def test_the_ladder_draws_each_loss_with_its_interval(name):
    values = CASES[name]
    figure = draw(values)["ladder"]
    axes, shown = figure.axes[0], words(figure)
    drawn = by_gid(axes)
    computed = [entry for entry in values["ladder"] if entry["loss"] is not None]
    names = {"/".join(filter(None, (entry["rung"], entry["family"]))): entry for entry in computed}
    assert {gid for gid in drawn if gid.split("/")[0] in RUNGS and "ci95" not in gid} == set(names)
    low, high = axes.get_xlim()
    for gid, entry in names.items():
        mark, bar = drawn[gid], drawn[f"{gid} ci95"]
        assert mark.get_xdata()[0] == entry["loss"]
        assert low <= entry["loss"] <= high
        assert list(bar.get_xdata()) == entry["ci95"]
        (y,) = mark.get_ydata()
        assert round(y) == list(RUNGS).index(entry["rung"])
        assert (y < round(y), y > round(y)) == (entry["family"] == "linear", entry["family"] == "nonlinear")
        assert (mark.get_marker(), to_hex(mark.get_color()).upper()) == {
            None: ("D", figures.INK),
            "linear": ("o", figures.BLUE),
            "nonlinear": ("s", figures.VERMILION),
        }[entry["family"]]
        assert (bar.get_linestyle() == "-") == entry["settled"]
        assert (mark.get_markerfacecolor() == "white") == (not entry["settled"])
        assert figures.number(entry["loss"]) in shown
    assert [label.get_text() for label in axes.get_yticklabels()] == list(RUNGS.values())
    assert sum(text.get_text() == "–" for text in axes.texts) == 12 - len(computed)
    assert ("more data would lower it" in shown) == (not all(entry["settled"] for entry in computed))


def test_the_ladder_marks_what_suffices_and_where_the_observed_loss_stands():
    figure = draw(THE_ORIGINAL)["ladder"]
    axes = figure.axes[0]
    drawn = by_gid(axes)
    assert figure.get_suptitle() == "What suffices: own and later steps, nonlinear"
    assert drawn["suffices"].get_extents().transformed(axes.transData.inverted()).intervaly.mean() == 5
    bold = {text.get_text() for text in figure.findobj(Text) if text.get_fontweight() == "bold"}
    assert bold == {figure.get_suptitle(), "own and later steps", "0.0010", "observed 0.6053"}
    assert drawn["observed"].get_xdata()[0] == 0.6053
    assert drawn["here"].get_xydata().tolist() == drawn["own_step/linear"].get_xydata().tolist()
    assert drawn["prior"].get_xdata()[0] == 0.690
    assert drawn["ln"].get_xdata()[0] == pytest.approx(np.log(2))
    assert {"observed 0.6053", "own step, linear", "prior 0.6900", "ln 2 = 0.6931"} <= words(figure)


def test_the_ladder_where_it_cannot_tell():
    figure = draw(CASES["unsettled"])["ladder"]
    assert figure.get_suptitle() == "The data cannot tell what the labels need"
    assert not {"suffices", "here", "observed"} & set(by_gid(figure.axes[0]))
    assert {"observed 12.3456, right of this axis →", "training diverged"} <= words(figure)
    assert "–: not computed; marks with their 95 % intervals" in words(figure)
    assert not any("observed" in text for text in words(draw(CASES["bare"])["ladder"]))


def test_the_ladder_is_not_stretched_by_what_lies_far_off_and_not_blown_up_where_all_is_alike():
    many = draw(CASES["many_classes"])["ladder"]
    assert many.axes[0].get_xlim()[1] < 0.75
    assert "ln 37 = 3.6109, not shown" in words(many)
    noise = draw(CASES["label_noise"])["ladder"].axes[0].get_xlim()
    assert 0.67 < noise[0] < 0.6848 < 0.6951 < noise[1] < 0.71
    alike = diagnosis({rung: 0.5 if isinstance(loss, float) else (0.5, 0.5) for rung, loss in ORIGINAL.items()})
    alike["ladder"] = [entry | {"ci95": [0.5, 0.5]} for entry in alike["ladder"]]
    low, high = draw(alike)["ladder"].axes[0].get_xlim()
    assert low <= 0.495 < 0.505 <= high


@pytest.mark.parametrize("name", [name for name, values in CASES.items() if values["label_dependence"]])
def test_the_dependence_is_coloured_by_the_rise_and_striped_where_unknown(name):
    values = CASES[name]
    one_label = values["data"]["labels_per"] == "sequence"
    matrix = values["label_dependence"][-1:] if one_label else values["label_dependence"]
    rise = values["dependence_rise"] and np.array(values["dependence_rise"]["loss"], float)[-len(matrix) :]
    figure = draw(values)["dependence"]
    axes = figure.axes[0]
    image = np.array(axes.get_images()[0].get_array(), int)
    tall, wide = len(image) // len(matrix), image.shape[1] // len(matrix[0])
    cells = image.reshape(len(matrix), tall, len(matrix[0]), wide, 3).swapaxes(1, 2)
    needed = []
    for (t, s), known in np.ndenumerate(np.array(matrix, object)):
        pixels = {tuple(pixel) for pixel in cells[t, s].reshape(-1, 3).tolist()}
        grey = all(len(set(pixel)) == 1 for pixel in pixels)
        if known is None:
            assert grey
            assert (255, 255, 255) not in pixels
            assert wide < 8 or len(pixels) == 2, "stripes"
        elif known:
            ((*pixel,),) = pixels
            assert not grey
            needed.append((0 if rise is None else rise[t, s], -sum(pixel)))
        else:
            assert pixels == {(255, 255, 255)}
    assert all(one[1] <= other[1] for one, other in itertools.pairwise(sorted(needed))), "darker for a larger rise"
    shown = words(figure)
    assert ("cannot tell" in shown) == any(known is None for row in matrix for known in row)
    assert ("not needed" in shown) == any(known is False for row in matrix for known in row)

    numbers = [float(text.get_text().replace("−", "-")) for text in axes.texts]
    if len(matrix[0]) > 16 or not needed or rise is None:
        assert not numbers
    else:
        expected = rise[np.isfinite(rise)]
        assert numbers == pytest.approx(expected.tolist(), abs=0.00501 if len(matrix) > 8 else 0.000501)
    bars = len(figure.axes) - 1
    assert bars == (bool(needed) and rise is not None and (len(matrix) > 1 or len(matrix[0]) > 16))


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("original", "1 of 2 labels needs another step than its own"),
        ("one_step", "No label needs another step than its own"),
        ("unsettled", "15 of 16 labels need other steps than their own"),
        ("nothing_computed", "The data cannot tell which steps the labels need"),
        ("one_label", "The label needs 4 of 8 steps"),
    ],
)
def test_the_title_of_the_dependence(name, title):
    assert draw(CASES[name])["dependence"].get_suptitle() == title


def test_a_dependence_that_is_not_known_whole_is_not_denied():
    values = diagnosis(matrix=[[True, None], [False, True]])
    assert draw(values)["dependence"].get_suptitle() == "No label is known to need another step than its own"


@pytest.mark.parametrize("name", CASES)
def test_the_learning_curves_show_the_better_family_of_each_rung(name):
    values = CASES[name]
    figure = draw(values)["learning_curves"]
    axes, shown = figure.axes[0], words(figure)
    drawn = by_gid(axes)
    assert axes.get_xscale() == "log"
    falling = 0
    for rung, in_words in RUNGS.items():
        entries = [entry for entry in values["ladder"] if entry["rung"] == rung and entry["loss"] is not None]
        assert (rung in drawn) == bool(entries)
        if not entries:
            continue
        best = min(entries, key=lambda entry: entry["loss"])
        falling += not best["settled"]
        line, twice = drawn[rung], drawn[f"{rung} twice"]
        assert line.get_xdata().tolist() == best["curve"]["num_sequences"]
        assert line.get_ydata().tolist() == best["curve"]["loss"]
        assert list(twice.get_xydata()[-1]) == [10_000, best["twice_the_data"]]
        label = figures.number(best["loss"])
        if best["family"]:
            label = f"{best['family']}, {label}"
        if not best["settled"]:
            label += f", then about {figures.number(best['twice_the_data'])}"
        assert {in_words, label} <= shown
    low, high = axes.get_ylim()
    assert all(low <= y <= high for line in drawn.values() for y in line.get_ydata())
    assert (f"{falling} of" if falling else "no rung") in figure.get_suptitle()
    widths = [drawn[rung].get_linewidth() for rung in RUNGS if rung in drawn]
    assert widths == sorted(set(widths)), "lines that coincide all show"
    ticks = [tick.get_text() for tick in axes.get_xticklabels()]
    assert sorted(ticks) == ["1,250", "10,000", "2,500", "5,000"]


def test_curves_of_one_point_with_gaps_and_without_a_projection():
    values = diagnosis()
    prior, position, *others = values["ladder"]
    prior |= {"curve": {"num_sequences": [100], "loss": [0.69]}, "twice_the_data": None}
    position |= {"curve": {"num_sequences": [50, 100], "loss": [None, 0.68]}}
    values["ladder"] = [prior, position, *(entry | {"curve": None} for entry in others)]
    axes = draw(values)["learning_curves"].axes[0]
    drawn = by_gid(axes)
    assert set(drawn) == {"nothing", "position", "position twice"}
    assert drawn["position"].get_xydata().tolist() == [[100, 0.68]]
    values["ladder"] = [entry | {"curve": None} for entry in values["ladder"]]
    assert set(draw(values)) == {"ladder"}


def test_ticks_of_learning_curves_keep_apart():
    values = diagnosis()
    numbers = [100, 110, 120, 1000]
    for entry in values["ladder"]:
        entry["curve"] = {"num_sequences": numbers, "loss": [0.7, 0.69, 0.68, 0.67]}
    figure = draw(values)["learning_curves"]
    shown = [text.replace(",", "") for text in words(figure)]
    assert {"2000", "120"} <= set(shown)
    assert not {"100", "110"} & set(shown)
    assert len(texts(figure)) > 10


def test_figures_without_their_values_are_left_out():
    assert set(draw(THE_ORIGINAL)) == {"ladder", "dependence", "learning_curves"}
    assert set(draw(CASES["bare"])) == {"ladder", "learning_curves"}
    refused = diagnosis(ladder=ladder(dict.fromkeys(WITHOUT_FAMILIES) | {"all": (None, None)}))
    assert draw(refused) == {}


def test_the_same_diagnosis_gives_the_same_bytes_and_leaves_matplotlib_as_it_was():
    settings = dict(mpl.rcParams)
    for name, encode, magic in (
        ("original", figures.png, b"\x89PNG"),
        ("five_with_gaps", figures.svg, b"<?xml"),
    ):
        first, second = ({stem: encode(figure) for stem, figure in draw(CASES[name]).items()} for _ in "12")
        assert first == second
        assert all(content.startswith(magic) for content in first.values())
    assert dict(mpl.rcParams) == settings
