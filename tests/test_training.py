"""The update, the compiled epoch and what it sees, against plain Python."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from seqjax import tasks, training
from seqjax.batch import Batch
from seqjax.config import Config, ConfigError
from seqjax.models import Model
from seqjax.training import TrainState

# --- Streams ---


def test_every_seed_replicate_and_stream_has_a_key_of_its_own():
    keys = {
        tuple(jax.random.key_data(training.stream_key(seed, replicate, stream)).tolist())
        for seed in (0, 1, 2**32 - 1)
        for replicate in (0, 1, 5)
        for stream in training.STREAMS
    }
    assert len(keys) == 3 * 3 * len(training.STREAMS)


# --- Optimisers and schedules, against Optax directly ---

BASE = {
    "num_samples": 100,
    "val_fraction": 0.2,
    "batch_size": 30,
    "num_epochs": 4,
}  # 3 updates an epoch, 12 in all
LR = 0.1
SCHEDULES = {
    ("constant", None): lambda n: LR,
    ("cosine", None): lambda n: LR * (1 + math.cos(math.pi * n / 12)) / 2,
    # 2 epochs of 3 updates up, 6 down.
    ("warmup_cosine", 2.0): lambda n: LR * n / 6 if n <= 6 else LR * (1 + math.cos(math.pi * (n - 6) / 6)) / 2,
    # By default a tenth of a run shorter than 10 epochs: 0.4 epochs, 1.2 updates, so 1.
    ("warmup_cosine", None): lambda n: LR * n if n <= 1 else LR * (1 + math.cos(math.pi * (n - 1) / 11)) / 2,
}


@pytest.mark.parametrize(("schedule", "warmup_epochs"), SCHEDULES, ids=str)
def test_a_schedule_is_its_formula_over_updates(schedule, warmup_epochs):
    config = Config(**BASE, learning_rate=LR, schedule=schedule, warmup_epochs=warmup_epochs)
    of = training.learning_rate(config)
    rates = [float(of(n) if callable(of) else of) for n in range(13)]
    np.testing.assert_allclose(
        rates, [SCHEDULES[schedule, warmup_epochs](n) for n in range(13)], rtol=1e-5, atol=1e-8
    )


def test_every_schedule_is_tried():
    assert {schedule for schedule, _ in SCHEDULES} == set(training.SCHEDULES)


def test_the_default_warm_up_is_one_epoch_of_a_long_run():
    of = training.learning_rate(Config(**BASE | {"num_epochs": 20}, learning_rate=LR, schedule="warmup_cosine"))
    assert callable(of)
    assert float(of(3)) == pytest.approx(LR)
    assert float(of(2)) < LR > float(of(4))


OPTIMIZERS = {
    ("adam", None): optax.adam,
    ("adamw", None): optax.adamw,
    ("adamw", 0.3): lambda rate: optax.adamw(rate, weight_decay=0.3),
    ("adamw", 0.0): optax.adam,
    ("sgd", None): lambda rate: optax.sgd(rate),
    ("rmsprop", None): lambda rate: optax.rmsprop(rate),
}


def followed(optimizer: optax.GradientTransformation) -> list[np.ndarray]:
    """Parameters after each of 12 updates with fixed gradients, some of a norm above 1."""
    params = jnp.array([1.0, -2.0, 3.0])
    gradients = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
    state, path = optimizer.init(params), []
    for gradient in gradients:
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = optax.apply_updates(params, updates)
        path.append(np.asarray(params))
    return path


@pytest.mark.parametrize("grad_clip", [None, 0.5])
@pytest.mark.parametrize("schedule", training.SCHEDULES)
@pytest.mark.parametrize(("optimizer", "weight_decay"), OPTIMIZERS, ids=str)
def test_an_optimizer_is_the_one_of_optax(optimizer, weight_decay, schedule, grad_clip):
    rate = {
        "constant": LR,
        "cosine": optax.cosine_decay_schedule(LR, 12),
        "warmup_cosine": optax.warmup_cosine_decay_schedule(0.0, LR, 1, 12),
    }[schedule]
    expected = OPTIMIZERS[optimizer, weight_decay](rate)
    if grad_clip is not None:
        expected = optax.chain(optax.clip_by_global_norm(grad_clip), expected)
    config = Config(
        **BASE,
        learning_rate=LR,
        optimizer=optimizer,
        schedule=schedule,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
    )
    np.testing.assert_allclose(
        followed(training.build_optimizer(config)), followed(expected), rtol=1e-6, atol=1e-7
    )


def test_every_optimizer_is_tried():
    assert {name for name, _ in OPTIMIZERS} == set(training.OPTIMIZERS)


def test_a_clipped_gradient_has_at_most_the_norm_given():
    config = Config(**BASE, optimizer="sgd", learning_rate=1.0, grad_clip=0.5)
    path = np.array([[1.0, -2.0, 3.0], *followed(training.build_optimizer(config))])
    norms = np.linalg.norm(np.diff(path, axis=0), axis=1)
    assert norms.max() == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "adm"}, "unknown optimizer 'adm'; did you mean adam?"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean cosine?"),
        ({"weight_decay": 0.1}, "only optimizer=adamw has weight decay"),
        ({"weight_decay": 0.0, "optimizer": "sgd"}, "only optimizer=adamw"),
        ({"warmup_epochs": 1.0}, "only schedule=warmup_cosine"),
        ({"warmup_epochs": 1.0, "schedule": "cosine"}, "only schedule=warmup_cosine"),
        ({"warmup_epochs": 4.0, "schedule": "warmup_cosine"}, "must end before num_epochs=4"),
    ],
    ids=str,
)
def test_settings_that_would_be_ignored_are_refused(settings, said):
    with pytest.raises(ConfigError) as error:
        training.build_optimizer(Config(**BASE | settings))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


# --- One update ---

T, F = 3, 4


def random_batch(n: int = 6, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (n, T)).astype("int32")
    return Batch(rng.normal(size=(n, T, F)).astype("float32"), labels, np.ones((n, T), bool))


def small(model: str, **settings):
    """A model's apply, its parameters, and a train step with plain gradient descent."""
    config = Config(seq_len=T, num_features=F, model=model, hidden_sizes=(5,), **settings)
    of = tiny.model_of(config)
    step = jax.jit(training.make_train_step(of.apply, optax.sgd(0.5)))
    return of.apply, of.init(jax.random.key(0)), step


