"""What TensorBoard is given, read back from the event files."""

import struct
import sys

import numpy as np
import pytest
import tiny
from matplotlib.image import imsave

from experiments import tensorboard
from seqjax.config import ConfigError
from seqjax.diagnosis import outlook_sentence
from seqjax.forecasts import look_ahead_of

pytest.importorskip("tensorboardX")


def events(folder):
    """Every event below a folder.  A record is its length, a checksum of that, the event, a checksum of it."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.rglob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            yield path.parent.name, Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """The events of a small run: `(folder, event)`; and its result."""
    import io

    folder, result = tmp_path_factory.mktemp("board"), tiny.run(labels="own_step")
    values = result.values
    picture = io.BytesIO()
    imsave(picture, np.linspace(0, 1, 24).reshape(4, 6), format="png")
    with tensorboard.Board(folder) as given:
        sentence = outlook_sentence(result.config, look_ahead_of(result.config))
        given.watch("model", [])
        given.watch("forecast", {"forecast": values["forecast"], "sentence": sentence})
        history = values["history"]
        for n, _ in enumerate(history["epoch"]):
            given.watch("epoch", {name: of[n] for name, of in history.items()})
        given.result(values, {"budget": picture.getvalue()})
    return list(events(folder)), values


def scalars(found, tag):
    """`{run: [value of each epoch]}` of a chart."""
    lines = {}
    for run, event in found:
        for value in event.summary.value:
            if value.tag == tag and value.WhichOneof("value") == "simple_value":
                lines.setdefault(run, []).append((event.step, value.simple_value))
    return lines


def test_losses_lie_beside_their_floors(board):
    found, values = board
    lines, forecast = scalars(found, "loss"), values["forecast"]
    expected = {
        "train": values["history"]["train_loss"],
        "validation": values["history"]["val_loss"],
        "guessing": [forecast["prior_entropy"]] * 2,
        "lowest of any model that sees this": [forecast["bayes_loss"]] * 2,
        "lowest of this model": [forecast["family_loss"]] * 2,
    }
    assert set(lines) == set(expected)
    for name, losses in expected.items():
        steps, got = zip(*lines[name], strict=True)
        assert steps == (1, 2)
        np.testing.assert_allclose(got, losses, rtol=1e-6)


def test_accuracies_have_charts_without_floors(board):
    for chart in ("accuracy", "sequence_accuracy"):
        assert set(scalars(board[0], chart)) == {"train", "validation"}


def test_settings_stand_beside_what_came_of_them(board):
    found, values = board
    final = {
        value.tag: value.simple_value for run, event in found if run == "settings" for value in event.summary.value
    }
    assert final["val_loss"] == pytest.approx(values["final"]["val_loss"], rel=1e-6)
    assert final["budget/optimisation"] == pytest.approx(values["budget"]["optimisation"], rel=1e-5, abs=1e-9)
    assert final["forecast"] == pytest.approx(values["forecast"]["family_loss"], rel=1e-6, abs=1e-9)
    plugin = b"".join(
        value.metadata.plugin_data.content
        for run, event in found
        if run == "settings"
        for value in event.summary.value
    )
    assert b"own_step" in plugin
    assert b"learning_rate" in plugin


def test_figures_and_verdict_are_there(board):
    found, _ = board
    tags = {value.tag: value for _, event in found for value in event.summary.value}
    image = tags["budget"].image
    assert (image.height, image.width) == (4, 6)
    assert image.encoded_image_string[1:4] == b"PNG"
    assert any("verdict" in tag for tag in tags)


def test_without_the_extra_nothing_runs(monkeypatch, main_command):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    ended = main_command("--tensorboard", "--workdir=w")
    assert ended.code == 2
    assert ended.stderr.startswith("error: tensorboard: needs tensorboardX, which is not installed; pip install")
    assert ended.stderr.count("\n") == 1
    assert main_command.tree() == {}
    with pytest.raises(ConfigError):
        tensorboard.refuse_if_missing()


def test_it_is_idle_where_nothing_is_trained(main_command):
    ended = main_command("--tensorboard", "--forecast_only")
    assert ended.code == 2
    assert "--forecast_only stops before there is anything to save" in ended.stderr


def test_overwriting_a_run_removes_its_events_too(main_command):
    main_command("--tensorboard", "--workdir=w")
    main_command("--workdir=w", "--overwrite")
    assert not (main_command.home / "w/tensorboard").exists()


def test_a_bound_is_no_floor_of_this_model(tmp_path):
    values = tiny.run(labels="own_step").values
    with tensorboard.Board(tmp_path) as given:
        given.watch("forecast", {"forecast": values["forecast"] | {"kind": "lower_bound"}})
        given.watch("epoch", {name: of[0] for name, of in values["history"].items()})
    lines = scalars(list(events(tmp_path)), "loss")
    assert set(lines) == {"train", "validation", "guessing", "lowest of any model that sees this"}
