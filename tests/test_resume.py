"""A run that was stopped, however, and taken up again ends in the same bits as one that nobody stopped."""

import dataclasses
import functools
import json
import os
import random
import signal
import time

import pytest
import runs
import tiny

from experiments import flags
from seqjax import experiment, training
from seqjax.checkpoints import CheckpointError, Checkpoints
from seqjax.config import Config, ConfigError
from seqjax.experiment import StoppedError


@pytest.fixture(scope="module")
def compiled_once():
    """A run and its resumption share compiled programs: they are the same anyway, and to compile takes long."""
    real, patch = training.compile_programs, pytest.MonkeyPatch()

    @functools.cache
    def cached(config, num_replicates):
        import seqjax.tasks

        return real(config, seqjax.tasks.build(config), tiny.model_of(config), num_replicates)

    patch.setattr(training, "compile_programs", lambda config, task, model, n, mesh=None: cached(config, n))
    yield
    patch.undo()


def config(**settings) -> Config:
    return Config(**(runs.SMALL | {"num_epochs": 4} | settings))


def run(of: Config, saving=None, lines=None, resumed=None) -> experiment.Result:
    def watch(what, value):
        if what == "epoch" and lines is not None:
            lines.append(value)
        if what == "resumed" and resumed is not None:
            resumed.append(value)

    return experiment.run(of, watch, saving=saving or experiment.Saving())


@functools.cache
def uninterrupted(of: Config) -> experiment.Result:
    return run(of)


def assert_same_result(found: experiment.Result, expected: experiment.Result) -> None:
    tiny.assert_same_bits(found.params, expected.params)
    tiny.assert_same_bits(found.predictions, expected.predictions)
    assert runs.comparable(found.values) == runs.comparable(expected.values)


CASES = {
    "dense": {},
    "dense, replicates in groups": {"num_replicates": 3, "replicates_at_once": 2},
    "gru, adamw, warm-up and cosine": {
        "model": "gru",
        "hidden_sizes": (4,),
        "optimizer": "adamw",
        "schedule": "warmup_cosine",
        "grad_clip": 1.0,
    },
    "fresh data": {"fresh_data": True, "label_noise": 0.1},
    "shared data": {"num_replicates": 2, "vary": "init", "optimizer": "rmsprop"},
}


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.full] if case in ("dense", "shared data") else []) for case in CASES],
)
def test_stopped_after_any_epoch_and_resumed_ends_in_the_same_bits(case, tmp_path):
    of = config(**CASES[case])
    total = of.num_epochs * (2 if "groups" in case else 1)
    for stop_after in range(1, total):
        folder = tmp_path / str(stop_after)
        before, after, resumed = [], [], []
        with pytest.raises(StoppedError, match=r"^stopped after epoch \d of 4$"):
            run(of, runs.saving(folder, 1, stop_after), before)
        assert len(before) == stop_after
        found = run(of, runs.saving(folder), after, resumed)
        assert_same_result(found, uninterrupted(of))
        # No epoch is trained twice, and none is left out.
        assert len(after) == total - stop_after
        assert sum(value["epoch"] for value in resumed) == stop_after
        assert not any(value["problems"] for value in resumed)


@pytest.mark.usefixtures("compiled_once")
def test_stopped_after_every_epoch_ends_in_the_same_bits(tmp_path):
    of = config()
    for _ in range(3):
        with pytest.raises(StoppedError):
            run(of, runs.saving(tmp_path, None, 1))
    assert_same_result(run(of, runs.saving(tmp_path, None)), uninterrupted(of))


@pytest.mark.usefixtures("compiled_once")
def test_a_run_that_was_finished_is_not_trained_again(tmp_path):
    of, lines = config(), []
    run(of, runs.saving(tmp_path))
    assert_same_result(run(of, runs.saving(tmp_path), lines), uninterrupted(of))
    assert lines == []


@pytest.mark.usefixtures("compiled_once")
def test_a_checkpoint_now_and_then_loses_the_epochs_since(tmp_path):
    of, lines = config(), []
    with pytest.raises(InterruptedError):  # killed, so to say, in the fourth epoch
        run(of, dataclasses.replace(runs.saving(tmp_path, 2), should_stop=killed_after(3)))
    assert_same_result(run(of, runs.saving(tmp_path, 2), lines), uninterrupted(of))
    assert [line["epoch"] for line in lines] == [3, 4]


