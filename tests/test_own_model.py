"""Models of somebody's own in the kit's training: named, tried, trained, resumed; never taken for a known one."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny

from experiments.flags import main_flags
from seqjax import experiment, models, own_model
from seqjax.checkpoints import CheckpointError, Checkpoints
from seqjax.config import Config, ConfigError
from seqjax.experiment import Saving, StoppedError
from seqjax.forecasts import ForecastRefused, look_ahead_of

OWN = {"model": "own_parts:window", "labels": "own_parts:second_step", "seq_len": 3}


def test_a_run_of_own_parts_is_forecast_trained_and_accounted_for():
    values = tiny.run(**OWN).values
    assert values["config"]["model"] == "own_parts:window"
    near = np.abs(np.subtract.outer(range(3), range(3))) <= 1
    np.testing.assert_array_equal(values["receptive_field"], near)
    forecast = values["forecast"]
    assert forecast["kind"] == "lower_bound"
    assert "of your own" in forecast["reason"]
    # All three outputs see step 1, each at another offset; zeros beyond the ends tell them apart.
    assert forecast["bayes_loss"] == forecast["family_loss"] == pytest.approx(0, abs=1e-12)
    assert values["budget"]["model_family"] is None
    assert sum(v or 0 for v in values["budget"].values()) == pytest.approx(values["final"]["val_loss"])
    json.dumps(values, allow_nan=False)


def test_a_remedy_keeps_what_was_measured_and_offers_no_setting_that_the_model_has_not():
    values = tiny.run(**OWN | {"labels": "last_step"}).values  # step 0 does not see step 2
    changes = {remedy["change"]: remedy for remedy in values["verdict"]["remedies"]}
    assert changes["--labels=own_step"]["kind"] == "lower_bound"
    assert changes["--model=bidirectional_gru"]["reachable_loss"] == pytest.approx(0, abs=1e-12)
    assert not any("activation" in change or "step_position" in change for change in changes)


def test_what_a_model_of_ones_own_sees_is_never_made_up():
    with pytest.raises(ForecastRefused, match="is measured"):
        look_ahead_of(Config(**OWN))
    assert models.family(Config(**OWN))[0] == "unknown"


def test_settings_reach_the_arguments_of_their_names():
    built = models.build(Config(**OWN, hidden_sizes=(5,)), 7, 3)
    params = built.init(jax.random.key(0))
    shapes = {name: leaf.shape for name, leaf in params.items()}
    assert shapes == {
        "Conv_0.bias": (5,),
        "Conv_0.kernel": (3, 7, 5),
        "Dense_0.bias": (3,),
        "Dense_0.kernel": (5, 3),
    }
    assert built.apply(params, np.zeros((2, 3, 7), np.float32)).shape == (2, 3, 3)
    layers = models.summary(Config(**OWN, hidden_sizes=(5,)), 7, 3)
    assert [(layer.shape, layer.num_parameters) for layer in layers] == [((3, 3), 5 + 105 + 3 + 15)]


def test_probabilities_become_logits():
    config = Config(model="own_parts:probabilities", seq_len=3)
    built = models.build(config, 4, 2)
    params = built.init(jax.random.key(0))
    logits = built.apply(params, np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32))
    np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=1e-5)
    assert np.ptp(logits) > 0.01


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "own_parts:windou"}, "has no 'windou'; did you mean window?"),
        ({"model": "no_such_module:model"}, "no module 'no_such_module'"),
        (
            {"model": "own_parts:window", "activation": "relu"},
            "activation=relu: model=own_parts:window has no such",
        ),
        ({"model": "own_parts:window", "step_position": True}, "step_position=True: model=own_parts:window has"),
        ({"model": "own_parts:needs_widths"}, "needs hidden_sizes; give --hidden_sizes, or a default"),
        ({"model": "own_parts:needs_more"}, "needs depth; expected arguments among seq_len"),
        ({"model": "own_parts:dropout"}, "is another function in training"),
        ({"model": "own_parts:second_step"}, "expected a Flax Linen module"),
        ({"model": "own_parts:nothing"}, "gives a NoneType for x [3, 2, "),
        ({"model": "own_parts:whole_outputs"}, "gives int32 outputs; expected floats: gradients need them"),
        ({"model": "own_parts:yes_or_no"}, "gives bool outputs; expected floats: gradients need them"),
        (
            {"model": "own_parts:loops"},
            "raised ValueError: Reverse-mode differentiation does not work for lax.while",
        ),
        ({"model": "own_parts:of_length", "eval_seq_len": (3,)}, "hang on the length"),
        (
            {"model": "own_parts:three_classes", "labels": "own_parts:count_so_far", "seq_len": 3},
            "the last layer needs 4 units",
        ),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_used_is_refused_in_one_line(settings, said):
    with pytest.raises(ConfigError) as error:
        experiment.check(tiny.config(**settings))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_may_come_to_mean_another_object(monkeypatch):
    import own_parts

    def size():
        return own_model.num_parameters(own_model.build(Config(**OWN), 4, 2))

    before = size()
    monkeypatch.setattr(own_parts, "window", lambda num_classes: own_parts.Window(2, num_classes))
    assert size() < before


def test_a_stopped_run_of_own_parts_goes_on_to_the_same_bits(tmp_path):
    config = tiny.config(**OWN)
    saving = Saving(lambda group: Checkpoints(tmp_path / str(group)), every=1, should_stop=lambda: True)
    with pytest.raises(StoppedError):
        experiment.run(config, saving=saving)
    resumed = experiment.run(config, saving=dataclasses.replace(saving, should_stop=lambda: False))
    tiny.assert_same_bits(resumed.params, tiny.run(**OWN).params)


def test_a_model_that_was_changed_is_not_gone_on_with(tmp_path, monkeypatch):
    import own_parts

    config = tiny.config(**OWN)
    saving = Saving(lambda group: Checkpoints(tmp_path / str(group)), every=1, should_stop=lambda: True)
    with pytest.raises(StoppedError):
        experiment.run(config, saving=saving)
    monkeypatch.setattr(own_parts, "window", lambda num_classes: own_parts.Window(2, num_classes))
    with pytest.raises(CheckpointError, match=r"of another model or optimiser: .* is float32\[.*, expected"):
        experiment.run(config, saving=saving)
    assert [path.name for path in (tmp_path / "0").iterdir()] == ["1"]


def test_a_resumed_run_keeps_the_names(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny.config(**OWN).to_dict()))
    config, _ = main_flags(["main", "--resume", f"--workdir={tmp_path}"])
    assert (config.model, config.labels) == (OWN["model"], OWN["labels"])
    with pytest.raises(ConfigError, match="holds another experiment: labels"):
        main_flags(["main", "--resume", f"--workdir={tmp_path}", "--labels=own_parts:count_so_far"])
