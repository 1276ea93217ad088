"""The settings of an experiment: what is refused, what is derived, and the way to JSON and back."""

import dataclasses
import json
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqjax.config import Config, ConfigError, shown, unknown_name

# Settings that cannot be used, and what the message must name besides the value.
BAD = [
    ({"seq_len": 0}, "seq_len=0: expected a whole number of at least 1"),
    ({"seq_len": -2}, "seq_len=-2"),
    ({"seq_len": 2.0}, "seq_len=2.0"),
    ({"seq_len": True}, "seq_len=True"),
    ({"num_features": 0}, "num_features=0"),
    ({"num_samples": 0}, "num_samples=0"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"num_epochs": 0}, "num_epochs=0"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": 2**32}, "seed=4294967296"),
    ({"hidden_sizes": (10, 0)}, "hidden_sizes=0"),
    ({"hidden_sizes": (-1,)}, "hidden_sizes=-1"),
    ({"hidden_sizes": (1.5,)}, "hidden_sizes=1.5"),
    ({"hidden_sizes": ()}, "hidden_sizes is empty"),
    ({"kernel_size": 0}, "kernel_size=0"),
    ({"num_heads": 0}, "num_heads=0"),
    ({"num_layers": 0}, "num_layers=0"),
    ({"readout": "last_stp"}, "did you mean last_step?"),
    ({"threshold": -1}, "threshold=-1"),
    ({"threshold": 100}, "expected 0 to 99"),
    ({"threshold": 4.5}, "threshold=4.5"),
    ({"num_features": 1, "threshold": 1}, "threshold=1"),
    ({"label_noise": -0.1}, "label_noise=-0.1: expected a number in [0, 0.5]"),
    ({"label_noise": 0.51}, "label_noise=0.51"),
    ({"label_noise": math.nan}, "label_noise=nan"),
    ({"val_fraction": 0.0}, "val_fraction=0.0: expected a number in (0, 1)"),
    ({"val_fraction": 1.0}, "val_fraction=1.0"),
    ({"num_samples": 1}, "leaves 0 sequences to train on and 1"),
    ({"num_samples": 10, "val_fraction": 0.95}, "leaves 0 sequences to train on and 10"),
    ({"learning_rate": 0.0}, "learning_rate=0.0: expected a number above 0"),
    ({"learning_rate": None}, "learning_rate=None: expected a number above 0"),
    ({"learning_rate": -1e-3}, "learning_rate=-0.001"),
    ({"learning_rate": math.inf}, "learning_rate=inf"),
    ({"learning_rate": "1e-3"}, "learning_rate='1e-3'"),
    ({"warmup_epochs": 0.0}, "warmup_epochs=0.0"),
    ({"grad_clip": 0.0}, "grad_clip=0.0"),
    ({"weight_decay": -0.1}, "weight_decay=-0.1: expected a number of at least 0"),
    # Larger than any array's size, than int32, than every float.
    *(
        ({name: size}, f"{name}={shown(size)}: expected a whole number of at least 1 and at most 2147483647")
        for name in ("seq_len", "num_features", "num_samples", "batch_size", "num_epochs", "num_replicates")
        for size in (2**31, 10**400)
    ),
    ({"hidden_sizes": (10, 10**400)}, "and at most 2147483647"),
    ({"eval_seq_len": (2**31,)}, "eval_seq_len=2147483648"),
    ({"kernel_size": 10**400}, "and at most 2147483647"),
    ({"num_layers": 1001}, "num_layers=1001: expected a whole number of at least 1 and at most 1000"),
    ({"first_replicate": 2**31}, "first_replicate=2147483648"),
    ({"first_replicate": 2**31 - 2, "num_replicates": 2}, "first_replicate=2147483646"),
    ({"learning_rate": 10**400}, "expected a number above 0"),
    ({"label_noise": 10**400}, "expected a number in [0, 0.5]"),
    # What only a stored file can hold.
    ({"labels": ["own_step"]}, "labels=['own_step']: expected a name"),
    ({"model": {}}, "model={}: expected a name"),
    ({"readout": ["last_step"]}, "readout=['last_step']: expected a name"),
    ({"activation": 1}, "activation=1: expected a name"),
    ({"step_position": "no"}, "step_position='no': expected true or false"),
    ({"remat": 0}, "remat=0: expected true or false"),
    ({"hidden_sizes": 10}, "hidden_sizes=10: expected a list of whole numbers"),
    ({"eval_seq_len": "12"}, "eval_seq_len='12': expected a list of whole numbers"),
    ({"eval_seq_len": None}, "eval_seq_len=None: expected a list of whole numbers"),
    ({"step_position": None}, "step_position=None: expected true or false"),
    ({"fresh_data": None}, "fresh_data=None: expected true or false"),
    # What only Python can hand over.
    ({"task": np.ones((50, 50))}, "task=float64 [50, 50]: expected a name"),
    ({"seed": np.ones((50, 50))}, "seed=float64 [50, 50]: expected a whole number"),
    ({"learning_rate": np.ones(3)}, "learning_rate=float64 [3]: expected a number above 0"),
    ({"hidden_sizes": (np.ones(3),)}, "hidden_sizes=float64 [3]: expected a whole number"),
    ({"remat": np.ones(3)}, "remat=float64 [3]: expected true or false"),
    ({"threshold": list(range(10_000))}, f"threshold={str(list(range(99)))[:57]}...: expected a whole number"),
    ({"readout": "x" * 1000}, f"unknown readout '{'x' * 56}...; known"),
]


