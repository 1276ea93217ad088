"""Mistakes in Keras 3 (on JAX): models as people write them, `compile` and `fit`, and one thing wrong.

Imports nothing of the library.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from mistakes.cases import Given, case
from mistakes.data import Data, draw, noise_entropy, tiles

TimeDistributed, Dense, LSTM = layers.TimeDistributed, layers.Dense, layers.LSTM
Make = Callable[[], keras.Model]


def stack(steps: int, size: int, *parts: Any) -> keras.Model:
    return keras.Sequential([layers.Input((steps, size)), *parts])


def learn(model: keras.Model, x: Any, y: Any, mask: Any, seed: int, **how: Any) -> list[float]:
    """compile and fit; the loss by epoch.  y may be made one-hot; weight: of each step, from the mask."""
    loss, rate = how.get("loss", "sparse_categorical_crossentropy"), how.get("rate", 0.02)
    model.compile(how.get("optimiser") or keras.optimizers.Adam(rate), loss)
    weight = how.get("weight", lambda mask: mask)(mask)
    weight = None if weight is None or weight.all() else weight.astype(np.float32)
    target = how.get("target", lambda y: y)(np.asarray(y))
    keras.utils.set_random_seed(seed)
    size = how.get("batch", 100)
    kept = len(x) // size * size or len(x)  # one shape of batch: the rest would compile everything anew
    weight = None if weight is None else weight[:kept]
    options = {"epochs": how.get("epochs", 15), "batch_size": size, "verbose": 0, "sample_weight": weight}
    return model.fit(x[:kept], target[:kept], **options).history["loss"]


def reader(model: keras.Model) -> Any:
    """predict: NumPy in and out, all at once."""
    return lambda x: np.asarray(model(np.asarray(x, np.float32), training=False))


def fits(data: Data, make: Make, seed: int, reach: float = 0.0, **how: Any) -> Given:
    def fit(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> Any:
        keras.utils.set_random_seed(seed)
        model = make()
        losses = learn(model, x, y, mask, seed, **how)
        return reader(model), losses

    return Given(data.given | {"fit": fit}, data.test, reach)


def trained(data: Data, make: Make, seed: int, **how: Any) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = make()
    known = data.given
    learn(model, known["x"], known["y"], known.get("mask", np.ones(known["y"].shape, bool)), seed, **how)
    return model


def predicts(data: Data, predict: Any, reach: float = 0.0, **known: Any) -> Given:
    return Given(data.given | {"predict": predict} | known, data.test, reach)


def models(data: Data, make: Make, seed: int, **known: Any) -> Given:
    """Handed over untrained; the kit trains it."""
    keras.utils.set_random_seed(seed)
    return Given(data.given | {"model": make()} | known, data.test)


def shared(classes: int, last: str | None = "softmax", width: int = 24) -> list[Any]:
    """One network for each step."""
    return [TimeDistributed(Dense(width, "relu")), TimeDistributed(Dense(classes, last))]


def memory(classes: int, last: str | None = "softmax", width: int = 20) -> list[Any]:
    return [LSTM(width, return_sequences=True), TimeDistributed(Dense(classes, last))]


# --- The original ------------------------------------------------------------------------------------------------


@case("labels_repeat_one_step", "predict", "keras", also=("unseen_steps",))
def original(seed, wrong):
    """TimeDistributed(Dense) perfect with one step, stuck at 0.6 with two: y[i, :] inside the loop over steps.

    (unseen_steps is what a model without memory lacks for it.)
    """
    rng = np.random.default_rng(seed)
    x = (rng.integers(0, 2, (6400, 2, 15)) - 0.5).astype(np.float32)
    y = (x.sum(-1) > 0).astype(int)
    y = np.repeat(y[:, -1:], 2, 1) if wrong else y
    d = Data(x, y, np.ones(y.shape, bool), y)
    model = trained(d, lambda: stack(2, 15, *shared(2)), seed, epochs=25, batch=100)
    return predicts(d, reader(model))


# --- The form of outputs -----------------------------------------------------------------------------------------


@case("single_unit_softmax", "fit", "keras")
def dense_1_softmax(seed, wrong):
    """Dense(1, activation='softmax') with binary_crossentropy: loss stands still, every prediction is 1."""
    d = draw("latch", seed, 700, 6, 5, 2, prior=[0.7, 0.3])
    last = "softmax" if wrong else "sigmoid"
    return fits(
        d, lambda: stack(6, 5, *memory(1, last)), seed, loss="binary_crossentropy", target=lambda y: y[..., None]
    )


@case("single_unit_softmax", "predict", "keras")
def dense_1_softmax_trained(seed, wrong):
    """The same, only the trained model at hand."""
    d = draw("own", seed, 600, 4, 8, 2)
    how = {"loss": "binary_crossentropy", "target": lambda y: y[..., None]}
    return predicts(
        d, reader(trained(d, lambda: stack(4, 8, *shared(1, "softmax" if wrong else "sigmoid")), seed, **how))
    )


@case("softmax_axis", "predict", "keras")
def softmax_layer_axis_1(seed, wrong):
    """Softmax(axis=1) over (batch, steps, classes)."""
    d = draw("own", seed, 850, 5, 7, 3)
    make = lambda: stack(5, 7, *shared(3, None), layers.Softmax(axis=1 if wrong else -1))  # noqa: E731
    return predicts(d, reader(trained(d, make, seed)))


@case("logits_as_probabilities", "fit", "keras")
def no_softmax(seed, wrong):
    """Dense(3) without activation and sparse_categorical_crossentropy, which takes probabilities."""
    d = draw("own", seed, 850, 5, 6, 3)
    return fits(d, lambda: stack(5, 6, *shared(3, None if wrong else "softmax")), seed)


@case("logits_as_probabilities", "fit", "keras")
def relu_for_softmax(seed, wrong):
    """activation='relu' throughout, the last layer too, with categorical_crossentropy."""
    d = draw("latch", seed, 700, 5, 8, 4)
    how = {"loss": "categorical_crossentropy", "target": lambda y: np.eye(4, dtype=np.float32)[y]}
    return fits(d, lambda: stack(5, 8, *memory(4, "relu" if wrong else "softmax")), seed, **how)


@case("softmax_twice", "fit", "keras", also=("probabilities_as_logits",))
def from_logits_of_softmax(seed, wrong):
    """softmax in the model and from_logits=True in the loss.  (Either name says it.)"""
    d = draw("own", seed, 800, 4, 10, 4)
    loss = lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True)  # noqa: E731
    return fits(d, lambda: stack(4, 10, *shared(4, "softmax" if wrong else None)), seed, loss=loss())


@case("probabilities_as_logits", "fit", "keras", also=("softmax_twice",))
def from_logits_of_sigmoid(seed, wrong):
    """sigmoid in the model and BinaryCrossentropy(from_logits=True)."""
    d = draw("held1", seed, 700, 5, 6, 2)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    last = "sigmoid" if wrong else None
    return fits(d, lambda: stack(5, 6, *memory(1, last)), seed, loss=loss, target=lambda y: y[..., None])


@case("wrong_loss", "fit", "keras")
def mse_on_class_numbers(seed, wrong):
    """loss='mse' with a softmax of three and whole-number labels: they broadcast over the classes."""
    d = draw("own", seed, 850, 5, 6, 3)
    how = {"loss": "mse", "target": lambda y: y[..., None].astype(np.float32)} if wrong else {}
    return fits(d, lambda: stack(5, 6, *shared(3)), seed, **how)


# --- Training ----------------------------------------------------------------------------------------------------


@case("does_not_train", "fit", "keras")
def trainable_false(seed, wrong):
    """model.trainable = False was left in from feature extraction."""
    d = draw("own", seed, 700, 6, 8, 2)

    def make():
        model = stack(6, 8, *shared(2))
        model.trainable = not wrong
        return model

    return fits(d, make, seed)


@case("does_not_train", "fit", "keras")
def backbone_is_frozen(seed, wrong):
    """A backbone with trainable=False, from a guide to fine-tuning, that nobody has trained before."""
    d = draw("with_before", seed, 900, 6, 6, 3)

    def make():
        body = stack(6, 6, layers.Conv1D(24, 2, padding="causal", activation="tanh"), layers.Dense(4, "tanh"))
        body.trainable = not wrong
        return keras.Sequential([body, layers.Dense(3, "softmax")])

    return fits(d, make, seed)


@case("does_not_train", "fit", "keras")
def trained_a_clone(seed, wrong):
    """clone_model is what was fitted, the first model is what predicts."""
    d = draw("held1", seed, 750, 5, 5, 3)

    def fit(x, y, mask):
        keras.utils.set_random_seed(seed)
        model = stack(5, 5, *memory(3))
        fitted = keras.models.clone_model(model) if wrong else model
        return reader(model), learn(fitted, x, y, mask, seed)

    return Given(d.given | {"fit": fit}, d.test)


@case("learning_rate_high", "fit", "keras")
def sgd_at_thirty(seed, wrong):
    """SGD(learning_rate=30, momentum=0.9), from a paper with another batch size: loss 10, 40, 12, ..."""
    d = draw("own", seed, 850, 4, 6, 3)

    def fit(x, y, mask):
        keras.utils.set_random_seed(seed)
        model = stack(4, 6, *shared(3))
        optimiser = keras.optimizers.SGD(30.0 if wrong else 0.3, momentum=0.9)
        return reader(model), learn(model, x, y, mask, seed, optimiser=optimiser)

    return Given(d.given | {"fit": fit}, d.test)


@case("learning_rate_low", "fit", "keras")
def decay_too_soon(seed, wrong):
    """An exponential decay per step that was meant per epoch: after ten steps the rate is 0."""
    d = draw("latch", seed, 750, 5, 6, 2)

    def fit(x, y, mask):
        keras.utils.set_random_seed(seed)
        model = stack(5, 6, *memory(2))
        rate = keras.optimizers.schedules.ExponentialDecay(1e-2, 1 if wrong else 500, 0.5)
        return reader(model), learn(model, x, y, mask, seed, optimiser=keras.optimizers.Adam(rate), epochs=25)

    return Given(d.given | {"fit": fit}, d.test)


@case("stuck_at_prior", "fit", "keras")
def zeros_everywhere(seed, wrong):
    """kernel_initializer='zeros' in every layer."""
    d = draw("own", seed, 850, 3, 9, 3, prior=[0.5, 0.3, 0.2])
    zero = {"kernel_initializer": "zeros"} if wrong else {}
    parts = lambda: [Dense(24, "relu", **zero), Dense(3, "softmax", **zero)]  # noqa: E731
    return fits(d, lambda: stack(3, 9, *parts()), seed)


@case("input_scale", "fit", "keras")
def pixels_to_tanh(seed, wrong):
    """Values up to some hundreds into tanh units, no scaling."""
    d = draw("own", seed, 850, 5, 8, 3)
    d = d._replace(x=tiles(d.x, 300, 5_000))

    def make():
        first = [] if wrong else [layers.Rescaling(1 / 300, -5_000 / 300)]
        return stack(5, 8, *first, LSTM(20, return_sequences=True), Dense(3, "softmax"))

    return fits(d, make, seed)


@case("input_scale", "model", "keras")
def years_and_ratios(seed, wrong):
    """A year among the features, in a network of tanh units."""
    d = draw("own", seed, 850, 4, 6, 2)
    year = np.random.default_rng(seed).integers(1950, 2020, d.x.shape[:2])
    d = d._replace(
        x=np.concatenate([d.x, year[..., None] if wrong else (year[..., None] - 1985) / 20], -1).astype(np.float32)
    )
    return models(
        d, lambda: stack(4, 7, TimeDistributed(Dense(24, "tanh")), TimeDistributed(Dense(2, "softmax"))), seed
    )


@case("dead_units", "model", "keras")
def bias_far_below(seed, wrong):
    """bias_initializer=Constant(-10) in a relu layer: every unit is 0 for every input."""
    d = draw("own", seed, 850, 5, 6, 3)
    start = keras.initializers.Constant(-10.0) if wrong else "zeros"
    return models(d, lambda: stack(5, 6, Dense(32, "relu", bias_initializer=start), Dense(3, "softmax")), seed)


@case("saturated", "model", "keras")
def wide_tanh(seed, wrong):
    """RandomNormal(stddev=10) kernels before tanh: units are at -1 or 1, and stay there."""
    d = draw("own", seed, 850, 4, 10, 3, spread=0.3)
    start = keras.initializers.RandomNormal(stddev=10.0) if wrong else "glorot_uniform"
    parts = lambda: [Dense(16, "tanh", kernel_initializer=start) for _ in range(3)]  # noqa: E731
    return models(d, lambda: stack(4, 10, *parts(), Dense(3, "softmax")), seed)


@case("vanishing_gradient", "model", "keras")
def twenty_sigmoids(seed, wrong):
    """Twenty Dense layers with sigmoid: the loss does not leave ln 2."""
    d = draw("own", seed, 850, 3, 8, 2)
    act = "sigmoid" if wrong else "relu"
    parts = lambda: [Dense(24, act, kernel_initializer="he_normal") for _ in range(20)]  # noqa: E731
    return models(d, lambda: stack(3, 8, *parts(), Dense(2, "softmax")), seed)


@case("exploding_gradient", "model", "keras")
def simple_rnn_relu(seed, wrong):
    """SimpleRNN(activation='relu') with large recurrent weights over sixteen steps: nan."""
    d = draw("held1", seed, 600, 16, 5, 2)
    start = keras.initializers.RandomNormal(stddev=1.0) if wrong else keras.initializers.Orthogonal(0.7)
    core = lambda: layers.SimpleRNN(32, activation="relu", return_sequences=True, recurrent_initializer=start)  # noqa: E731
    return models(d, lambda: stack(16, 5, core(), Dense(2, "softmax")), seed)


@case("mask_ignored", "fit", "keras")
def no_sample_weight(seed, wrong):
    """Padding with rows of another sequence, labels 0, and no sample_weight."""
    d = draw("latch", seed, 850, 9, 6, 3, lengths=True)
    rest = draw("latch", seed, len(d.x) - 400, 9, 6, 3).x[np.random.default_rng(seed).permutation(len(d.x))]
    d = d._replace(x=np.where(d.mask[..., None], d.x, rest))
    weight = (lambda mask: None) if wrong else (lambda mask: mask)
    return fits(d, lambda: stack(9, 6, *memory(3)), seed, weight=weight, epochs=25)


@case("mask_inverted", "fit", "keras")
def sample_weight_inverted(seed, wrong):
    """sample_weight = (padding == 1): only the padding counts."""
    d = draw("own", seed, 800, 8, 7, 2, lengths=True)
    weight = (lambda mask: ~mask) if wrong else (lambda mask: mask)
    return fits(d, lambda: stack(8, 7, *shared(2)), seed, weight=weight)


# --- What outputs see --------------------------------------------------------------------------------------------


@case("sees_future", "model", "keras")
def conv_same(seed, wrong):
    """Conv1D(padding='same') in a forecaster that must be causal."""
    d = draw("held1", seed, 850, 8, 6, 2)
    conv = lambda: layers.Conv1D(24, 3, padding="same" if wrong else "causal", activation="relu")  # noqa: E731
    return models(d, lambda: stack(8, 6, conv(), Dense(2, "softmax")), seed, causal=True)


@case("training_mode", "predict", "keras")
def called_with_training(seed, wrong):
    """model(x, training=True) copied from a custom loop: dropout at prediction."""
    d = draw("own", seed, 850, 5, 8, 3)
    make = lambda: stack(5, 8, Dense(24, "relu"), layers.Dropout(0.75), Dense(3, "softmax"))  # noqa: E731
    model = trained(d, make, seed, epochs=25)
    return predicts(d, lambda x: np.asarray(model(np.asarray(x, np.float32), training=wrong)))


@case("batch_leak", "predict", "keras")
def stateful(seed, wrong):
    """As stateful=True and no reset_states between samples that have nothing to do with each other.

    (By hand: stateful=True keeps nothing in predict, with Keras 3.15 on JAX.)
    """
    d = draw("latch", seed, 850, 5, 6, 3, prior=[0.7, 0.15, 0.15])
    model = trained(d, lambda: stack(5, 6, *memory(3)), seed, epochs=25)
    given = [layers.Input((5, 6)), layers.Input((20,)), layers.Input((20,))]
    out, *state = LSTM(20, return_sequences=True, return_state=True)(given[0], initial_state=given[1:])
    first = keras.Model(given, [Dense(3, "softmax")(out), *state])
    first.set_weights(model.get_weights())
    kept = empty = [np.zeros((25, 20), np.float32)] * 2

    def predict(x):
        nonlocal kept
        short = -len(x) % 25
        parts = np.split(np.concatenate([x, x[:1].repeat(short, 0)]).astype(np.float32), (len(x) + short) // 25)
        found = []
        for part in parts:
            out, *kept = first.predict_on_batch([part, *(kept if wrong else empty)])
            found.append(out)
        return np.concatenate(found)[: len(x)]

    return predicts(d, predict)


@case("constant_over_steps", "fit", "keras")
def repeat_vector(seed, wrong):
    """LSTM without return_sequences, then RepeatVector, until the shapes fit."""
    d = draw("own", seed, 850, 5, 6, 3)
    core = lambda: [LSTM(20), layers.RepeatVector(5)] if wrong else [LSTM(20, return_sequences=True)]  # noqa: E731
    return fits(d, lambda: stack(5, 6, *core(), TimeDistributed(Dense(3, "softmax"))), seed)


@case("ignores_input", "predict", "keras")
def embedding_of_fractions(seed, wrong):
    """An Embedding on values between 0 and 1: all of them are index 0."""
    d = draw("own", seed, 850, 6, 4, 4)
    value = d.events + 4 * np.random.default_rng(seed).integers(0, 2, d.events.shape)  # two for each label
    d = d._replace(x=((value[..., None] + 0.5) / (8 if wrong else 1)).astype(np.float32))
    make = lambda: stack(6, 1, layers.Reshape((6,)), layers.Embedding(8, 8), Dense(4, "softmax"))  # noqa: E731
    return predicts(d, reader(trained(d, make, seed)))


@case("outputs_reversed", "predict", "keras")
def go_backwards(seed, wrong):
    """LSTM(go_backwards=True) gives its outputs last step first; the flip was lost between training and export."""
    d = draw("soon1", seed, 800, 6, 5, 2)
    core = lambda: LSTM(20, return_sequences=True, go_backwards=True)  # noqa: E731
    flip = lambda: layers.Lambda(lambda z: z[:, ::-1])  # noqa: E731
    model = trained(d, lambda: stack(6, 5, core(), flip(), Dense(2, "softmax")), seed, epochs=25)
    if not wrong:
        return predicts(d, reader(model))
    out = keras.Sequential([layers.Input((6, 5)), model.layers[0], model.layers[2]])
    return predicts(d, reader(out))


@case("scrambled_axes", "predict", "keras")
def reshape_for_permute(seed, wrong):
    """Reshape((features, steps)) to put channels first, Permute back: step and feature are mixed."""
    d = draw("own", seed, 850, 5, 8, 3)
    turn = lambda: layers.Reshape((8, 5)) if wrong else layers.Permute((2, 1))  # noqa: E731
    make = lambda: stack(5, 8, turn(), layers.Permute((2, 1)), *shared(3))  # noqa: E731
    return predicts(d, reader(trained(d, make, seed)))


@case("unseen_steps", "predict", "keras")
def shared_dense(seed, wrong):
    """TimeDistributed(Dense) on labels that hold until the next event."""
    d = draw("latch", seed, 850, 6, 7, 3)
    make = lambda: stack(6, 7, *(shared(3) if wrong else memory(3)))  # noqa: E731
    return predicts(d, reader(trained(d, make, seed, epochs=25)))


@case("unknown_position", "predict", "keras")
def shared_over_steps(seed, wrong):
    """TimeDistributed layers cannot know which step they are at, and labels turn with it."""
    d = draw("by_step", seed, 2000, 3, 6, 3)
    place = np.broadcast_to(np.eye(3, dtype=np.float32), (len(d.x), 3, 3))
    feed = (lambda x: x) if wrong else (lambda x: np.concatenate([x, place[: len(x)]], -1))
    moved = d._replace(x=feed(d.x))
    model = trained(moved, lambda: stack(3, moved.x.shape[-1], *shared(3)), seed, epochs=20)
    return predicts(d, lambda x: reader(model)(feed(x)))


@case("metric_disagrees", "predict", "keras")
def binary_accuracy_of_softmax(seed, wrong):
    """metrics=['binary_accuracy'] on a softmax of five: 0.8 before anything is learnt; here of a sound model."""
    d = draw("own", seed, 3500, 4, 6, 5, noise=0.2)
    model = trained(d, lambda: stack(4, 6, *shared(5, width=8)), seed, epochs=8, rate=1e-2)
    p, y = reader(model)(d.given["x"]), d.given["y"]
    binary = float(keras.metrics.binary_accuracy(np.eye(5)[y], p).__array__().mean())
    accuracy = binary if wrong else float((p.argmax(-1) == y).mean())
    return predicts(d, reader(model), noise_entropy(0.2, 5), observed_accuracy=accuracy)


@case("optimisation", "predict", "keras")
def three_epochs(seed, wrong):
    """epochs=3, because the tutorial had it so."""
    d = draw("own", seed, 600, 3, 10, 5)
    make = lambda: stack(3, 10, *shared(5))  # noqa: E731
    return predicts(d, reader(trained(d, make, seed, epochs=5 if wrong else 40, rate=2e-3 if wrong else 1e-2)))


@case("generalisation", "predict", "keras")
def thousand_epochs(seed, wrong):
    """A wide layer and 250 epochs on 200 noisy sequences."""
    d = draw("own", seed, 500, 4, 16, 3, noise=0.15)
    x, y = d.given["x"], d.given["y"]
    known = {"x": x[:200], "y": y[:200], "x_val": x[200:], "y_val": y[200:]}
    part = d._replace(x=np.concatenate([x[:200], d.test[0]]), y=np.concatenate([y[:200], d.test[1]]),
                      mask=np.ones((600, 4), bool))  # fmt: skip
    model = trained(part, lambda: stack(4, 16, *shared(3, width=200)), seed, epochs=250 if wrong else 6, rate=3e-3)
    return Given(known | {"predict": reader(model)}, d.test, noise_entropy(0.15, 3))


# --- Three of the eight procedures of the report card: as they are, and with one mistake -------------------------


@case("logits_as_probabilities", "fit", "keras")
def card_dense(seed, wrong):
    """A dense network for every step; the last layer without its softmax."""
    d = draw("own", seed, 900, 6, 8, 5)
    return fits(d, lambda: stack(6, 8, *shared(5, None if wrong else "softmax")), seed, epochs=20)


@case("learning_rate_low", "fit", "keras")
def card_lstm(seed, wrong):
    """An LSTM that returns sequences; a learning rate of 1e-7."""
    d = draw("latch", seed, 800, 6, 6, 3)
    return fits(d, lambda: stack(6, 6, *memory(3)), seed, rate=1e-7 if wrong else 0.02, epochs=25)


@case("mask_inverted", "fit", "keras")
def card_convolution(seed, wrong):
    """A causal convolution on sequences of many lengths; weights 1 where the padding is."""
    d = draw("held1", seed, 1000, 9, 7, 2, lengths=True)
    conv = lambda: layers.Conv1D(24, 3, padding="causal", activation="relu")  # noqa: E731
    weight = (lambda mask: ~mask) if wrong else (lambda mask: mask)
    return fits(d, lambda: stack(9, 7, conv(), Dense(2, "softmax")), seed, weight=weight, epochs=20)