def updated(step, params, batch: Batch):
    state, metrics = step(TrainState(params, optax.sgd(0.5).init(params)), Batch(*map(jnp.asarray, batch)))
    return state.params, metrics


@pytest.mark.parametrize("model", ["dense", "gru"])
def test_an_update_descends_the_mean_loss_over_steps(model):
    apply, params, step = small(model)
    batch = random_batch()

    def mean_loss(params):
        log_probs = jax.nn.log_softmax(apply(params, batch.inputs))
        return sum(-log_probs[i, t, batch.labels[i, t]] for i in range(6) for t in range(T)) / (6 * T)

    loss, gradient = jax.value_and_grad(mean_loss)(params)
    found, metrics = updated(step, params, batch)
    tiny.assert_close(found, jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient), rtol=1e-4, atol=1e-6)
    # The metrics are those before the update.
    assert float(metrics.mean_loss()) == pytest.approx(float(loss), rel=1e-5)


def test_an_update_changes_nothing_that_it_is_given():
    _, params, step = small("dense")
    before = jax.tree.map(np.array, params)
    one, _ = updated(step, params, random_batch())
    again, _ = updated(step, params, random_batch())
    tiny.assert_same_bits(before, jax.tree.map(np.asarray, params))
    tiny.assert_same_bits(one, again)
    assert tiny.differ(one, params)


@pytest.mark.parametrize("garbage", [7.0, 1e6])
@pytest.mark.parametrize("model", ["dense", "gru"])
def test_padding_counts_neither_in_the_update_nor_in_the_metrics(model, garbage):
    """Whole sequences, and the ends of sequences, hold garbage where the mask is False."""
    _, params, step = small(model)
    batch = random_batch()
    mask = np.ones((6, T), bool)
    mask[4:] = False
    mask[:2, 1:] = False
    clean = batch._replace(mask=mask, inputs=np.where(mask[..., None], batch.inputs, 0).astype("float32"))
    dirty = batch._replace(
        mask=mask,
        inputs=np.where(mask[..., None], batch.inputs, garbage).astype("float32"),
        labels=np.where(mask, batch.labels, 1 - batch.labels),
    )
    expected, found = updated(step, params, clean), updated(step, params, dirty)
    tiny.assert_close(found[1], expected[1], rtol=1e-6)
    tiny.assert_close(found[0], expected[0], rtol=1e-6)
    assert tiny.differ(found[0], params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[0]))


def test_a_batch_of_padding_alone_moves_nothing():
    _, params, step = small("dense")
    batch = random_batch()
    found, metrics = updated(step, params, batch._replace(mask=np.zeros((6, T), bool)))
    tiny.assert_same_bits(jax.device_get(found), jax.device_get(params))
    assert metrics.loss.sum() == metrics.steps.sum() == metrics.sequences == 0