@pytest.mark.parametrize(("settings", "said"), BAD, ids=[str(settings)[:60] for settings, _ in BAD])
def test_what_cannot_be_used_is_refused_in_one_line(settings, said):
    with pytest.raises(ConfigError) as error:
        Config(**settings)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"threshold": 0},
        {"threshold": 99},
        {"label_noise": 0.5},
        {"label_noise": 0},
        {"num_samples": 2, "val_fraction": 0.5},
        {"num_features": 1},
        {"seed": 2**32 - 1},
        {"weight_decay": 0.0},
    ],
    ids=str,
)
def test_what_lies_on_the_border_is_accepted(settings):
    config = Config(**settings)
    assert {name: getattr(config, name) for name in settings} == settings


def test_the_defaults_are_the_original_run():
    config = Config()
    assert (config.seq_len, config.num_features, config.labels, config.model) == (2, 100, "last_step", "dense")
    assert (config.num_train, config.num_val, config.batch_size, config.num_epochs) == (28_800, 7_200, 32, 10)
    assert (config.optimizer, config.learning_rate, config.schedule) == ("adam", 1e-3, "constant")
    assert config.label_noise == 0


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().seq_len = 3  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(("num_features", "half"), [(1, 0), (2, 1), (7, 3), (100, 50)])
def test_the_default_threshold_is_half_of_the_features(num_features, half):
    assert Config(num_features=num_features).event_threshold == half
    assert Config(num_features=num_features).to_dict()["threshold"] == half


def test_a_threshold_that_is_given_stays():
    assert Config(threshold=0).event_threshold == 0


@given(n=st.integers(1, 10_000), percent=st.integers(1, 99))
def test_training_takes_the_whole_part_of_its_share(n, percent):
    num_train = n * (100 - percent) // 100  # whole numbers: no rounding to get wrong
    if num_train == 0:
        with pytest.raises(ConfigError, match="leaves 0 sequences to train on"):
            Config(num_samples=n, val_fraction=percent / 100)
        return
    config = Config(num_samples=n, val_fraction=percent / 100)
    assert (config.num_train, config.num_val) == (num_train, n - num_train)


def test_scored_steps():
    np.testing.assert_array_equal(Config(seq_len=3).scored_steps, [True, True, True])
    np.testing.assert_array_equal(Config(seq_len=3, readout="last_step").scored_steps, [False, False, True])
    np.testing.assert_array_equal(Config(seq_len=1, readout="last_step").scored_steps, [True])


@given(
    settings=st.fixed_dictionaries(
        {"seq_len": st.integers(1, 50), "num_features": st.integers(1, 200), "seed": st.integers(0, 2**32 - 1)},
        optional={
            "hidden_sizes": st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple),
            "label_noise": st.floats(0, 0.5),
            "learning_rate": st.floats(1e-9, 1e3),
            "grad_clip": st.floats(1e-9, 1e3),
            "step_position": st.booleans(),
            "readout": st.sampled_from(["every_step", "last_step"]),
            "activation": st.sampled_from(["none", "relu"]),
        },
    )
)
def test_to_json_and_back(settings):
    config = Config(**settings)
    values = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    back = Config.from_dict(values)
    assert back.to_dict() == config.to_dict()
    assert dataclasses.replace(back, threshold=config.threshold) == config
    assert set(values) == {field.name for field in dataclasses.fields(Config)}


def test_from_dict_refuses_what_is_no_setting():
    with pytest.raises(ConfigError, match=r"unknown setting 'seq_length'; did you mean seq_len\?"):
        Config.from_dict({"seq_length": 2})
    with pytest.raises(ConfigError, match=r"^Config.from_dict: is given None; expected a dict of settings$"):
        Config.from_dict(None)  # pyright: ignore[reportArgumentType]


def test_numbers_of_numpy_become_numbers_of_python():
    settings: dict[str, Any] = {
        "seed": np.int64(3),
        "learning_rate": np.float32(0.5),
        "label_noise": np.float64(0.1),
    }
    config = Config(**settings, step_position=np.bool_(True), hidden_sizes=(np.int32(4), 5))  # pyright: ignore
    assert config == Config(seed=3, learning_rate=0.5, label_noise=0.1, step_position=True, hidden_sizes=(4, 5))
    json.dumps(config.to_dict())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.ones((2, 3), np.float32), "float32 [2, 3]"),
        (jnp.ones(2, int), "int32 [2]"),
        (np.int64(3), "3"),
        (np.ndarray, "<class 'numpy.ndarray'>"),
        ("a\nb", r"'a\nb'"),
        ("a" * 59, f"'{'a' * 56}..."),
        ([np.zeros(2), np.zeros(2)], "[array([0., 0.]), array([0., 0.])]"),
        (None, "None"),
    ],
    ids=str,
)
def test_a_value_is_shown_in_one_line_that_is_not_too_long(value, said):
    assert shown(value) == said


@pytest.mark.parametrize(
    ("found", "hint"),
    [("adm", "did you mean adam? "), ("adamx", "did you mean adam"), ("qqqq", "")],
)
def test_an_unknown_name_is_told_the_nearest(found, hint):
    said = str(unknown_name("optimizer", found, ["sgd", "adam", "adamw"]))
    assert f"unknown optimizer {found!r}; {hint}" in said
    assert said.endswith("known: sgd, adam, adamw")
    assert ("did you mean" in said) == bool(hint)