def killed_after(epochs: int):
    asked = iter(range(1, 100))

    def should_stop() -> bool:
        if next(asked) >= epochs:
            raise InterruptedError
        return False

    return should_stop


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("damaged", [1, pytest.param(2, marks=pytest.mark.full), 3])
def test_over_damaged_checkpoints_it_ends_in_the_same_bits_and_says_so(damaged, tmp_path):
    of, resumed = config(), []
    with pytest.raises(StoppedError):
        run(of, runs.saving(tmp_path, 1, 3))
    for epoch in range(4 - damaged, 4):
        path = tmp_path / "0" / str(epoch) / "meta" / "metadata"
        path.write_bytes(path.read_bytes()[:-20])
    found = run(of, runs.saving(tmp_path), resumed=resumed)
    assert_same_result(found, uninterrupted(of))
    assert resumed[0]["epoch"] == 3 - damaged, resumed
    assert len(resumed[0]["problems"]) == damaged
    # And what it saved on the way is whole.
    assert Checkpoints(tmp_path / "0").restore(template_of(of)).epoch == 4


def template_of(of: Config):
    return training.compile_programs(of, None, None, of.num_replicates).state


@pytest.mark.usefixtures("compiled_once")
def test_more_epochs_equal_a_longer_run(tmp_path):
    short, long = config(num_epochs=2), config()
    run(short, runs.saving(tmp_path))
    assert_same_result(run(long, runs.saving(tmp_path)), uninterrupted(long))


@pytest.mark.usefixtures("compiled_once")
def test_a_folder_that_takes_no_checkpoint_ends_the_run_with_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError) as error:
        run(config(), runs.saving(tmp_path / "file"))
    assert "\n" not in str(error.value)


def test_nothing_is_saved_where_nothing_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Checkpoints, "save", None)
    run(config(num_epochs=1))
    assert not list(tmp_path.iterdir())


# -- What may be resumed ----------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """A folder that holds this run, and what `--resume` with these flags makes of it."""

    def resume(settings, **given):
        (tmp_path / "config.json").write_text(json.dumps(Config(**settings).to_dict()))
        return flags.main_flags(["main", "--resume", *runs.arguments(workdir=tmp_path, **given)])[0]

    return resume


def test_what_is_not_given_is_taken_from_the_stored_run(stored):
    settings = {"seq_len": 3, "model": "gru", "hidden_sizes": (7,), "eval_seq_len": (2, 5), "warmup_epochs": None}
    assert stored(settings).to_dict() == Config(**settings).to_dict()
    assert stored(settings, seq_len=3, model="gru").to_dict() == Config(**settings).to_dict()


OTHERS = {
    "seq_len": 5,
    "num_features": 90,
    "threshold": 3,
    "labels": "own_step",
    "label_noise": 0.2,
    "num_samples": 100,
    "val_fraction": 0.5,
    "seed": 1,
    "model": "gru",
    "hidden_sizes": (3,),
    "activation": "relu",
    "step_position": True,
    "readout": "last_step",
    "batch_size": 64,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "grad_clip": 1.0,
    "fresh_data": True,
    "num_replicates": 2,
    "first_replicate": 3,
    "vary": "init",
    "replicates_at_once": 5,
    "eval_seq_len": (3,),
    "num_epochs": 5,  # fewer
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_setting_is_refused_by_name(stored, name):
    with pytest.raises(ConfigError, match=rf"holds another experiment: {name} \(stored ") as error:
        stored({}, **{name: OTHERS[name]})
    assert "\n" not in str(error.value)
    assert error.value.args[0].count("(stored") == 1


def test_all_that_differ_are_named(stored):
    with pytest.raises(ConfigError, match=r"seq_len \(stored 2, given 3\), batch_size \(stored 32, given 8\)"):
        stored({}, seq_len=3, batch_size=8)


def test_more_epochs_may_be_asked_for_where_the_schedule_does_not_depend_on_them(stored):
    assert stored({}, num_epochs=20).num_epochs == 20
    for schedule in ("cosine", "warmup_cosine"):
        with pytest.raises(ConfigError, match=r"num_epochs \(stored 10, given 20\)"):
            stored({"schedule": schedule}, num_epochs=20)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": ["own_step"]}, "labels=['own_step']: expected a name"),
        ({"hidden_sizes": 10}, "hidden_sizes=10: expected a list"),
        ({"seq_len": "2"}, "seq_len='2': expected a whole number"),
        ({"learning_rate": 10**400}, "learning_rate=1000"),
        ({"step_position": "no"}, "step_position='no'"),
        ({"seq_length": 2}, "unknown setting 'seq_length'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_stored_run_with_a_wrong_setting_is_refused_by_its_name(tmp_path, change, said):
    (tmp_path / "config.json").write_text(json.dumps(Config().to_dict() | change))
    with pytest.raises(ConfigError) as error:
        flags.main_flags(["main", "--resume", f"--workdir={tmp_path}"])
    assert f"holds no run to resume (config.json: {said}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{}", "[]", "5", "null", '{"seq_len": 2}', '{"seq_len"', "", "[[1]]", '"x"'])
