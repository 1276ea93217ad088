"""The kit's training of somebody's model: what it learns, what it reports, and that it is compiled once."""

import itertools

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
import zoo

from seqjax import fitting, outputs


def test_easy_things_are_learnt_and_the_losses_say_so():
    x, y = zoo.own_step(size=1000)
    fit = fitting.as_fit(zoo.trainable(zoo.Mlp(), x), 2)
    predict, losses = fit(x, y, np.ones(y.shape, bool))
    assert (predict(x).argmax(-1) == y).mean() > 0.98
    assert losses[0] > 0.4 > 0.1 > losses[-1]
    assert len(losses) == 2048 // 32  # epochs of 32 batches, the last of them of 8 sequences


def test_it_ends_when_there_is_no_more_to_learn():
    x = np.random.default_rng(0).normal(size=(64, 2, 4)).astype(np.float32)
    fit = fitting.as_fit(zoo.trainable(zoo.Mlp(), x), 2, learning_rate=1e-2)
    _, losses = fit(x, (x[..., 0] > 0).astype(int), None)
    assert losses[-1] < fitting.WORTH_IT / 2 < losses[-20]
    assert len(losses) < 2048 / 2


def test_in_the_first_epoch_every_sequence_is_new():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(3000, 4, 5)).astype(np.float32), rng.integers(0, 2, (3000, 4))
    _, losses = fitting.as_fit(zoo.trainable(zoo.Mlp(), x), 2, updates=200)(x, y)
    assert losses[0] == pytest.approx(np.log(2), abs=0.05)
    assert losses[0] > np.log(2) - 3 * 0.01


def test_data_of_one_shape_share_one_program():
    calls = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x):
            calls.append(x.shape)
            return nn.Dense(2)(x)

    x, y = zoo.own_step(size=256)
    trainable = zoo.trainable(Counted(), x)
    fit = fitting.as_fit(trainable, 2, updates=32)
    fit(x, y)
    traced = len(calls)
    for size in (32, 100, 256):
        predict, _ = fit(x[:size], 1 - y[:size])
    predict(x)
    assert len(calls) - traced <= 4  # initialisations are free to run the model's code


def test_one_label_a_sequence_is_trained_on_its_last_step():
    x, _ = zoo.own_step(size=500)
    y = (x[:, -1, 0] > 0).astype(int)

    class Last(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.relu(nn.Dense(32)(x[:, -1])))

    given = zoo.loaded(x, y)
    trainable = fitting_trainable(Last(), given)
    fit = fitting.as_fit(trainable, 2, labels_per="sequence", updates=640)
    predict, losses = fit(given.train.inputs, given.train.labels, given.train.mask)
    assert losses[-1] < 0.2
    assert (predict(given.train.inputs)[:, -1].argmax(-1) == y).mean() > 0.95


def fitting_trainable(model, given):
    from seqjax.adapters import as_trainable

    return as_trainable(model, given.train.inputs, 2, labels_per="sequence")


class Ending(nn.Module):
    """A layer, a number of outputs, and what is done to these."""

    size: int
    end: object

    @nn.compact
    def __call__(self, x):
        return self.end(nn.Dense(self.size)(nn.relu(nn.Dense(16)(x))))


@pytest.mark.parametrize(
    ("size", "end", "kind"),
    [
        (2, lambda z: z, "logits"),
        (2, nn.softmax, "probabilities"),
        (2, nn.log_softmax, "log_probabilities"),
        (1, nn.sigmoid, "sigmoid"),
        (1, lambda z: z, "logit"),
    ],
)
def test_outputs_of_every_kind_are_trained(size, end, kind):
    x, y = zoo.own_step(size=500)
    trainable = zoo.trainable(Ending(size, end), x)
    params = fitting.initial(trainable, 0)
    assert fitting.programs(trainable, params, x, 2, "step").kind == kind
    predict, losses = fitting.as_fit(trainable, 2, updates=640)(x, y)
    assert losses[-1] < 0.35 < losses[0]
    log_p = outputs.read_outputs(predict(x), *y.shape, 2).log_p
    assert (log_p.argmax(-1) == y).mean() > 0.9


def test_batch_statistics_are_those_of_the_training_data():
    x, y = zoo.own_step(size=500)
    x = 100 * x + 300
    predict, losses = fitting.as_fit(zoo.trainable(zoo.Normed(), x), 2, updates=640)(x, y)
    assert losses[-1] < 0.3
    assert (predict(x).argmax(-1) == y).mean() > 0.93
    assert (predict(x[:1]).argmax(-1) == y[:1]).mean() > 0.8  # not those of the batch that is predicted


def test_a_segment_is_adam_and_records_the_largest_gradients():
    x, y = zoo.own_step(size=1024)
    trainable = zoo.trainable(nn.Dense(2), x)
    params = fitting.initial(trainable, 0)
    program = fitting.programs(trainable, params, x, 2, "step")
    batches = next(fitting.feed(fitting.readable(x, y), 0))
    still, loss, steps, largest = program.segment(fitting.state_of(params), batches, 0.0)
    jax.tree.map(np.testing.assert_array_equal, still.params, params)
    assert steps.tolist() == [32 * 6] * 32

    def mean_loss(params, n):
        logits = trainable.apply(params, batches.inputs[n])
        return optax.softmax_cross_entropy_with_integer_labels(logits, batches.labels[n]).mean()

    gradients = [jax.grad(mean_loss)(params, n) for n in range(32)]
    peaks = jax.tree.map(lambda *leaves: np.abs(leaves).max(0), *gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), still.opt_state[0].peaks, peaks)
    assert largest[3] == pytest.approx(max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients[3])), rel=1e-4)
    assert loss[0] / steps[0] == pytest.approx(float(mean_loss(params, 0)), rel=1e-4)

    optimizer = optax.adam(1e-3)
    expected, state = params, optimizer.init(params)
    for n in range(32):
        updates, state = optimizer.update(jax.grad(mean_loss)(expected, n), state)
        expected = optax.apply_updates(expected, updates)
    trained, *_ = program.segment(fitting.state_of(params), batches, 1e-3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), trained.params, expected)


@pytest.mark.parametrize("n", [5, 32, 40, 1500])
def test_every_sequence_comes_once_an_epoch(n):
    x = np.arange(n, dtype=np.float32)[:, None, None]
    data = fitting.readable(x, np.zeros((n, 1), int))
    batches_an_epoch = -(-n // fitting.BATCH)
    segments = -(-2 * batches_an_epoch // fitting.SEGMENT)
    drawn = list(itertools.islice(fitting.feed(data, 0), segments))
    ids = np.concatenate([batch.inputs[..., 0, 0] for batch in drawn])
    counts = np.concatenate([batch.mask[..., 0] for batch in drawn])
    epochs = [slice(e * batches_an_epoch, (e + 1) * batches_an_epoch) for e in range(2)]
    orders = [ids[epoch][counts[epoch]] for epoch in epochs]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert not np.array_equal(*orders)


def test_labels_that_do_not_count_may_be_anything():
    data = fitting.readable(np.zeros((1, 2, 1)), [[-100, 1]], [[0, 1]])
    assert data.labels.tolist() == [[0, 1]]
    assert data.inputs.dtype == np.float32
    assert fitting.inputs_of(np.zeros((1, 2, 1), np.int64)).dtype == np.int32