def test_an_update_with_labels_that_would_broadcast_is_refused():
    _, params, step = small("dense")
    batch = random_batch()
    with pytest.raises(ValueError, match="labels have shape"):
        updated(step, params, batch._replace(labels=batch.labels[:, :1]))


# --- Batches ---


@given(n=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_batches_hold_every_sequence_once_and_a_short_last_one_is_filled_up(n, batch_size):
    order = np.random.default_rng(n).permutation(n)
    index, valid = map(np.asarray, training.batches(order, batch_size))
    assert index.shape == valid.shape == (-(-n // batch_size), min(n, batch_size))
    np.testing.assert_array_equal(index[valid], order)
    assert index.min() >= 0
    assert index.max() < n
    assert valid.all(1)[:-1].all()  # only the last batch is filled up


@pytest.mark.parametrize(
    ("num_samples", "batch_size", "updates"),
    [(100, 20, 4), (100, 32, 3), (100, 80, 1), (100, 1000, 1), (36_000, 32, 900)],
)
def test_updates_per_epoch(num_samples, batch_size, updates):
    assert training.updates_per_epoch(Config(num_samples=num_samples, batch_size=batch_size)) == updates


def test_every_sequence_is_seen_once_in_an_epoch():
    """A weight for each sequence, which moves by its share of each batch that it is in."""
    n, size, rate = 23, 5, 1e-3
    config = Config(
        seq_len=1, num_features=30, num_samples=30, val_fraction=7 / 30, batch_size=size, num_epochs=2,
        optimizer="sgd", learning_rate=rate,
    )  # fmt: skip
    assert config.num_train == n
    task = dataclasses.replace(
        tasks.build(config),
        draw_inputs=lambda key, count: jnp.eye(count)[:, None, :],  # sequence i has feature i
        events_of=lambda inputs: 0 * inputs[..., 0].astype("int32"),
    )
    weights = Model(
        init=lambda key: jnp.zeros(30),
        apply=lambda params, inputs: jnp.stack([inputs @ params, 0 * inputs[..., 0]], -1),
    )
    programs = tiny.programs_of(config, task, weights)
    state, data = tiny.start(config, programs)
    moved = []
    for n_epoch in range(2):
        before = np.asarray(state.params)[0].copy()
        state, train, val = tiny.epoch(config, programs, state, data, n_epoch)
        moved.append((np.asarray(state.params)[0] - before) / (rate * 0.5))
        assert int(train.sequences[0]) == int(train.steps.sum()) == n
        assert int(val.sequences[0]) == 7
    for shares in moved:
        short = np.isclose(shares[:n], 1 / 3, rtol=1e-2)  # in the last batch of 3
        np.testing.assert_allclose(shares[:n][~short], 1 / size, rtol=1e-2)
        assert short.sum() == 3
        np.testing.assert_array_equal(shares[n:], 0)  # what validates trains nothing
    # Another order in another epoch: the last batch holds others.
    assert not np.allclose(moved[0], moved[1], rtol=0.1)


# --- The compiled epoch is a plain loop of train_step ---


def plain_epochs(config: Config, params, data: Batch):
    """The same training in plain Python: no scan, no padding, a last batch that is short."""
    optimizer = training.build_optimizer(config)
    step = jax.jit(training.make_train_step(tiny.model_of(config).apply, optimizer))
    state, losses = TrainState(params, optimizer.init(params)), []
    order_key = training.stream_key(config.seed, 0, "order")
    for n in range(config.num_epochs):
        order = np.argsort(jax.random.bits(jax.random.fold_in(order_key, n), (config.num_train,)))
        loss = steps = 0.0
        for start in range(0, config.num_train, config.batch_size):
            rows = order[start : start + config.batch_size]
            state, metrics = step(state, Batch(*(a[rows] for a in data)))
            loss, steps = loss + float(metrics.loss.sum()), steps + float(metrics.steps.sum())
        losses.append(loss / steps)
    return state.params, losses


LOOPS = {
    "dense, a short last batch": {},
    "one batch larger than the data": {"batch_size": 100},
    "recurrent, clipped, decayed, scheduled": {
        "model": "gru", "hidden_sizes": (4,), "optimizer": "adamw", "weight_decay": 0.1,
        "grad_clip": 0.2, "schedule": "warmup_cosine", "warmup_epochs": 1.0, "learning_rate": 0.02, "seq_len": 3,
        "label_noise": 0.1, "seed": 7,
    },
    "the last step alone": {
        "readout": "last_step", "optimizer": "sgd", "learning_rate": 0.1, "step_position": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", LOOPS)
def test_compiled_epochs_are_a_plain_loop_of_updates(case):
    config = tiny.config(**{"num_samples": 29, "batch_size": 8} | LOOPS[case])
    programs = tiny.programs_of(config)
    state, data = tiny.start(config, programs)
    # The key, the data and the first parameters are those of the streams.
    drawn = tasks.build(config).draw(training.stream_key(config.seed, 0, "data"), config.num_samples)
    tiny.assert_same_bits(jax.device_get(drawn.inputs), np.asarray(data.inputs[0]))
    tiny.assert_same_bits(jax.device_get(drawn.labels), np.asarray(data.labels[0]))
    np.testing.assert_array_equal(data.mask[0], np.tile(config.scored_steps, (config.num_samples, 1)))
    params = tiny.model_of(config).init(training.stream_key(config.seed, 0, "init"))
    tiny.assert_close(jax.tree.map(lambda a: a[0], state.params), params, rtol=1e-6, atol=1e-7)

    numpy_data = Batch(drawn.inputs, drawn.labels, data.mask[0])
    expected, expected_losses = plain_epochs(config, params, Batch(*map(np.asarray, numpy_data)))
    losses = []
    for n in range(config.num_epochs):
        state, train, _ = tiny.epoch(config, programs, state, data, n)
        losses.append(float(train.mean_loss()[0]))
    tiny.assert_close(jax.tree.map(lambda a: a[0], state.params), expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)


def trained_with(monkeypatch, config: Config, short_work: float, num_epochs: int):
    """The parameters after so many epochs of `config`, and for how many steps its programs were compiled."""
    asked = []
    options = {"xla_cpu_use_fusion_emitters": False, "xla_backend_optimization_level": 0}

    def compiling(lowered, steps=math.inf):
        asked.append(steps)
        return lowered.compile(options if steps <= short_work else None)

    monkeypatch.setattr(training, "SHORT_WORK", short_work)
    monkeypatch.setattr(training, "Compiling", compiling)
    monkeypatch.setattr(training, "compiler_options", lambda steps=math.inf: steps <= short_work)
    programs = tiny.programs_of(config)
    state, data = tiny.start(config, programs)
    for n in range(num_epochs):
        state, _, _ = tiny.epoch(config, programs, state, data, n)
    return jax.device_get(state.params), asked


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="XLA's older emitters are gone")
def test_which_program_an_epoch_runs_in_hangs_on_its_number_alone(monkeypatch):
    config = dataclasses.replace(tiny.config(), num_epochs=5)
    steps = config.num_samples * config.seq_len
    after, asked = trained_with(monkeypatch, config, 2 * steps, 3)  # two epochs in the one, one in the other
    assert sorted(asked) == [steps, steps, 2 * steps, math.inf]
    longer = dataclasses.replace(config, num_epochs=3)
    tiny.assert_same_bits(trained_with(monkeypatch, longer, 2 * steps, 3)[0], after)
    _, asked = trained_with(monkeypatch, dataclasses.replace(config, num_epochs=2), 2 * steps, 2)
    assert sorted(asked) == [steps, steps, 2 * steps], "what no epoch needs is not compiled"
    at_once, asked = trained_with(monkeypatch, config, steps - 1, 3)
    assert sorted(asked) == [steps, steps, math.inf]
    tiny.assert_close(at_once, after, rtol=1e-4, atol=1e-5)


def test_the_state_given_to_an_epoch_is_used_up():
    config = tiny.config()
    programs = tiny.programs_of(config)
    state, data = tiny.start(config, programs)
    tiny.epoch(config, programs, state, data, 0)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(data))


# --- What changes what ---


@functools.cache
def started_of(config: Config):
    return jax.device_get(tiny.start(config, tiny.programs_of(config)))


def started(**settings):
    return started_of(tiny.config(num_samples=20, **settings))


def test_changing_the_model_and_the_training_changes_no_data():
    other = started(model="gru", hidden_sizes=(3,), step_position=True, batch_size=3, optimizer="sgd")
    tiny.assert_same_bits(other[1], started()[1])


def test_changing_the_noise_and_the_training_changes_neither_inputs_nor_first_parameters():
    (state, data), (noisy_state, noisy) = started(), started(label_noise=0.3, batch_size=3, optimizer="sgd")
    np.testing.assert_array_equal(noisy.inputs, data.inputs)
    tiny.assert_same_bits(noisy_state.params, state.params)
    assert 0.1 < np.mean(noisy.labels != data.labels) < 0.5


def test_changing_the_seed_changes_inputs_and_first_parameters():
    (state, data), (other_state, other) = started(), started(seed=1)
    assert np.mean(other.inputs != data.inputs) > 0.3
    assert tiny.differ(other_state.params, state.params)
