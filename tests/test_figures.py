"""The figures: what they print is what the result says, and nothing lies over anything else."""

import itertools
import re

import hypothesis.strategies as st
import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text

from seqjax.report import figures

TERMS = ("label_noise", "unseen_steps", "unknown_position", "model_family", "optimisation", "generalisation")


def own(num_steps):
    return np.eye(num_steps, dtype=bool).tolist()


def past(num_steps, window=None):
    sees = np.tri(num_steps, dtype=bool)
    return (sees if window is None else sees & ~np.tri(num_steps, k=-window, dtype=bool)).tolist()


def last(num_steps):
    return [[s == num_steps - 1 for s in range(num_steps)]] * num_steps


def falling(start, end, num_epochs):
    epochs = np.arange(1, num_epochs + 1)
    losses = end + (start - end) * np.exp(-5 * (epochs - 1) / max(num_epochs - 1, 1))
    return {"epoch": epochs.tolist(), "train_loss": losses.tolist(), "val_loss": (losses * 1.01).tolist()}


def result(needs, sees, floors, history, terms, kind="exact", se=0.0, limit=None, readout="every_step", **more):
    forecast = dict(zip(("prior_entropy", "bayes_loss", "family_loss"), floors, strict=True))
    return {
        "config": {"readout": readout},
        "label_dependence": needs,
        "receptive_field": sees,
        "label_dependence_detection_limit": limit,
        "forecast": forecast | {"kind": kind, "standard_error": se},
        "history": history,
        "budget": dict(zip(TERMS, terms, strict=True)),
        **more,
    }


HISTORY = falling(0.72, 0.6, 20)
CASES = {
    "default": result(
        last(2), own(2), (0.68998, 0.55954, 0.60315), HISTORY, (0, 0.345, 0.21454, 0.04361, 0.001, 0.0012)
    ),
    "one_step_learnt": result(
        own(1), own(1), (0.68998, 0.0, 0.0), falling(0.69, 1e-5, 40), (0, 0, 0, 0, 2.9e-5, 1.2e-5)
    ),
    "gru_any_so_far": result(
        past(16), past(16), (0.63381, 0.0, 0.0), falling(0.66, 0.02, 100), (0, 0, 1e-17, -1e-17, 0.0191, 0.0012)
    ),
    "gru_last_step": result(
        last(16), past(16), (0.68998, 0.6469, 0.6469), falling(0.7, 0.65, 10), (0, 0.6469, 0, 0, 0.003, 0.0002)
    ),
    "lower_bound": result(
        past(64),
        past(64, window=8),
        (0.6931, 0.441, 0.441),
        falling(0.9, 0.45, 1000),
        (0.05, 0.39, 0.001, None, 0.009, 0.0033),
        kind="lower_bound",
        se=0.0021,
        limit=1 / 4000,
    ),
    "last_output_only": result(
        past(64),
        own(64),
        (0.6931, 0.69, 0.6905),
        falling(5.0, 0.69, 30),
        (0, 0.69, 0, 0.0005, 0.0003, 1e-5),
        readout="last_step",
    ),
    "memorised": result(
        last(4),
        own(4),
        (0.69, 0.3251, 0.4256),
        falling(0.69, 7e-4, 200) | {"val_loss": [0.5 + i / 333 for i in range(200)]},
        (0.3251, 0, 0, 0.1005, -0.4249, 1.0993),
        readout="last_step",
    ),
    "masked_step_one_epoch": result(
        last(3),
        own(3),
        (0.69, 0.345, 0.35),
        falling(0.7, 0.7, 1),
        (0, 0.3, 0.045, 0.005, 0.2, 0.15),
        kind="estimate",
        se=0.0012,
        per_step={"val_loss": [None, 0.5, 0.5]},
        ci95=None,
    ),
    "zeros_and_gaps": result(
        np.zeros((5, 5), bool).tolist(),
        own(5),
        (0.0, 0.0, 0.0),
        {"epoch": [1, 2, 3, 4], "train_loss": [0.5, 0.1, 1e-4, 0.0], "val_loss": [0.3, None, 1e-5, 0.0]},
        (0,) * 6,
    ),
    "floors_alike": result(
        last(33), own(33), (0.69, 0.6812, 0.6815), falling(5.0, 0.69, 1000), (0.1, 0.5, 0.08, 3e-4, 0.012, -0.003)
    ),
    "no_better_than_guessing": result(last(2), own(2), (0.69,) * 3, falling(0.8, 0.69, 3), (0, 0.69, 0, 0, 0, 0)),
    "diverged_and_back": result(own(2), own(2), (0.69, 0.1, 0.1), falling(1e6, 0.7, 50), (0, 0.1, 0, 0, 0.6, 0)),
    "last_loss_null": result(
        own(2), own(2), (0.69, 0.1, 0.1), {"epoch": [1], "train_loss": [None], "val_loss": [None]}, (None,) * 6
    ),
    "replicates": result(
        last(32),
        own(32),
        (0.69, 0.1, 0.15),
        HISTORY,
        (0.05, 0.03, 0.02, 0.05, 0.045, 0.005),
        ci95={"history": {"val_loss": [None, *([v - 0.03, v + 0.03] for v in HISTORY["val_loss"][1:])]}},
    ),
}
WITH_BUDGET = [name for name, values in CASES.items() if values["budget"]["optimisation"] is not None]