def test_a_stored_run_that_is_no_whole_config_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for parse in (flags.main_flags, flags.sweep_flags):
        with pytest.raises(ConfigError, match="to resume") as error:
            parse(["main", "--resume", f"--workdir={tmp_path}"])
        assert "\n" not in str(error.value)


# -- As a command -----------------------------------------------------------------------------------

# Long enough to be hit in the middle, short enough to be ended often.
COMMAND = runs.SMALL | {"num_epochs": 20, "checkpoint_every": 1, "save_predictions": True}
GROUPED = COMMAND | {"num_replicates": 3, "replicates_at_once": 2, "num_epochs": 5}


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def unkilled(cache_dir, tmp_path_factory):
    """What an uninterrupted run of these flags leaves; each is run once."""
    found = {}

    def contents(**given):
        key = json.dumps(given, sort_keys=True)
        if key not in found:
            folder = tmp_path_factory.mktemp("unkilled")
            runs.succeed(workdir=folder, cache_dir=cache_dir, **given)
            found[key] = runs.contents(folder)
        return found[key]

    return contents


def resumed_command(err: str) -> list[str]:
    """The command line that a stopped run shows."""
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.count("go on with: ") == 1
    return line.split("go on with: ")[1].split()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_epoch_saves_and_shows_how_to_resume(number, cache_dir, unkilled, tmp_path):
    # Without checkpoint_every: only the signal saves.
    given = {name: value for name, value in COMMAND.items() if name != "checkpoint_every"} | {"num_epochs": 1000}
    expected = unkilled(**COMMAND)
    process = runs.start(workdir=tmp_path / "run", cache_dir=cache_dir, **given)
    runs.wait_for(lambda: runs.epochs_of(tmp_path / "run") >= 3 or process.poll() is not None)
    process.send_signal(number)
    code, out, err = runs.finish(process)
    assert code == 75, (out, err)
    assert not (tmp_path / "run" / "result.json").exists()
    shown = resumed_command(err)
    assert shown[:3] == ["python", "-m", "experiments.main"]
    assert err.count("\n") == 2, err  # what it does, and how it ended

    stopped_at = runs.epochs_of(tmp_path / "run")
    assert f"stopped after epoch {stopped_at} of 1000" in err
    assert 3 <= stopped_at < 1000
    # The epochs that were done are those of a run that nobody stopped, and are not done again.
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert lines[:20] == expected["metrics"][: len(lines)]
    (epoch,) = (tmp_path / "run" / "checkpoints" / "0").iterdir()
    assert int(epoch.name) == stopped_at


