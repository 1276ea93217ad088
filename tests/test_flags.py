"""Every flag changes what it says it changes, from the command line to what comes of it."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments import flags
from experiments.flags import HelpRequested, UsageError, main_flags
from seqjax import devices, experiment, tasks, training
from seqjax.config import Config, ConfigError


def parsed(*argv: str) -> Config:
    return main_flags(["main", *tiny.ARGV, *argv])[0]


def names(sections) -> set[str]:
    return {name for rows in sections.values() for name, _, _ in rows}


# --- What an experiment's flags change, seen in the data, the model, the update or the result ---


def data(config: Config):
    return jax.tree.map(np.asarray, tasks.build(config).draw(jax.random.key(config.seed), 400))


def events(config: Config, more_than: int) -> np.ndarray:
    return (data(config).inputs > 0).sum(-1) > more_than


def params(config: Config):
    return jax.eval_shape(tiny.model_of(config).init, jax.random.key(0))


def kernel(config: Config, layer: str) -> tuple[int, ...]:
    return params(config)["body"][layer]["kernel"].shape


def logits(config: Config) -> np.ndarray:
    model = tiny.model_of(config)
    return np.asarray(model.apply(model.init(jax.random.key(0)), data(config).inputs))


def first_update(config: Config, gradient: float = 2.0) -> float:
    """Of a parameter that is 3 and has this gradient."""
    optimizer = training.build_optimizer(config)
    start = jnp.array([3.0])
    updates, _ = optimizer.update(jnp.array([gradient]), optimizer.init(start), start)
    return float(updates[0])


def rate(config: Config, update: int) -> float:
    of = training.learning_rate(config)
    return float(of(update) if callable(of) else of)


def updates_made(config: Config) -> int:
    """In an epoch, as Adam itself counts them."""
    programs = tiny.programs_of(config)
    state, drawn = tiny.start(config, programs)
    state, _, _ = tiny.epoch(config, programs, state, drawn, 0)
    return int(state.opt_state[0].count[0])


def result(config: Config) -> experiment.Result:
    return tiny.run_of(config)


def labels_used(config: Config) -> np.ndarray:
    """`[R, N, T]` of the validation sequences of a run."""
    return result(config).predictions["labels"]


def recomputes(config: Config) -> bool:
    model = tiny.model_of(config)
    inputs = data(config).inputs[:2]
    gradient = jax.make_jaxpr(jax.grad(lambda p: model.apply(p, inputs).sum()))(model.init(jax.random.key(0)))
    return bool(re.search(r"\b(remat|checkpoint)", str(gradient)))


def second_replicate(config: Config):
    return jax.tree.map(lambda leaf: leaf[-1], result(config).params)


BASE = parsed()
# Per flag: the command lines, and what must hold for their Configs and is false of the default.
EFFECTS = {
    "task": (["--task=own_parts:tokens"], lambda c: bool((data(c).inputs.sum(-1) == 1).all())),
    "seq_len": (["--seq_len=5"], lambda c: data(c).labels.shape[1] == 5),
    "num_features": (["--num_features=7"], lambda c: data(c).inputs.shape[2] == 7),
    "threshold": (["--threshold=2"], lambda c: np.array_equal(data(c).labels[:, -1], events(c, 2)[:, -1])),
    "labels": (["--labels=own_step"], lambda c: np.array_equal(data(c).labels, events(c, 4))),
    "label_noise": (
        ["--label_noise=0.25"],
        lambda c: np.mean(data(c).labels != events(c, 4)[:, -1:]) == pytest.approx(0.25, abs=0.08),
    ),
    "num_samples": (["--num_samples=40"], lambda c: tiny.start(c, tiny.programs_of(c))[1].labels.shape[1] == 40),
    "val_fraction": (["--val_fraction=0.5"], lambda c: labels_used(c).shape[1] == 30),
    "seed": (["--seed=3"], lambda c: not np.array_equal(data(c).inputs, data(BASE).inputs)),
    "model": (["--model=gru"], lambda c: list(params(c)["body"]) == ["forward_0"]),
    "hidden_sizes": (["--hidden_sizes=3,5,2"], lambda c: kernel(c, "dense_1") == (3, 5)),
    "activation": (
        ["--activation=relu"],
        lambda c: not np.allclose(logits(c), logits(BASE), atol=1e-2) and params(c) == params(BASE),
    ),
    "kernel_size": (["--model=causal_conv", "--kernel_size=3"], lambda c: kernel(c, "conv_0")[0] == 3),
    "num_heads": (
        ["--model=attention", "--num_heads=8"],
        lambda c: params(c)["body"]["block_0"]["attention"]["query"]["kernel"].shape == (32, 8, 4),
    ),
    "num_layers": (["--model=attention", "--num_layers=3"], lambda c: "block_2" in params(c)["body"]),
    "step_position": (["--step_position"], lambda c: kernel(c, "dense_0")[0] == 9 + 2),
    "readout": (["--readout=last_step"], lambda c: result(c).predictions["mask"].mean((0, 1)).tolist() == [0, 1]),
    "batch_size": (["--batch_size=7"], lambda c: updates_made(c) == 7),  # of 48 sequences
    "num_epochs": (["--num_epochs=3"], lambda c: result(c).values["history"]["epoch"] == [1, 2, 3]),
    "optimizer": (["--optimizer=sgd"], lambda c: first_update(c) == pytest.approx(-1e-3 * 2)),
    "learning_rate": (["--learning_rate=0.5"], lambda c: first_update(c) == pytest.approx(-0.5, rel=1e-4)),
    "schedule": (["--schedule=cosine"], lambda c: rate(c, 6) == pytest.approx(0)),
    "warmup_epochs": (
        ["--schedule=warmup_cosine", "--warmup_epochs=1"],
        lambda c: [rate(c, n) for n in (0, 1, 3)] == pytest.approx([0, 1e-3 / 3, 1e-3]),
    ),
    "weight_decay": (
        ["--optimizer=adamw", "--weight_decay=0.1"],
        lambda c: first_update(c) == pytest.approx(-1e-3 * (1 + 0.1 * 3), rel=1e-4),
    ),
    "grad_clip": (
        ["--grad_clip=0.5", "--optimizer=sgd"],
        lambda c: first_update(c) == pytest.approx(-1e-3 * 0.5) and first_update(c, 0.2) == pytest.approx(-2e-4),
    ),
    "fresh_data": (
        ["--fresh_data"],  # only what validates is kept
        lambda c: tiny.start(c, tiny.programs_of(c))[1].labels.shape[1] == c.num_val,
    ),
    "remat": (["--model=lstm", "--remat", "--seq_len=9"], recomputes),
    "num_replicates": (
        ["--num_replicates=2"],
        lambda c: len(labels_used(c)) == 2 and not np.array_equal(*labels_used(c)),
    ),
    "first_replicate": (
        ["--first_replicate=1"],
        lambda c: np.array_equal(labels_used(c)[0], labels_used(parsed("--num_replicates=2"))[1]),
    ),
    "vary": (
        ["--num_replicates=2", "--vary=init"],
        lambda c: (
            len(labels_used(c)) == 2
            and np.array_equal(*labels_used(c))
            and tiny.differ(second_replicate(c), second_replicate(BASE))
        ),
    ),
    "replicates_at_once": (
        ["--num_replicates=6", "--replicates_at_once=2"],
        lambda c: [group.tolist() for group in experiment.replicate_groups(c)] == [[0, 1], [2, 3], [4, 5]],
    ),
    "eval_seq_len": (
        ["--eval_seq_len=1,4"],
        lambda c: [entry["seq_len"] for entry in result(c).values.get("lengths", [])] == [1, 4],
    ),
}


@pytest.mark.parametrize("flag", EFFECTS)
def test_a_flag_changes_what_it_says_it_changes(flag):
    argv, holds = EFFECTS[flag]
    # Without the flag itself, but with what it needs beside it, the same is not so.
    without = [arg for arg in argv if not re.match(rf"--{flag}\b", arg)]
    assert len(without) == len(argv) - 1
    assert holds(parsed(*argv))
    try:
        holds_anyway = holds(parsed(*without))
    except (AttributeError, KeyError, IndexError, TypeError):
        holds_anyway = False  # what is looked for is not even there
    assert not holds_anyway


def test_every_flag_of_an_experiment_has_its_effect_here():
    assert set(EFFECTS) == names(flags.EXPERIMENT)


# --- What the flags of a run change, seen in what the command does ---


def effect_of_preset(command):
    command("--preset=two_steps_gru")
    command("--preset=two_steps_gru", "--hidden_sizes=7", "--workdir=w")
    command("--workdir=v")
    assert [config.model for config, _ in command.ran] == ["gru", "gru", "dense"]
    assert [config.hidden_sizes for config, _ in command.ran] == [(32,), (7,), None]


def effect_of_workdir(command):
    ended = command("--workdir=a/b")
    assert ended.stdout.splitlines()[-1] == "a/b/result.json"
    assert json.loads((command.home / "a/b/result.json").read_text()) == tiny.run().values
    assert not (command.home / "runs").exists()
    assert command().stdout.splitlines()[-1].startswith("runs/")


def effect_of_overwrite(command):
    assert command("--workdir=w", "--seed=1").code == 0
    assert command("--workdir=w", "--seed=2").code == 2
    assert json.loads((command.home / "w/config.json").read_text())["seed"] == 1
    assert command("--workdir=w", "--seed=2", "--overwrite").code == 0
    assert json.loads((command.home / "w/config.json").read_text())["seed"] == 2


def effect_of_forecast_only(command):
    command("--workdir=w", "--forecast_only")
    assert not command.ran
    assert command.forecast_alone == 1
    values = json.loads((command.home / "w/result.json").read_text())
    assert "forecast" in values
    assert "final" not in values
    command("--workdir=v")
    assert command.forecast_alone == 1


def effect_of_save_predictions(command):
    command("--workdir=w")
    assert not (command.home / "w/predictions.npz").exists()
    command("--workdir=v", "--save_predictions")
    with np.load(command.home / "v/predictions.npz") as found:
        assert set(found) == {"probabilities", "labels", "mask"}
        np.testing.assert_array_equal(found["labels"], tiny.run().predictions["labels"][0])


def effect_of_tensorboard(command):
    pytest.importorskip("tensorboardX")
    command("--workdir=w")
    assert not (command.home / "w/tensorboard").exists()
    command("--workdir=v", "--tensorboard")
    assert list((command.home / "v/tensorboard").rglob("events.out.tfevents.*"))


def effect_of_json(command):
    ended = command("--json")
    assert json.loads(ended.stdout) == tiny.run().values
    assert "epoch 1/" in ended.stderr
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(command("--workdir=w").stdout)


def effect_of_resume(command):
    assert command("--workdir=w", "--seed=5", "--num_epochs=2").code == 0
    (command.home / "w/mine.txt").write_text("mine")
    assert command("--workdir=w", "--num_epochs=4").code == 2
    assert command("--workdir=w", "--num_epochs=4", "--resume").code == 0
    assert [(config.seed, config.num_epochs) for config, _ in command.ran] == [(5, 2), (5, 4)]
    assert command("--workdir=other", "--resume").code == 2


def effect_of_checkpoint_every(command):
    command()
    command("--checkpoint_every=3", "--workdir=w")
    assert [options["saving"].every for _, options in command.ran] == [None, 3]
    assert command("--checkpoint_every=0", "--workdir=v").code == 2


def effect_of_mesh(command):
    command("--mesh=replica:1,data:1")
    command("--workdir=w")
    assert [options["mesh"] for _, options in command.ran] == ["replica:1,data:1", None]
    assert command("--mesh=replica:64", "--workdir=v").code == 2


def effect_of_distributed(command):
    joined = []
    command.monkeypatch.setattr(devices, "join_processes", lambda *args: joined.append(args))
    command()
    assert joined == []
    command("--distributed", "--workdir=w")
    assert joined == [(None, None, None)]


def effect_of_addresses(command):
    joined = []
    command.monkeypatch.setattr(devices, "join_processes", lambda *args: joined.append(args))
    command("--coordinator_address=host:1234", "--num_processes=3", "--process_id=2")
    assert joined == [("host:1234", 3, 2)]


def effect_of_compilation_cache(command):
    command("--nocompilation_cache")
    assert command.updates == {"jax_enable_compilation_cache": False}
    assert not (command.home / "cache").exists()
    command("--workdir=w")
    assert command.updates["jax_compilation_cache_dir"] == str(command.home / "cache/seqjax")


def effect_of_cache_dir(command):
    command("--cache_dir=elsewhere")
    assert command.updates["jax_compilation_cache_dir"] == "elsewhere"
    assert (command.home / "elsewhere").is_dir()
    assert not (command.home / "cache").exists()


RUN_EFFECTS = {
    "preset": effect_of_preset,
    "workdir": effect_of_workdir,
    "overwrite": effect_of_overwrite,
    "forecast_only": effect_of_forecast_only,
    "save_predictions": effect_of_save_predictions,
    "tensorboard": effect_of_tensorboard,
    "json": effect_of_json,
    "resume": effect_of_resume,
    "checkpoint_every": effect_of_checkpoint_every,
    "mesh": effect_of_mesh,
    "distributed": effect_of_distributed,
    "coordinator_address": effect_of_addresses,
    "num_processes": effect_of_addresses,
    "process_id": effect_of_addresses,
    "compilation_cache": effect_of_compilation_cache,
    "cache_dir": effect_of_cache_dir,
}


@pytest.mark.parametrize("flag", RUN_EFFECTS)
def test_a_flag_of_the_run_changes_what_it_says_it_changes(flag, main_command):
    RUN_EFFECTS[flag](main_command)


def test_every_flag_of_a_run_has_its_effect_here():
    assert set(RUN_EFFECTS) == names(flags.RUN)


# --- Reading the command line ---


def test_without_flags_all_is_default():
    config, run = main_flags(["main"])
    assert config == Config()
    assert run.compilation_cache
    others = {name: value for name, value in vars(run).items() if name != "compilation_cache"}
    assert set(others.values()) == {None, False}


def test_every_setting_has_a_flag_and_every_flag_a_setting():
    assert names(flags.EXPERIMENT) == set(Config().to_dict())


def test_a_flag_that_is_given_beside_a_preset_wins_wherever_it_stands():
    for argv in (["--preset=two_steps_gru", "--seq_len=4"], ["--seq_len=4", "--preset=two_steps_gru"]):
        config, _ = main_flags(["main", *argv])
        assert config == Config(seq_len=4, model="gru", hidden_sizes=(32,))


@pytest.mark.parametrize(
    ("argv", "value"),
    [
        (["--step_position"], True),
        (["--nostep_position"], False),
        (["--step_position=true"], True),
        (["--step_position", "--nostep_position"], False),
    ],
)
def test_a_switch_can_be_set_both_ways(argv, value):
    assert main_flags(["main", *argv])[0].step_position is value


def test_a_command_line_can_be_read_twice_and_leaves_nothing():
    assert main_flags(["main", "--seq_len=7"])[0].seq_len == 7
    assert main_flags(["main"])[0].seq_len == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--seq_length=2"], "seq_length"),
        (["--seq_lem=2"], "Did you mean: seq_len"),
        (["--seq_len"], "seq_len"),
        (["--seq_len=two"], "seq_len='two': expected a whole number"),
        (["--seq_len=2.5"], "seq_len='2.5': expected a whole number"),
        (["--seq_len="], "seq_len='': expected a whole number"),
        (["--learning_rate=fast"], "learning_rate='fast': expected a number"),
        (["--hidden_sizes=10,"], "hidden_sizes='10,': expected whole numbers separated by commas"),
        (["--hidden_sizes=ten"], "hidden_sizes='ten'"),
        (["--hidden_sizes="], "hidden_sizes=''"),
        (["--step_position=maybe"], "step_position='maybe': expected true or false"),
        (["--overwrite=x"], "overwrite='x': expected true or false"),
        (["seq_len=2"], "unexpected argument 'seq_len=2'"),
        (["--seq_len=2", "extra"], "unexpected argument 'extra'"),
        (["--checkpoint_every=0"], "checkpoint_every=0: expected a whole number of at least 1"),
        (["--num_processes=2"], "num_processes=2: only with --distributed or --coordinator_address"),
        (["--process_id=0"], "process_id=0: only with --distributed or --coordinator_address"),
        (["--nodistributed", "--process_id=0"], "process_id=0: only with --distributed"),
        (["--distributed", "--num_processes=0"], "num_processes=0: expected a whole number of at least 1"),
        (["--coordinator_address=a:1", "--num_processes=2", "--process_id=2"], "process_id=2: expected"),
        (["--distributed", "--process_id=-1"], "process_id=-1: expected"),
        (["--workdir="], "workdir='': is empty; leave --workdir out for its default"),
        (["--cache_dir="], "cache_dir='': is empty"),
        (["--mesh="], "mesh='': is empty"),
        (["--coordinator_address="], "coordinator_address='': is empty"),
        (["--preset="], "preset='': is empty"),
        *(
            ([f"--coordinator_address={address}"], f"coordinator_address={address}: expected HOST:PORT")
            for address in ("host", "host:", ":1234", "host:port", "host:0", "host:65536", "host:-1")
        ),
        (["--forecast_only", "--save_predictions"], "save_predictions=True: --forecast_only stops before"),
        (["--forecast_only", "--checkpoint_every=2"], "checkpoint_every=2: --forecast_only stops before"),
        (["--workdir=a\nb"], r"workdir='a\nb': holds characters that cannot be printed"),
        (["--workdir=a\x1b[2J"], "holds characters that cannot be printed"),
        (["--workdir=\udcff"], "holds characters that cannot be printed"),
        (["--labels=own\nstep"], "holds characters that cannot be printed"),
    ],
    ids=str,
)
def test_a_command_line_that_cannot_be_read_is_refused_in_one_line(argv, said):
    with pytest.raises(UsageError) as error:
        main_flags(["main", *argv])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_switch_that_is_off_is_in_nobodys_way():
    for argv in (["--forecast_only", "--nosave_predictions"], ["--noforecast_only", "--save_predictions"]):
        main_flags(["main", *argv])


def test_a_path_may_hold_spaces_and_letters_of_any_language():
    assert main_flags(["main", "--workdir=mein Übungslauf 数"])[1].workdir == "mein Übungslauf 数"


def test_an_unknown_preset_is_told_the_nearest():
    with pytest.raises(ConfigError, match="did you mean two_steps_gru"):
        main_flags(["main", "--preset=two_step_gru"])


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--seq_len=2", "--help"], ["--helpfull"]])
def test_help_explains_every_flag_with_its_default(argv):
    with pytest.raises(HelpRequested) as asked:
        main_flags(["main", *argv])
    text = str(asked.value)
    defaults = Config()
    for rows in (flags.EXPERIMENT | flags.RUN).values():
        for name, kind, meaning in rows:
            entry = re.search(rf"^  --(\[no\])?{name}(=\S+)?\n +(.+)$", text, re.MULTILINE)
            assert entry, name
            assert bool(entry[1]) == (kind is bool)
            assert entry[3].startswith(meaning)
            default = getattr(defaults, name, None)
            if default is not None and default != ():
                assert entry[3].endswith(f"Default: {str(default).lower() if kind is bool else default}.")


def test_importing_a_command_defines_no_flags():
    code = (
        "import experiments.main, experiments.presets\n"
        "from absl import flags\n"
        "print(sorted(m for m in flags.FLAGS.flags_by_module_dict() if m.startswith(('seqjax', 'experiments'))))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