def texts(figure):
    """What a reader reads: every text that is drawn, with its place in pixels."""
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


def numbers(text):
    return [float(found.replace("−", "-")) for found in re.findall(r"[+−]?\d+(?:\.\d+)?(?:e-\d+)?", text)]


def printed(value):
    """As a test may expect to read it: four decimals, or two digits of what is smaller."""
    return pytest.approx(value, abs=5.1e-5 if abs(value) >= 1e-4 else 1e-9, rel=0.05 if abs(value) < 1e-4 else 0)


@pytest.mark.parametrize("name", CASES)
def test_no_text_overlaps_another_or_leaves_the_figure(name):
    for stem, figure in figures.draw(CASES[name]).items():
        width, height = figure.get_size_inches() * figure.dpi
        for (one, box), (other, its_box) in itertools.combinations(texts(figure), 2):
            assert not box.overlaps(its_box), (stem, one, other)
        for text, box in texts(figure):
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0, (stem, text)


@pytest.mark.parametrize("name", CASES)
def test_the_marked_cells_are_needed_unseen_and_scored(name):
    values = CASES[name]
    needs, sees = np.array(values["label_dependence"]), np.array(values["receptive_field"])
    scored = np.ones(len(needs), bool)
    if values["config"]["readout"] == "last_step":
        scored[:-1] = False
    if name == "masked_step_one_epoch":
        scored[0] = False
    expected = needs & ~sees & scored[:, None]
    for axes in figures.draw(values)["dependence"].axes:
        marked = np.zeros_like(expected)
        image = axes.get_images()[0].get_array()
        if len(needs) <= figures.MAX_CROSSES:
            (crosses,) = [line for line in axes.lines if line.get_gid() == "missing"]
            s, t = np.array(crosses.get_data(), int)
            marked[t, s] = True
        else:  # a stripe in the cell
            zoom = len(image) // len(needs)
            ink = (image == [int(figures.INK[i : i + 2], 16) for i in (1, 3, 5)]).all(-1)
            marked = ink.reshape(len(needs), zoom, len(needs), zoom).any((1, 3))
        np.testing.assert_array_equal(marked, expected)
        greyscale = image[:: len(image) // len(needs)].reshape(len(needs), -1, 3)
        coloured = (greyscale.max(-1) != greyscale.min(-1)).any(-1)
        assert not coloured[~scored].any(), "steps that are not scored are grey"


@pytest.mark.parametrize("name", WITH_BUDGET)
def test_the_budget_prints_its_terms_and_ends_at_their_sum(name):
    values = CASES[name]
    budget = {term: value for term, value in values["budget"].items() if value is not None}
    figure = figures.draw(values)["budget"]
    axes = figure.axes[0]
    *column, prior = (text.get_text() for text in axes.texts)
    total = sum(budget.values())
    assert [numbers(text) for text in column] == [[printed(value)] for value in [*budget.values(), total]]
    assert numbers(prior) == [printed(values["forecast"]["prior_entropy"])]
    assert numbers(figure.get_suptitle()) == [printed(total)]

    labels = [label.get_text() for label in axes.get_yticklabels()]
    words = [term.replace("_", " ") for term in budget]
    if values["forecast"]["kind"] == "lower_bound":
        words[words.index("optimisation")] = "model family +\noptimisation"
    assert labels == [*words, "validation loss"]
    bars = list(axes.patches)
    np.testing.assert_allclose([bar.get_width() for bar in bars], [*budget.values(), total], atol=1e-12)
    known, found = figures.BLUE, figures.ORANGE
    colour = {"label_noise": figures.PALE, "optimisation": found, "generalisation": found}
    assert [to_hex(bar.get_facecolor()).upper() for bar in bars[:-1]] == [
        colour.get(term, known) for term in budget
    ]
    ends = np.cumsum([0.0, *budget.values()])
    np.testing.assert_allclose([bar.get_x() for bar in bars], [*ends[:-1], 0.0], atol=1e-12)
    assert [bar.get_hatch() is not None for bar in bars[:-1]] == [value < -1e-9 for value in budget.values()]


@pytest.mark.parametrize("name", CASES)
def test_the_curves_show_the_losses_beside_the_floors(name):
    values = CASES[name]
    figure = figures.draw(values)["curves"]
    axes = figure.axes[0]
    forecast, history = values["forecast"], values["history"]
    names = {"prior": "prior_entropy", "Bayes": "bayes_loss", "family": "family_loss", "lower bound": "bayes_loss"}
    # Labels are pairs of lines: names and a number, then what they mean.
    read, labels = {}, [text.get_text() for text in axes.texts]
    for first, second in zip(labels[::2], labels[1::2], strict=True):
        (value,) = numbers(f"{first} {second}")
        read |= dict.fromkeys(re.sub(r" [\d.e-]+$", "", first).split(" = "), value)
    assert set(read) == (
        {"prior", "lower bound"} if forecast["kind"] == "lower_bound" else {"prior", "Bayes", "family"}
    )
    for word, value in read.items():
        assert value == printed(forecast[names[word]])

    drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
    log = axes.get_yscale() == "log"
    for label, key in (("training (mean of the epoch)", "train_loss"), ("validation", "val_loss")):
        losses = np.array(history[key], float)
        np.testing.assert_array_equal(drawn[label], np.where(losses > 0, losses, np.nan) if log else losses)
    lines = sorted(
        {line.get_ydata()[0] for line in axes.lines if line.get_label().startswith("_") and line.get_ls() != "-"}
    )
    low, high = axes.get_ylim()
    assert all(low <= line <= high for line in lines)
    below = [text for text in axes.texts if "below this axis" in text.get_text()]
    assert len(lines) + len(below) == len(set(read.values()))
    if history["val_loss"][-1] is not None:
        assert numbers(figure.get_suptitle())[0] == printed(history["val_loss"][-1])


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("default", "linear"),
        ("one_step_learnt", "log"),
        ("last_output_only", "linear"),
        ("diverged_and_back", "log"),
    ],
)
def test_a_loss_that_falls_a_hundredfold_is_drawn_on_a_log_scale(name, scale):
    assert figures.draw(CASES[name])["curves"].axes[0].get_yscale() == scale


