"""Replicates alone and in company, data that never repeat, other lengths, and memory bounded by time."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
import tiny
from scipy import stats

from seqjax import devices, experiment, forecasts, metrics, models, narrow, results, tasks, training
from seqjax.config import Config, ConfigError

# One update's rounding differs with the shapes of the products; Adam's first steps carry it on.
TOLERANCE = 2e-5


def config(**settings) -> Config:
    return Config(**(runs.SMALL | {"num_epochs": 2} | settings))


@functools.cache
def run_of(of: Config) -> tuple[experiment.Result, list]:
    """The result, and the lines for metrics.jsonl."""
    lines = []
    result = experiment.run(of, lambda what, value: lines.append(value) if what == "epoch" else None)
    return result, lines


def run(**settings) -> experiment.Result:
    return run_of(config(**settings))[0]


def values_of_each(of: Config, size: int, groups) -> list:
    """(state, train, val, outputs) of every group of replicates, trained by one program."""
    model = tiny.model_of(of)
    programs = training.compile_programs(of, tasks.build(of), model, size)
    found, seed = [], np.uint32(of.seed)
    for group in groups:
        numbers = np.array(group, np.int32)
        state, data = programs.setup(seed, numbers)
        state, train, val = programs.epoch(state, data, seed, numbers, np.int32(0))
        outputs = programs.evaluate(state.params, data, seed, numbers)
        found.append(jax.device_get((state, train, val, outputs)))
    return found


def replicate(tree, i):
    return jax.tree.map(lambda a: a[i], tree)


# -- What is reported -------------------------------------------------------------------------------


def flat(values, *path):
    return values if not path else flat(values[path[0]], *path[1:])


@pytest.mark.parametrize("vary", ["all", "init"])
def test_every_measured_value_is_a_mean_with_a_t_interval_and_the_values_of_each(vary):
    values = run(num_replicates=3, vary=vary).values
    paths = [
        ("final", "val_loss"),
        ("final", "train_accuracy"),
        ("per_step", "val_loss"),
        ("budget", "optimisation"),
        ("budget", "generalisation"),
        ("history", "train_loss"),
        ("history", "val_accuracy"),
    ]
    for path in paths:
        each = np.array(flat(values["replicates"], *path))
        assert len(each) == 3
        np.testing.assert_allclose(flat(values, *path), each.mean(0), rtol=1e-6, atol=1e-9)
        low, high = stats.t.interval(0.95, 2, each.mean(0), stats.sem(each, axis=0))
        np.testing.assert_allclose(flat(values["ci95"], *path), np.stack([low, high], -1), rtol=1e-6, atol=1e-9)
    # One number for each epoch and replicate.
    assert np.array(values["replicates"]["history"]["val_loss"]).shape == (3, 2)
    assert values["history"]["epoch"] == [1, 2]
    total = sum(value for value in values["budget"].values() if value is not None)
    assert total == pytest.approx(values["final"]["val_loss"], abs=1e-6)


def test_a_single_run_has_neither_intervals_nor_replicates():
    values = run().values
    assert values["ci95"] is None
    assert "replicates" not in values


@pytest.mark.parametrize("vary", ["all", "init"])
def test_the_standard_error_of_the_mean_follows_what_varies(vary):
    result = run(num_replicates=3, vary=vary)
    each = result.values["replicates"]["final"]
    expected = results.error_of_mean(np.array(each["val_loss"]), np.array(each["val_loss_se"]), vary)
    assert result.values["final"]["val_loss_se"] == pytest.approx(expected)


def test_the_parameters_of_every_replicate_are_given():
    result = run(num_replicates=3)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(result.params)} == {3}
    assert result.predictions["labels"].shape[0] == 3


# -- Alone and in company ---------------------------------------------------------------------------

MODELS = {
    "dense": {"activation": "relu"},
    "gru": {"hidden_sizes": (5,)},
    "causal_conv": {"hidden_sizes": (5,)},
    "attention": {"hidden_sizes": (8,), "num_heads": 2, "num_layers": 1},
}


OTHERS = [pytest.param(model, "all", marks=pytest.mark.full) for model in ("dense", "causal_conv")]


def with_gradient(state):
    """The leaves by path, but for the bias of attention's keys: no output depends on it, its gradient is rounding
    alone, and Adam makes steps of full size of that."""
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    return {path: leaf for path, leaf in leaves.items() if "['key']['bias']" not in path}


@pytest.mark.parametrize(("model", "vary"), [("gru", "all"), ("attention", "all"), ("gru", "init"), *OTHERS])
def test_a_replicate_is_the_same_alone_and_in_company(model, vary):
    of = config(model=model, vary=vary, seq_len=3, label_noise=0.1, **MODELS[model])
    (together,) = values_of_each(of, 3, [[0, 1, 2]])
    alone = values_of_each(of, 1, [[0], [1], [2]])
    for i in range(3):
        state, *measured = replicate(together, i)
        tiny.assert_close(with_gradient(replicate(alone[i][0], 0)), with_gradient(state), rtol=0, atol=TOLERANCE)
        for name, a, b in zip(("train", "val", "evaluation"), replicate(alone[i][1:], 0), measured, strict=True):
            for field in ("loss", "losses"):
                if hasattr(a, field):
                    np.testing.assert_allclose(
                        getattr(a, field), getattr(b, field), rtol=1e-4, atol=1e-4, err_msg=name
                    )
        np.testing.assert_array_equal(alone[i][3].labels[0], together[3].labels[i])
    assert tiny.differ(replicate(together[0], 0), replicate(together[0], 1))


@pytest.mark.parametrize("vary", ["all", "init"])
def test_narrow_layers_of_many_replicates_learn_the_same(vary):
    of = config(activation="relu", vary=vary, label_noise=0.1)
    (together,) = values_of_each(of, narrow.MANY, [range(narrow.MANY)])
    for i, alone in zip((0, 7), values_of_each(of, 1, [[0], [7]]), strict=True):
        tiny.assert_close(replicate(alone[0], 0), replicate(together[0], i), rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(replicate(alone[1].loss, 0), replicate(together[1].loss, i), rtol=1e-4)


def test_first_replicate_runs_one_of_a_larger_run():
    company = run(num_replicates=3)
    for i in (0, 2):
        alone = run(first_replicate=i)
        tiny.assert_close(replicate(alone.params, 0), replicate(company.params, i), rtol=0, atol=TOLERANCE)
        for group in ("final", "history", "per_step", "budget"):
            for name, each in company.values["replicates"][group].items():
                np.testing.assert_allclose(
                    np.array(alone.values[group][name], float), np.array(each[i], float), atol=1e-4, err_msg=name
                )


def test_first_replicate_moves_all_of_a_run_along():
    wide, shifted = run(num_replicates=3), run(num_replicates=2, first_replicate=1)
    rest = jax.tree.map(lambda a: a[1:], wide.params)
    tiny.assert_close(shifted.params, rest, rtol=0, atol=TOLERANCE)


# -- What varies ------------------------------------------------------------------------------------


def programs(of: Config, size: int) -> training.Programs:
    return training.compile_programs(of, tasks.build(of), tiny.model_of(of), size)


@pytest.mark.parametrize("fresh_data", [False, True])
def test_under_init_data_and_order_are_those_of_replicate_0_and_only_initial_parameters_differ(fresh_data):
    of = config(vary="init", label_noise=0.1, fresh_data=fresh_data)
    everything = dataclasses.replace(of, vary="all")
    seed, numbers, one = np.uint32(0), np.array([0, 4], np.int32), np.array([0], np.int32)
    shared, single = programs(of, 2), programs(everything, 1)

    state, data = shared.setup(seed, numbers)
    first, first_data = single.setup(seed, one)
    fourth, _ = single.setup(seed, np.array([4], np.int32))
    tiny.assert_same_bits(jax.device_get(data), jax.device_get(first_data))
    for i, alone in enumerate((first, fourth)):
        tiny.assert_close(replicate(state, i), replicate(alone, 0), rtol=1e-6, atol=1e-7)
    assert tiny.differ(replicate(state.params, 0), replicate(state.params, 1))

    # From the same parameters, in the same order, on the same data, both learn the same.
    alike = jax.tree.map(lambda a: jnp.stack([a[0], a[0]]), state)
    alike, _, _ = shared.epoch(alike, data, seed, numbers, np.int32(0))
    tiny.assert_close(replicate(alike, 0), replicate(alike, 1), rtol=0, atol=1e-6)
    first, _, _ = single.epoch(first, first_data, seed, one, np.int32(0))
    tiny.assert_close(replicate(alike, 0), replicate(first, 0), rtol=0, atol=TOLERANCE)


def test_under_all_data_order_and_initial_parameters_differ():
    of = config()
    seed, numbers = np.uint32(0), np.array([0, 1], np.int32)
    program = programs(of, 2)
    state, data = program.setup(seed, numbers)
    assert tiny.differ(replicate(data, 0), replicate(data, 1))
    assert tiny.differ(replicate(state.params, 0), replicate(state.params, 1))
    # Same parameters, same data, and still another order.
    alike = jax.tree.map(lambda a: jnp.stack([a[0], a[0]]), state)
    same_data = jax.tree.map(lambda a: jnp.stack([a[0], a[0]]), data)
    alike, _, _ = program.epoch(alike, same_data, seed, numbers, np.int32(0))
    assert tiny.differ(replicate(alike.params, 0), replicate(alike.params, 1))


def test_under_init_the_labels_to_predict_are_the_same_for_all():
    labels = run(num_replicates=3, vary="init").predictions["labels"]
    assert (labels == labels[:1]).all()
    labels = run(num_replicates=3, vary="all").predictions["labels"]
    assert not (labels == labels[:1]).all()


# -- In groups --------------------------------------------------------------------------------------


def assert_same_values(a, b, path=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same_values(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same_values(x, y, f"{path}[{i}]")
    elif isinstance(a, float):
        assert a == pytest.approx(b, abs=2e-4), path
    else:
        assert a == b, path


@pytest.mark.parametrize(("vary", "at_once"), [("all", 1), ("all", 2), ("init", 2)])  # 2 does not divide 3
def test_replicates_in_groups_give_the_same(at_once, vary):
    whole, lines = run_of(config(num_replicates=3, vary=vary))
    grouped, grouped_lines = run_of(config(num_replicates=3, vary=vary, replicates_at_once=at_once))
    tiny.assert_close(grouped.params, whole.params, rtol=0, atol=TOLERANCE)
    for key in ("history", "final", "per_step", "budget", "replicates"):
        assert_same_values(grouped.values[key], whole.values[key], key)
    for name, array in whole.predictions.items():
        np.testing.assert_allclose(grouped.predictions[name], array, atol=1e-4)

    # One line for each epoch of each group, of the replicates that were asked for.
    num_groups = -(-3 // at_once)
    assert [(line["group"], line["epoch"]) for line in grouped_lines] == [
        (group, epoch) for group in range(num_groups) for epoch in (1, 2)
    ]
    each = np.array(whole.values["replicates"]["history"]["val_loss"])
    for line in grouped_lines:
        members = each[line["group"] * at_once : (line["group"] + 1) * at_once, line["epoch"] - 1]
        assert line["val_loss"] == pytest.approx(members.mean(), abs=1e-4)
    assert all("group" not in line for line in lines)


@pytest.mark.parametrize("at_once", [1, 2, 3, 7, None])
@pytest.mark.parametrize("multiple", [1, 2, 8])
@pytest.mark.parametrize("num_replicates", [1, 3, 8, 10])
def test_groups_hold_every_replicate_once_and_fit_the_mesh(num_replicates, multiple, at_once):
    of = config(num_replicates=num_replicates, first_replicate=5, replicates_at_once=at_once)
    groups = experiment.replicate_groups(of, multiple)
    numbers = np.concatenate(groups)
    assert {len(group) for group in groups} == {len(groups[0])}
    assert len(groups[0]) % multiple == 0
    assert numbers[:num_replicates].tolist() == list(range(5, 5 + num_replicates))
    assert len(numbers) - num_replicates < len(groups) * len(groups[0])
    assert len(groups[0]) < (at_once or num_replicates) + multiple


def test_no_group_is_filled_up_alone():
    """Every group holds a replicate that was asked for."""
    for num_replicates in range(1, 30):
        for at_once in (1, 2, 3, 5, 8):
            for multiple in (1, 2, 4, 8):
                of = config(num_replicates=num_replicates, replicates_at_once=at_once)
                groups = experiment.replicate_groups(of, multiple)
                assert groups[-1][0] < num_replicates, (num_replicates, at_once, multiple, groups)


def test_groups_are_small_where_memory_is(monkeypatch):
    of = config(num_replicates=10)
    assert len(experiment.replicate_groups(of)) == 1
    monkeypatch.setattr(experiment, "_memory", lambda: 3 * experiment._bytes_of_one_replicate(of))
    assert len(experiment.replicate_groups(of)) == 4
    assert len(experiment.replicate_groups(dataclasses.replace(of, replicates_at_once=10))) == 1


# -- Data that never repeat -------------------------------------------------------------------------


def sequences_seen(monkeypatch, epochs: int, **settings) -> list[np.ndarray]:
    """The inputs of all training sequences of each epoch, as the training step is given them."""
    of = config(num_features=100, seq_len=1, fresh_data=True, **settings)
    seen: list = []
    real = training.make_train_step

    def recording(apply, optimizer):
        step = real(apply, optimizer)

        def recorded(state, batch):
            jax.debug.callback(
                lambda x, m: seen.append(np.asarray(x)[np.asarray(m)[:, 0]]), batch.inputs, batch.mask
            )
            return step(state, batch)

        return recorded

    monkeypatch.setattr(training, "make_train_step", recording)
    program = tiny.programs_of(of)
    state, data = tiny.start(of, program)
    epochs_seen = []
    for n in range(epochs):
        seen.clear()
        state, _, _ = jax.block_until_ready(tiny.epoch(of, program, state, data, n))
        jax.effects_barrier()
        epochs_seen.append(np.concatenate(seen)[:, 0])
    return epochs_seen


def test_no_sequence_repeats_within_or_between_epochs(monkeypatch):
    epochs = sequences_seen(monkeypatch, 3)
    assert [epoch.shape for epoch in epochs] == [(160, 100)] * 3
    everything = np.concatenate(epochs)
    assert len(np.unique(everything, axis=0)) == len(everything) == 480


def test_the_validation_sequences_stay_and_are_never_trained_on():
    of = config(num_features=100, seq_len=1, fresh_data=True)
    program = tiny.programs_of(of)
    state, data = tiny.start(of, program)
    before = np.asarray(data.inputs[0])
    assert before.shape == (of.num_val, 1, 100)
    state, _, val = tiny.epoch(of, program, state, data, 0)
    _, again = tiny.start(of, program)
    np.testing.assert_array_equal(again.inputs[0], before)
    # What an epoch reports is the loss on them.
    model = tiny.model_of(of)
    expected = metrics.batch_metrics(model.apply(replicate(state.params, 0), data.inputs[0]), replicate(data, 0))
    np.testing.assert_allclose(val.mean_loss()[0], expected.mean_loss(), rtol=1e-5)


def test_fresh_data_keep_no_training_sequences():
    of = config(fresh_data=True)
    _, data = tiny.start(of, tiny.programs_of(of))
    assert data.inputs.shape[1] == of.num_val


def test_fresh_data_leave_nothing_to_generalise():
    """A model that could learn 64 sequences by heart; with fresh ones it has none to learn."""
    settings = {
        "num_features": 20,
        "num_samples": 2064,
        "val_fraction": 2000 / 2064,
        "batch_size": 16,
        "activation": "relu",
        "hidden_sizes": (64,),
        "labels": "own_step",
        "label_noise": 0.3,
        "num_epochs": 60,
        "learning_rate": 1e-2,
    }
    gaps = {}
    for fresh_data in (False, True):
        values = run_of(config(fresh_data=fresh_data, **settings))[0].values
        final = values["final"]
        gap = final["val_loss"] - final["train_loss"]
        gaps[fresh_data] = gap, np.hypot(final["train_loss_se"], final["val_loss_se"])
        assert values["budget"]["generalisation"] == pytest.approx(gap, abs=1e-6)
    assert gaps[False][0] > 0.3
    assert abs(gaps[True][0]) < 4 * gaps[True][1]


# -- Lengths that training never saw ----------------------------------------------------------------


@pytest.mark.parametrize("model", ["dense", "gru"])
def test_other_lengths_are_those_parameters_on_other_data(model):
    of = config(model=model, eval_seq_len=(1, 5), labels="previous_step", num_replicates=2)
    result, _ = run_of(of)
    assert [entry["seq_len"] for entry in result.values["lengths"]] == [1, 5]
    for entry in result.values["lengths"]:
        other = dataclasses.replace(of, seq_len=entry["seq_len"], eval_seq_len=())
        expected = forecasts.values_of(forecasts.look_ahead_of(other).forecast)
        assert_same_values(entry["forecast"], results.plain(expected))
        # Directly: the model, at that length, on sequences of that length drawn anew.
        apply, losses = tiny.model_of(other).apply, []
        for r in range(2):
            batch = training.draw(other, tasks.build(other), jax.random.key(1000 + r), 20_000)
            losses.append(
                float(metrics.batch_metrics(apply(replicate(result.params, r), batch.inputs), batch).mean_loss())
            )
        # 40 sequences against 20 000.
        assert abs(entry["val_loss"] - np.mean(losses)) < 5 * entry["val_loss_se"] + 0.02
        low, high = entry["ci95"]["val_loss"]
        assert low <= entry["val_loss"] <= high


@pytest.mark.parametrize("vary", ["init", "all"])
def test_at_other_lengths_replicates_share_their_data_under_init(vary):
    of = config(num_replicates=2, vary=vary)
    task, model = tasks.build(of), tiny.model_of(of)
    params = jax.vmap(model.init)(jax.random.split(jax.random.key(0), 2))
    outputs = training.compile_evaluation(of, task, model, params)(
        params, np.uint32(0), np.arange(2, dtype=np.int32)
    )
    first, second = np.asarray(outputs.labels)
    assert np.array_equal(first, second) == (vary == "init")


def test_the_length_of_the_training_among_the_others_agrees_with_it():
    result, _ = run_of(config(num_samples=4000, batch_size=100, eval_seq_len=(2, 3)))
    same, final = result.values["lengths"][0], result.values["final"]
    assert abs(same["val_loss"] - final["val_loss"]) < 4 * np.hypot(same["val_loss_se"], final["val_loss_se"])
    assert_same_values(same["forecast"], result.values["forecast"])


def test_other_lengths_change_nothing_else():
    with_lengths, without = run(eval_seq_len=(1, 5)), run()
    tiny.assert_same_bits(with_lengths.params, without.params)
    assert with_lengths.values["final"] == without.values["final"]
    assert "lengths" not in without.values


@pytest.mark.parametrize("model", ["dense", "gru"])
def test_a_model_that_knows_its_steps_cannot_change_its_length(model):
    with pytest.raises(
        ConfigError, match=r"^eval_seq_len=2,5: a model with step_position has an input for each of"
    ):
        config(model=model, step_position=True, eval_seq_len=(2, 5))


def test_at_other_lengths_only_scored_steps_count():
    result, _ = run_of(config(model="gru", readout="last_step", eval_seq_len=(4,)))
    entry = result.values["lengths"][0]
    other = config(model="gru", readout="last_step", seq_len=4)
    batch = training.draw(other, tasks.build(other), jax.random.key(7), 20_000)
    assert batch.mask.sum(0).tolist() == [0, 0, 0, 20_000]
    logits = tiny.model_of(other).apply(replicate(result.params, 0), batch.inputs)
    assert (
        abs(entry["val_loss"] - float(metrics.batch_metrics(logits, batch).mean_loss())) < 5 * entry["val_loss_se"]
    )


# -- Memory that grows with the root of the length ---------------------------------------------------

RECURRENT = ("gru", "reverse_gru", "bidirectional_gru", "lstm")


def gradient_of(of: Config):
    """(compiled loss-and-gradient, its arguments) of the mean loss on a batch."""
    model, task = tiny.model_of(of), tasks.build(of)
    params = model.init(jax.random.key(0))
    batch = training.draw(of, task, jax.random.key(1), of.batch_size)

    def loss(params):
        logits = model.apply(params, batch.inputs)
        losses, _ = metrics.step_losses(logits, batch.labels)
        return metrics.masked_mean(losses, batch.mask), logits

    return jax.jit(jax.value_and_grad(loss, has_aux=True)).lower(params).compile(
        devices.compiler_options()
    ), params


@pytest.mark.parametrize(
    ("model", "seq_len"),
    [
        ("gru", 1),
        pytest.param("gru", 2, marks=pytest.mark.full),
        ("lstm", 7),
        ("bidirectional_gru", 16),
        pytest.param("reverse_gru", 30, marks=pytest.mark.full),
    ],
)
def test_remat_changes_neither_outputs_nor_gradients(model, seq_len):
    of = config(model=model, hidden_sizes=(5,), seq_len=seq_len, labels="own_step")
    plain, params = gradient_of(of)
    again, same = gradient_of(dataclasses.replace(of, remat=True))
    tiny.assert_same_bits(jax.device_get(params), jax.device_get(same))
    tiny.assert_close(jax.device_get(plain(params)), jax.device_get(again(params)), rtol=1e-5, atol=1e-6)


def test_remat_takes_less_memory_at_a_great_length():
    of = config(model="gru", hidden_sizes=(16,), seq_len=1024, labels="own_step", batch_size=8)
    plain, again = (
        gradient_of(dataclasses.replace(of, remat=remat))[0].memory_analysis().temp_size_in_bytes
        for remat in (False, True)
    )
    assert again < plain / 4, (again, plain)


def test_remat_of_a_run_gives_its_numbers():
    settings = {"model": "gru", "hidden_sizes": (5,), "seq_len": 5}
    tiny.assert_close(run(remat=True, **settings).params, run(**settings).params, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("model", [name for name in models.MODELS if name not in RECURRENT])
def test_remat_is_refused_where_nothing_recurs(model):
    with pytest.raises(ConfigError, match=f"^remat=True: model={model} has no such choice, only "):
        experiment.check(config(model=model, remat=True))
