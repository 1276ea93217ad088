"""The names that a notebook needs, and how results show themselves there."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import seqjax
from seqjax import experiment
from seqjax.config import ConfigError
from seqjax.data_diagnosis import Diagnosis
from seqjax.grid import Sweep, sweep

X, Y = np.zeros((200, 2, 3), np.float32), np.arange(400).reshape(200, 2) % 2
DIAGNOSIS = {
    "data": {"num_sequences": 500, "seq_len": 2, "num_features": 3, "num_classes": 2},
    "ladder": [
        {"rung": "nothing", "family": None, "loss": 0.69},
        {"rung": "own_step", "family": "linear", "loss": None},
    ],
    "verdict": {"cause": "unseen_steps", "text": "Told in <b>words</b>.", "remedies": []},
}


def test_the_names_are_there_and_nothing_heavy_comes_with_them():
    code = (
        "import sys, seqjax; heavy = {'jax', 'flax', 'numpy', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; assert set(seqjax.__all__) <= set(dir(seqjax)); "
        "assert seqjax.Config(seq_len=3).seq_len == 3; assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(callable(getattr(seqjax, name)) for name in seqjax.__all__)
    assert seqjax.run is experiment.run
    with pytest.raises(AttributeError, match="no attribute 'runs'"):
        seqjax.runs  # noqa: B018


def test_no_submodule_bears_one_of_the_names():
    # It would take the place of the function as soon as anything imports it.
    import pkgutil

    assert not {module.name for module in pkgutil.iter_modules(seqjax.__path__)} & set(seqjax.__all__)


def test_a_run_shows_itself_in_words():
    result = tiny.run(labels="own_step")
    final = result.values["final"]
    assert repr(result).splitlines()[0] == "question: dense on own_step, seq_len=2"
    assert re.search(r"^forecast: \d\.\d{4} nats per step; guessing 0\.\d{4}$", repr(result), re.MULTILINE)
    assert f"outcome: validation loss {final['val_loss']:.4f} ± " in repr(result)
    assert f"verdict: {result.values['verdict']['cause']}" in repr(result)


def test_a_forecast_shows_no_outcome():
    shown = repr(seqjax.forecast(tiny.config(labels="own_step")))
    assert "forecast: " in shown
    assert "outcome" not in shown


def test_a_diagnosis_is_still_a_dict():
    diagnosis = Diagnosis(DIAGNOSIS)
    assert json.loads(json.dumps(diagnosis)) == DIAGNOSIS
    assert list(diagnosis.values()) == list(DIAGNOSIS.values())
    assert repr(diagnosis).splitlines() == [
        "data: 500 sequences of 2 steps, 3 features, 2 classes",
        "verdict: unseen_steps. Told in <b>words</b>.",
    ]


class Balanced(HTMLParser):
    """Raises where a tag is closed that was not open; keeps the text."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.text, self.tags = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_in_a_notebook_a_run_is_its_tables():
    result = tiny.run(labels="last_step")
    page = Balanced(result._repr_html_())
    for name, value in result.values["budget"].items():
        assert page.text[page.text.index(name.replace("_", " ")) + 1] == f"{value:.4f}"
    # Two labels that need step 1; the output of step 0 does not see it.
    signs = [text for text in page.text if text in "●✕·"]
    assert signs == ["✕", "·", "●"] or signs == ["·", "✕", "●"]
    assert "label 0, step 1: needed, not seen" in result._repr_html_()
    assert {remedy["change"] for remedy in result.values["verdict"]["remedies"]} <= set(page.text)


def test_what_a_person_wrote_is_shown_as_text():
    page = Balanced(Diagnosis(DIAGNOSIS)._repr_html_())
    assert "b" not in page.tags
    assert "unseen_steps. Told in <b>words</b>." in page.text
    assert page.text[page.text.index("own step linear") + 1] == "-"


def test_a_matrix_that_is_too_large_is_left_out():
    size = 30
    matrix = np.eye(size, dtype=bool).tolist()
    values = DIAGNOSIS | {"label_dependence": matrix, "receptive_field": matrix}
    assert f"label {size - 1}" not in Diagnosis(values)._repr_html_()


# --- Sweeps ---


@pytest.fixture
def swept(monkeypatch):
    given = tiny.run(labels="own_step")

    def run(config, watch, **options):
        experiment.check(config)
        watch("epoch", {"epoch": 1})
        return given

    monkeypatch.setattr(experiment, "run", run)
    return given