def test_the_line_of_a_stopped_run_resumes_it(cache_dir, unkilled, tmp_path):
    expected = unkilled(**COMMAND | {"num_epochs": 60})
    process = runs.start(workdir=tmp_path / "run", cache_dir=cache_dir, **COMMAND | {"num_epochs": 60})
    runs.wait_for(lambda: runs.epochs_of(tmp_path / "run") >= 2 or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    code, out, err = runs.finish(process)
    assert code == 75, (out, err)
    # It says neither what the run is nor that predictions are wanted: the first is stored.
    given = dict(
        argument.removeprefix("--").split("=") for argument in resumed_command(err)[3:] if "=" in argument
    )
    given.pop("cache_dir")
    assert given == {"workdir": str(tmp_path / "run"), "checkpoint_every": "1"}
    runs.succeed(resume=True, save_predictions=True, cache_dir=cache_dir, **given)
    assert runs.contents(tmp_path / "run") == expected


def test_a_second_ctrl_c_leaves_at_once(cache_dir, tmp_path):
    given = COMMAND | {"num_epochs": 1000, "num_samples": 200_000, "batch_size": 1}  # epochs that take seconds
    process = runs.start(workdir=tmp_path / "run", cache_dir=cache_dir, **given)
    runs.wait_for(lambda: runs.epochs_of(tmp_path / "run") or process.poll() is not None)
    process.send_signal(signal.SIGINT)  # the second epoch is running: one call into compiled code
    assert any("stopping after this epoch" in line for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGINT)
    code, out, err = runs.finish(process)
    assert code == 130, (out, err)
    assert err.splitlines()[-1] == "stopped at once"
    assert runs.epochs_of(tmp_path / "run") == 1


def test_a_workdir_in_use_is_refused(cache_dir, tmp_path):
    first = runs.start(workdir=tmp_path / "run", cache_dir=cache_dir, **COMMAND | {"num_epochs": 100_000})
    try:
        runs.wait_for(lambda: (tmp_path / "run" / "config.json").exists() or first.poll() is not None)
        before = (tmp_path / "run" / "config.json").read_bytes()
        for given in ({"resume": True}, {"overwrite": True, **COMMAND}):
            code, out, err = runs.command(workdir=tmp_path / "run", cache_dir=cache_dir, **given)
            assert code == 2
            assert err.startswith(f"error: workdir={tmp_path / 'run'}: is in use by another run")
            assert err.count("\n") == 1
            assert not out
        assert first.poll() is None
        assert (tmp_path / "run" / "config.json").read_bytes() == before
    finally:
        first.kill()
        runs.finish(first)
    # The lock dies with its process.
    code, _, err = runs.command(
        workdir=tmp_path / "run", cache_dir=cache_dir, overwrite=True, **COMMAND | {"num_epochs": 1}
    )
    assert code == 0, err


def test_a_torn_last_line_is_written_again(cache_dir, unkilled, tmp_path):
    expected = unkilled(**COMMAND)
    runs.succeed(workdir=tmp_path / "run", cache_dir=cache_dir, **COMMAND)
    record = tmp_path / "run" / "metrics.jsonl"
    record.write_bytes(record.read_bytes()[:-30])
    for epoch in ("19", "20"):  # as if it had been killed while it wrote that line
        os.rename(tmp_path / "run" / "checkpoints" / "0" / epoch, tmp_path / f"gone{epoch}")
    (tmp_path / "run" / "result.json").unlink()
    runs.succeed(
        workdir=tmp_path / "run", cache_dir=cache_dir, resume=True, checkpoint_every=1, save_predictions=True
    )
    assert runs.contents(tmp_path / "run") == expected


def test_a_damaged_checkpoint_is_told_of(cache_dir, unkilled, tmp_path):
    expected = unkilled(**COMMAND)
    runs.succeed(workdir=tmp_path / "run", cache_dir=cache_dir, **COMMAND)
    for file in (tmp_path / "run" / "checkpoints" / "0" / "20" / "state" / "d").iterdir():
        file.write_bytes(bytes(file.stat().st_size))
    given = {"resume": True, "checkpoint_every": 1, "save_predictions": True}
    code, out, err = runs.command(workdir=tmp_path / "run", cache_dir=cache_dir, **given)
    assert code == 0, err
    assert "Traceback" not in out + err
    told = " ".join((out + err).split())
    assert "the checkpoint of epoch 20 is damaged" in told
    assert runs.contents(tmp_path / "run") == expected


@pytest.mark.full
@pytest.mark.parametrize("given", [COMMAND, GROUPED], ids=["one", "groups"])
def test_resuming_a_finished_run_changes_nothing(given, cache_dir, unkilled, tmp_path):
    expected = unkilled(**given)
    runs.succeed(workdir=tmp_path / "run", cache_dir=cache_dir, **given)
    runs.succeed(
        workdir=tmp_path / "run", cache_dir=cache_dir, resume=True, checkpoint_every=1, save_predictions=True
    )
    assert runs.contents(tmp_path / "run") == expected


def test_groups_that_are_resumed_with_more_epochs_keep_all_their_lines(cache_dir, unkilled, tmp_path):
    expected = unkilled(**GROUPED)
    runs.succeed(workdir=tmp_path / "run", cache_dir=cache_dir, **GROUPED | {"num_epochs": 3})
    given = {"resume": True, "checkpoint_every": 1, "save_predictions": True, "num_epochs": 5}
    runs.succeed(workdir=tmp_path / "run", cache_dir=cache_dir, **given)
    found = runs.contents(tmp_path / "run")
    assert sorted(found.pop("metrics")) == sorted(expected["metrics"])
    assert found == {name: value for name, value in expected.items() if name != "metrics"}


def test_another_mesh_goes_on_from_the_checkpoint(cache_dir, tmp_path):
    """Another mesh may fill up a group with other replicates; those that were asked for are in both."""
    folder, given = tmp_path / "run", runs.SMALL | {"num_replicates": 3, "checkpoint_every": 1}
    runs.succeed(devices=2, workdir=folder, cache_dir=cache_dir, num_epochs=3, mesh="replica:2", **given)
    again = {"workdir": folder, "cache_dir": cache_dir, "resume": True, "num_epochs": 4, "checkpoint_every": 1}
    code, out, err = runs.command(devices=2, mesh="data:2", **again)
    assert code == 0, err
    assert "damaged" not in out + err
    assert "epoch 1/4" not in out
    straight = tmp_path / "straight"
    runs.succeed(devices=2, workdir=straight, cache_dir=cache_dir, num_epochs=4, mesh="data:2", **given)
    assert runs.difference(runs.params_of(folder), runs.params_of(straight)) < 2e-5


# -- SIGKILL ----------------------------------------------------------------------------------------


def killed_until_it_ends(
    folder, kills: int, rng: random.Random, cache_dir, given, longest: float, number=signal.SIGKILL
) -> list[str]:
    """Start, send the signal after a random time, resume, ..., until so many hit; then let it end."""
    story = []
    while True:
        resume = (folder / "config.json").exists()
        flags_now = {"resume": True, "checkpoint_every": 1, "save_predictions": True} if resume else given
        process = runs.start(workdir=folder, cache_dir=cache_dir, **flags_now)
        if len(story) == kills:
            code, out, err = runs.finish(process)
            assert code == 0, (story, out, err)
            return story
        delay = rng.uniform(0, longest)
        time.sleep(delay)
        process.send_signal(number)
        code, out, err = runs.finish(process)
        # One that had ended before is resumed all the same; 75: it saved first; until it listens, signals kill.
        assert code in (0, -number, *((75,) if number == signal.SIGTERM else ())), (story, code, out, err)
        if code:
            story.append(f"after {delay:.3f} s, {runs.epochs_of(folder)} epochs")


@pytest.mark.parametrize(
    ("given", "share", "number"),
    [
        pytest.param(COMMAND, 0.6, signal.SIGKILL, id="one"),
        pytest.param(GROUPED, 0.4, signal.SIGKILL, id="groups"),
        pytest.param(COMMAND, 0.12, signal.SIGTERM, id="one, SIGTERM", marks=pytest.mark.full),
        pytest.param(GROUPED, 0.08, signal.SIGTERM, id="groups, SIGTERM", marks=pytest.mark.full),
    ],
)
def test_killed_at_random_moments_it_ends_in_the_same_bits(given, share, number, cache_dir, unkilled, tmp_path):
    expected = unkilled(**given)
    started = time.monotonic()
    runs.succeed(workdir=tmp_path / "timed", cache_dir=cache_dir, **given)
    longest = time.monotonic() - started  # so that start, training, evaluation and figures are all hit
    kills, seed = round(share * int(os.environ.get("SEQJAX_KILLS", 5))), int(os.environ.get("SEQJAX_SEED", 0))
    story = killed_until_it_ends(tmp_path / "run", kills, random.Random(seed), cache_dir, given, longest, number)
    print(f"seed {seed}, {kills} kills:", *story, sep="\n  ")
    found = runs.contents(tmp_path / "run")
    # What it was writing when it was killed may be left, under a hidden name.
    for of in (found, expected := dict(expected)):
        of["files"] = [name for name in of["files"] if not name.startswith(".")]
    assert found == expected


def test_killed_before_its_first_checkpoint_it_starts_again(cache_dir, unkilled, tmp_path):
    expected = unkilled(**COMMAND)
    process = runs.start(workdir=tmp_path / "run", cache_dir=cache_dir, **COMMAND)
    runs.wait_for(lambda: (tmp_path / "run" / "config.json").exists() or process.poll() is not None)
    process.kill()
    runs.finish(process)
    assert not (tmp_path / "run" / "checkpoints" / "0" / "1").exists()
    runs.succeed(
        workdir=tmp_path / "run", cache_dir=cache_dir, resume=True, checkpoint_every=1, save_predictions=True
    )
    assert runs.contents(tmp_path / "run") == expected


def test_a_workdir_without_a_run_cannot_be_resumed(tmp_path):
    code, out, err = runs.command(workdir=tmp_path, resume=True)
    assert code == 2
    assert err.startswith(f"error: workdir={tmp_path}: holds no run to resume")
    assert err.count("\n") == 1
    assert not out