def test_an_interval_is_a_band():
    assert not figures.draw(CASES["default"])["curves"].axes[0].collections
    (band,) = figures.draw(CASES["replicates"])["curves"].axes[0].collections
    val = np.array(HISTORY["val_loss"])[1:]
    box = band.get_paths()[0].get_extents()
    assert (box.y0, box.y1) == pytest.approx((val.min() - 0.03, val.max() + 0.03))


def test_figures_without_their_keys_are_left_out():
    default = CASES["default"]
    before = ("config", "forecast", "label_dependence", "receptive_field")
    assert set(figures.draw(default)) == {"dependence", "curves", "budget"}
    assert set(figures.draw({key: default[key] for key in before})) == {"dependence"}
    refused = {"forecast": {"kind": None, "reason": "too long"}, "history": HISTORY}
    assert set(figures.draw(refused)) == {"curves"}
    assert set(figures.draw(CASES["last_loss_null"])) == {"dependence", "curves"}
    assert figures.draw({"forecast": {"kind": None, "reason": "too long"}}) == {}


@pytest.mark.parametrize("name", ["default", "lower_bound"])
def test_the_same_result_gives_the_same_bytes_and_leaves_matplotlib_as_it_was(name):
    settings = dict(mpl.rcParams)
    for encode, magic in ((figures.png, b"\x89PNG"), (figures.svg, b"<?xml")):
        first, second = (
            {stem: encode(figure) for stem, figure in figures.draw(CASES[name]).items()} for _ in "12"
        )
        assert first == second
        assert all(content.startswith(magic) for content in first.values())
    assert dict(mpl.rcParams) == settings


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-1e-17, "0"),
        (0.60318, "0.6032"),
        (-0.02, "−0.0200"),
        (1e-5, "1.0e-05"),
        (-1e-5, "−1.0e-05"),
        (5, "5.0000"),
    ],
)
def test_numbers_as_text(value, text):
    assert figures.number(value) == text


@given(st.lists(st.floats(0, 1), max_size=4))
def test_labels_are_moved_apart_and_stay_within_the_axes(heights):
    heights = sorted(heights)
    places = figures.spread(heights, gap=0.2)
    assert all(np.diff(places) >= 0.2 - 1e-9)
    assert all(-1e-9 <= place <= 1 + 1e-9 for place in places)
    if all(np.diff(heights) >= 0.2 + 1e-9):
        assert places == pytest.approx(heights)