def test_a_sweep_holds_a_record_for_every_cell_and_what_failed(swept):
    told = []
    result = sweep(
        lambda *what: told.append(what), seq_len=[1, 2], model=["dense", "attention"], hidden_sizes=(6,)
    )
    assert isinstance(result, Sweep)
    cells = result.values["cells"]
    assert [cell["settings"] for cell in cells] == [
        {"seq_len": t, "model": m} for t in (1, 2) for m in ("dense", "attention")
    ]
    assert cells[0]["final"] == swept.values["final"]
    assert "a multiple of num_heads" in cells[1]["error"]
    assert told == [(0, "epoch", {"epoch": 1}), (2, "epoch", {"epoch": 1})]
    assert result.values["config"]["hidden_sizes"] == [[6]]
    json.dumps(result.values, allow_nan=False)
    lines = repr(result).splitlines()
    assert lines[0] == "sweep: 4 cells (nats per step)"
    assert lines[1].startswith("seq_len=1, model=dense: forecast ")
    assert "error: hidden_sizes=6" in lines[2]
    assert Balanced(result._repr_html_()).text.count("attention") == 2


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ({"seq_lenn": [1]}, "unknown setting 'seq_lenn'; did you mean seq_len?"),
        ({"seq_len": []}, "seq_len=[]: expected at least one value"),
        ({"seq_len": [0, 1]}, "seq_len=0: expected a whole number"),
        ({"model": ["dens", "gru"]}, "did you mean dense?"),
    ],
    ids=str,
)
def test_a_grid_that_cannot_run_is_refused_in_one_line(swept, grid, said):
    with pytest.raises(ConfigError) as error:
        sweep(**grid)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


# --- What is not meant ---


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: seqjax.run({"seq_len": 2}), "config: is a dict; expected a seqjax.Config"),
        (lambda: seqjax.forecast(None), "config: is a NoneType; expected a seqjax.Config"),
        (lambda: seqjax.sweep(tiny.config()), "settings go by name, as in sweep(seq_len=[1, 2])"),
        (lambda: seqjax.diagnose(X, Y, observed_los=0.6), "did you mean observed_loss?"),
        (lambda: seqjax.diagnose(X, Y, seed=1.5), "seed=1.5: expected a whole number of at least 0"),
        (lambda: seqjax.diagnose(X, Y, observed_loss="x"), "observed_loss='x': expected a number"),
        (lambda: seqjax.diagnose(X, Y, observed_val_loss=1j), "observed_val_loss=1j: expected a number"),
        (lambda: seqjax.diagnose(np.float32(3), Y), "x is a single number: expected an array"),
        (lambda: seqjax.diagnose(X, np.int32(1)), "y is a single number: expected an array"),
        (lambda: seqjax.diagnose("a\nb.npy", Y), "no such file"),
        (lambda: seqjax.diagnose("/", Y), "is a folder; expected a file"),
        (lambda: seqjax.diagnose(X, Y, seed="a"), "seed='a': expected a whole number of at least 0"),
        (lambda: seqjax.diagnose(X, Y, sees=X), "sees=float"),
        (lambda: seqjax.diagnose(X, Y, linear="abc"), "linear='abc': expected true or false"),
        (lambda: seqjax.diagnose(X, Y, causal=X > 0), "causal=bool ["),
        (lambda: seqjax.diagnose(X, Y, batch_first="abc"), "batch_first='abc': expected true or false"),
        (lambda: seqjax.diagnose(X, Y, control_samples=X), ": expected 0 for none, or 64 or more"),
        (lambda: seqjax.diagnose(X, Y, control_seconds=X), ": expected seconds, above 0"),
        (lambda: seqjax.diagnose(X, Y, observed_loss=X.tolist()), "...: expected a number"),
        (lambda: seqjax.diagnose(X, Y, observed_accuracy=X), ": expected a number"),
        (lambda: seqjax.diagnose(X, Y, seed=None), "seed=None: expected a whole number of at least 0"),
        (lambda: seqjax.diagnose(X, Y, history=X), ": expected the path of a file"),
        (lambda: seqjax.sweep(seq_len=jnp.ones((20, 20))), "seq_len=float32 [20, 20]: expected a whole number"),
        (lambda: seqjax.Config(task=None), "task=None: expected a name"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_is_not_meant_is_said_in_one_line(call, said):
    with pytest.raises(ConfigError) as error:
        call()
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
