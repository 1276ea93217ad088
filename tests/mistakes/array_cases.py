"""Mistakes that arrays alone show, and models written in plain NumPy.  Imports nothing of the library."""

from collections.abc import Callable

import numpy as np

from mistakes.cases import Given, case
from mistakes.data import Data, draw, noise_entropy

Predict = Callable[[np.ndarray], np.ndarray]


def arrays(data: Data, **known: object) -> Given:
    return Given(data.given | known)


# --- Arrays ------------------------------------------------------------------------------------------------------


@case("axes_swapped", "arrays", "numpy")
def time_first_sensor(seed, wrong):
    """Arrays saved as (time, samples, features), as recurrent layers of another library had them."""
    d = draw("own", seed, 900, 12, 5, 3, stays=0.8)
    known = d.given
    return Given({k: v.swapaxes(0, 1) for k, v in known.items()} if wrong else known)


@case("axes_swapped", "arrays", "numpy")
def time_first_latch(seed, wrong):
    """A generator that yields time-major batches, concatenated."""
    d = draw("latch", seed, 700, 16, 8, 4, prior=[0.85, 0.05, 0.05, 0.05])
    known = d.given
    return Given({k: v.swapaxes(0, 1) for k, v in known.items()} if wrong else known)


@case("bad_values", "arrays", "numpy")
def missing_readings(seed, wrong):
    """NaN loss from the first epoch: a data frame with missing readings."""
    d = draw("own", seed, 1200, 4, 6, 2)
    rng = np.random.default_rng(seed)
    x = d.given["x"].copy()
    gaps = rng.random(x.shape) < 0.002
    x[gaps] = np.nan if wrong else 0.0
    return arrays(d, x=x)


@case("bad_values", "arrays", "numpy")
def log_of_zero(seed, wrong):
    """Loss is nan: a feature is the logarithm of a count that is now and then 0."""
    d = draw("latch", seed, 2000, 6, 4, 3)
    rng = np.random.default_rng(seed)
    counts = rng.poisson(5, d.given["x"].shape[:2])
    with np.errstate(divide="ignore"):
        level = np.log(counts) if wrong else np.log1p(counts)
    return arrays(d, x=np.concatenate([d.given["x"], level[..., None]], -1).astype(np.float32))


@case("bad_values", "arrays", "numpy")
def not_measured_is_minus_9999(seed, wrong):
    """Nothing is learnt of sensor data in which -9999 stands where nothing was measured."""
    d = draw("own", seed, 1500, 6, 5, 3)
    gaps = np.random.default_rng(seed).random(d.given["x"].shape) < 0.03
    return arrays(d, x=np.where(gaps, np.float32(-9999 if wrong else 0), d.given["x"]))


@case("labels_shifted", "arrays", "numpy")
def labels_one_ahead(seed, wrong):
    """Windows whose targets start one step late; a model of each step by itself never gets anywhere."""
    d = draw("own", seed, 1500, 8, 10, 2)
    return arrays(d, y=np.roll(d.given["y"], -1, 1) if wrong else d.given["y"])


@case("labels_shifted", "arrays", "numpy")
def labels_two_behind(seed, wrong):
    """A lag made with shift(2) on the target, the gap filled with the first class."""
    d = draw("back2" if wrong else "own", seed, 2500, 10, 7, 3)
    return arrays(d)


@case("labels_unrelated", "arrays", "numpy")
def shuffled_apart(seed, wrong):
    """x shuffled and y not: loss stays at ln 2 whatever the network."""
    d = draw("own", seed, 1800, 3, 8, 2)
    order = np.random.default_rng(seed).permutation(len(d.given["x"]))
    return arrays(d, x=d.given["x"][order], y=d.given["y"] if wrong else d.given["y"][order])


@case("labels_unrelated", "arrays", "numpy")
def off_by_one_row(seed, wrong):
    """Features and targets read from two files, one of them with its header taken for a row."""
    d = draw("latch", seed, 3000, 6, 5, 3)
    return arrays(d, y=np.roll(d.given["y"], 1, 0) if wrong else d.given["y"])


@case("labels_unrelated", "arrays", "numpy")
def files_sorted_as_text(seed, wrong):
    """Features from sorted(glob("*.npy")): 0, 1, 10, 100; targets from a table in the order of numbers."""
    d = draw("held1", seed, 2100, 5, 6, 3)
    names = sorted(f"{number}.npy" for number in range(2100))
    order = [int(name.removesuffix(".npy")) for name in names]
    return arrays(d, x=d.given["x"][order], y=d.given["y"] if wrong else d.given["y"][order])


@case("labels_repeat_one_step", "arrays", "numpy")
def last_label_everywhere(seed, wrong):
    """TimeDistributed(Dense) stuck at 0.6 with two steps: y[i, :] assigned inside the loop over steps."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (4000, 2, 21)) - 0.5
    y = (x.sum(-1) > 0).astype(int)
    return Given({"x": x.astype(np.float32), "y": np.repeat(y[:, -1:], 2, 1) if wrong else y})


@case("labels_repeat_one_step", "arrays", "numpy")
def first_label_repeated(seed, wrong):
    """np.repeat of one label over the window, so that the shapes agree."""
    d = draw("first" if wrong else "own", seed, 1500, 4, 9, 3)
    return arrays(d)


@case("label_in_inputs", "arrays", "numpy")
def target_column_kept(seed, wrong):
    """Accuracy 100 % after one epoch: the target column is still in the features."""
    d = draw("with_before", seed, 2000, 5, 6, 3)
    rng = np.random.default_rng(seed)
    other = rng.integers(0, 3, d.given["y"].shape)
    column = d.given["y"] if wrong else other
    return arrays(d, x=np.concatenate([d.given["x"], column[..., None]], -1).astype(np.float32))


@case("label_in_inputs", "arrays", "numpy")
def dummies_of_target(seed, wrong):
    """One-hot encoding of every categorical column, the target among them."""
    d = draw("latch", seed, 1000, 8, 5, 4)
    rng = np.random.default_rng(seed)
    column = d.given["y"] if wrong else rng.integers(0, 4, d.given["y"].shape)
    return arrays(d, x=np.concatenate([d.given["x"], np.eye(4)[column]], -1).astype(np.float32))


@case("duplicates_across_split", "arrays", "numpy")
def oversampled_before_split(seed, wrong):
    """Oversampling first, train_test_split after it."""
    d = draw("own", seed, 1000, 5, 12, 2)
    rng = np.random.default_rng(seed)
    x, y = d.given["x"], d.given["y"]
    again = rng.choice(700, 1000)
    val = np.concatenate([rng.choice(700, 60), np.arange(700, 840)]) if wrong else np.arange(700, 900)
    return Given({"x": x[again], "y": y[again], "x_val": x[val], "y_val": y[val]})


@case("duplicates_across_split", "arrays", "numpy")
def windows_then_split(seed, wrong):
    """Sliding windows over one series, then a random split: validation is as good as training."""
    d = draw("latch", seed, 1, 2600, 6, 3)
    starts = np.arange(0, 2500, 3)
    rng = np.random.default_rng(seed)

    def windows(at):
        return {name: np.stack([part[0, s : s + 10] for s in at]) for name, part in (("x", d.x), ("y", d.y))}

    order = rng.permutation(starts) if wrong else starts
    train, val = windows(order[:640]), windows(order[-180:])
    return Given(train | {f"{k}_val": v for k, v in val.items()})


@case("unmasked_padding", "arrays", "numpy")
def padded_with_zeros(seed, wrong):
    """pad_sequences on tags too: 0 is a tag as well, and accuracy is high from the start."""
    d = draw("latch", seed, 1500, 12, 8, 4, lengths=True)
    known = d.given
    if wrong:
        known.pop("mask")
    return Given(known)


@case("unmasked_padding", "arrays", "numpy")
def last_step_repeated(seed, wrong):
    """Short sequences stretched by their last step."""
    d = draw("own", seed, 2200, 9, 6, 2, lengths=True)
    last = d.mask.sum(1) - 1
    at = np.minimum(np.arange(9), last[:, None])
    x, y = (np.take_along_axis(d.x, at[..., None], 1), np.take_along_axis(d.y, at, 1))
    n = len(d.given["x"])
    known = {"x": x[:n], "y": y[:n], "mask": d.mask[:n]}
    if wrong:
        known.pop("mask")
    return Given(known)


@case("class_imbalance", "arrays", "numpy")
def rare_fraud(seed, wrong):
    """99 % accuracy and not one fraud found."""
    rate = 0.008 if wrong else 0.4
    return arrays(draw("own", seed, 3000, 5, 10, 2, prior=[1 - rate, rate]))


@case("class_imbalance", "arrays", "numpy")
def mostly_other_tag(seed, wrong):
    """Nearly every token has the tag O."""
    rate = 0.003 if wrong else 0.2
    return arrays(draw("own", seed, 2500, 8, 6, 4, prior=[1 - 3 * rate, rate, rate, rate]))


@case("split_shift", "arrays", "numpy")
def sorted_before_split(seed, wrong):
    """The last fifth as validation, of a file that is sorted by class."""
    d = draw("first", seed, 2000, 3, 6, 2)
    x, y = d.given["x"], d.given["y"]
    x[:, 1:] = x[:, :1]
    order = np.argsort(y[:, 0], kind="stable") if wrong else np.arange(len(y))
    train, val = order[:1600], order[1600:]
    return Given({"x": x[train], "y": y[train], "x_val": x[val], "y_val": y[val]})


@case("split_shift", "arrays", "numpy")
def scaled_apart(seed, wrong):
    """The scaler was fitted on training data; validation went in raw."""
    d = draw("held1", seed, 1600, 5, 8, 3)
    x, y = d.given["x"], d.given["y"]
    factor = 6.0 if wrong else 1.0
    return Given({"x": x[:1200], "y": y[:1200], "x_val": x[1200:] * factor, "y_val": y[1200:]})


@case("label_noise", "arrays", "numpy")
def annotators_disagree(seed, wrong):
    """No network gets beyond 75 %: one label in four is another."""
    return arrays(draw("own", seed, 3000, 4, 6, 2, noise=0.25 if wrong else 0.0))


@case("label_noise", "arrays", "numpy")
def crowd_of_four(seed, wrong):
    """Labels of four classes from a crowd, 45 % of them wrong."""
    return arrays(draw("latch", seed, 4000, 5, 5, 4, noise=0.45 if wrong else 0.0))


@case("softmax_twice", "arrays", "numpy", also=("probabilities_as_logits",))
def log_at_0_3133(seed, wrong):
    """The loss stops at 0.3133 = ln(1 + 1/e) although accuracy is 1.  (Either name says that.)"""
    d = draw("own", seed, 2000, 3, 7, 2)
    return arrays(d, observed_loss=0.3135 if wrong else 0.0004)


@case("softmax_twice", "arrays", "numpy", also=("probabilities_as_logits",))
def log_at_0_5514(seed, wrong):
    """The same for three classes: 0.5514 = ln(1 + 2/e)."""
    d = draw("own", seed, 1500, 6, 5, 3)
    return arrays(d, observed_loss=0.552 if wrong else 0.001)


# --- Models in NumPy ---------------------------------------------------------------------------------------------


def nearest(x: np.ndarray, y: np.ndarray, mask: np.ndarray | None = None, cool: float = 3.0) -> Predict:
    """Logits from the means of each class and one variance: exact where features are noise about centres.

    cool: by how much logits are smaller than that, so that they are no larger than those of a trained network.
    """
    mask = np.ones(y.shape, bool) if mask is None else mask
    x, y = x[mask].astype(np.float64), y[mask]
    means = np.stack([x[y == c].mean(0) for c in range(y.max() + 1)])
    variance = np.square(x - means[y]).mean()
    prior = np.log(np.bincount(y) / len(y))
    return lambda x: (x @ means.T - np.square(means).sum(1) / 2) / (cool * variance) + prior


def with_noise(logits: Predict, noise: float, classes: int) -> Predict:
    """Log-probabilities of labels that are another than the logits say with this probability."""
    confusion = (1 - noise) * np.eye(classes) + noise / (classes - 1) * (1 - np.eye(classes))
    return lambda x: np.log(softmax(logits(x)) @ confusion + 1e-9)


def softmax(z: np.ndarray, axis: int | tuple[int, ...] = -1) -> np.ndarray:
    p = np.exp(z - z.max(axis, keepdims=True))
    return p / p.sum(axis, keepdims=True)


def judged(data: Data, predict: Predict, reach: float = 0.0, **known: object) -> Given:
    return Given(data.given | {"predict": predict} | known, data.test, reach)


@case("softmax_axis", "predict", "numpy")
def softmax_over_steps(seed, wrong):
    """Probabilities that sum to one down a column: axis=1 of (samples, steps, classes)."""
    d = draw("own", seed, 1200, 7, 6, 3)
    logits = nearest(**d.given)
    return judged(d, lambda x: softmax(logits(x), 1 if wrong else 2))


@case("softmax_axis", "predict", "numpy")
def softmax_over_batch(seed, wrong):
    """A softmax of one's own for vectors, axis=0, used on batches."""
    d = draw("own", seed, 800, 4, 9, 2)
    logits = nearest(**d.given)
    return judged(d, lambda x: softmax(logits(x), 0 if wrong else -1))


@case("outputs_shifted", "predict", "numpy")
def window_off_by_one(seed, wrong):
    """Predictions lag one step behind the truth: the buffer gives its oldest entry."""
    d = draw("own", seed, 1000, 8, 5, 3)
    logits = nearest(**d.given)
    return judged(d, lambda x: np.roll(logits(x), 1, 1) if wrong else logits(x))


@case("outputs_shifted", "predict", "numpy")
def two_steps_early(seed, wrong):
    """Left padding of 2 cut off at the wrong end."""
    d = draw("own", seed, 1400, 12, 8, 2)
    logits = nearest(**d.given)

    def predict(x):
        z = logits(np.pad(x, ((0, 0), (2, 2), (0, 0))))
        return z[:, 4:] if wrong else z[:, 2:-2]

    return judged(d, predict)


@case("outputs_reversed", "predict", "numpy")
def never_flipped_back(seed, wrong):
    """A backward pass over the sequence whose outputs stay in the order they were made."""
    d = draw("own", seed, 900, 6, 4, 2)
    logits = nearest(**d.given)
    return judged(d, lambda x: logits(x[:, ::-1]) if wrong else logits(x[:, ::-1])[:, ::-1])


@case("scrambled_axes", "predict", "numpy")
def reshape_for_transpose(seed, wrong):
    """(samples, classes, steps) brought to (samples, steps, classes) with reshape."""
    d = draw("own", seed, 1500, 6, 8, 3)
    logits = nearest(**d.given)

    def predict(x):
        z = np.swapaxes(logits(x), 1, 2)
        return z.reshape(len(x), 6, 3) if wrong else np.swapaxes(z, 1, 2)

    return judged(d, predict)


@case("scrambled_axes", "predict", "numpy")
def reshaped_time_first(seed, wrong):
    """x.reshape(steps, samples, features) to get time first: samples are mixed, nothing complains."""
    d = draw("own", seed, 1100, 5, 6, 2)
    logits = nearest(**d.given)

    def predict(x):
        n, steps, size = x.shape
        first = x.reshape(steps, n, size) if wrong else x.swapaxes(0, 1)
        return logits(first).swapaxes(0, 1)

    return judged(d, predict)


@case("ignores_input", "predict", "numpy")
def cast_to_whole_numbers(seed, wrong):
    """Features between -0.5 and 0.5 go through astype(int): all of them are 0."""
    d = draw("own", seed, 1000, 5, 6, 3)
    d = d._replace(x=(d.x / 8).astype(np.float32))
    logits = nearest(**d.given)
    return judged(d, lambda x: logits(x.astype(int).astype(float)) if wrong else logits(x))


@case("ignores_input", "predict", "numpy")
def same_row_for_all(seed, wrong):
    """np.empty filled once and returned for every sample: every prediction is the same."""
    d = draw("own", seed, 1600, 3, 10, 2)
    logits = nearest(**d.given)
    first = logits(d.given["x"].mean((0, 1), keepdims=True))
    return judged(d, lambda x: np.broadcast_to(first, (*x.shape[:2], 2)) if wrong else logits(x))


@case("constant_over_steps", "predict", "numpy")
def last_output_tiled(seed, wrong):
    """One prediction per sequence, tiled to the shape of the labels."""
    d = draw("own", seed, 1300, 5, 7, 3)
    logits = nearest(**d.given)
    return judged(d, lambda x: np.repeat(logits(x)[:, -1:], 5, 1) if wrong else logits(x))


@case("batch_leak", "predict", "numpy", also=("training_mode",))
def scaled_per_batch(seed, wrong):
    """Features standardised with the mean and deviation of the batch that is predicted.

    (From outside the same as batch statistics at prediction, which `training_mode` names too.)
    """
    d = draw("own", seed, 1000, 3, 5, 3, spread=0.4)
    mean, deviation = d.given["x"].mean((0, 1)), d.given["x"].std((0, 1))
    logits = nearest((d.given["x"] - mean) / deviation, d.given["y"], cool=0.5)

    def predict(x):
        if wrong:
            return logits((x - x.mean((0, 1))) / (x.std((0, 1)) + 1e-6))
        return logits((x - mean) / deviation)

    return judged(d, predict)


@case("metric_disagrees", "predict", "numpy")
def accuracy_over_padding(seed, wrong):
    """Accuracy counts padded steps, where label and prediction are both 0."""
    d = draw("own", seed, 1500, 10, 6, 4, lengths=True, noise=0.15)
    x, mask = d.given["x"], d.given["mask"]
    logits = with_noise(nearest(x, d.events[: len(x)], mask), 0.15, 4)
    z = logits(d.given["x"]).argmax(-1) * d.given["mask"]
    right = z == d.given["y"]
    accuracy = right.mean() if wrong else right[d.given["mask"]].mean()
    return judged(d, logits, noise_entropy(0.15, 4), observed_accuracy=float(accuracy))


@case("metric_disagrees", "predict", "numpy")
def accuracy_of_one_hot(seed, wrong):
    """binary_accuracy over one-hot outputs: 80 % for nothing with five classes; here of a sound model."""
    d = draw("own", seed, 1800, 4, 8, 5, noise=0.3)
    logits = with_noise(nearest(d.given["x"], d.events[: len(d.given["x"])]), 0.3, 5)
    p, y = softmax(logits(d.given["x"])), d.given["y"]
    binary = ((p > 0.5) == np.eye(5)[y]).mean()
    accuracy = binary if wrong else (p.argmax(-1) == y).mean()
    return judged(d, logits, noise_entropy(0.3, 5), observed_accuracy=float(accuracy))


@case("metric_disagrees", "predict", "numpy")
def accuracy_broadcast(seed, wrong):
    """(pred == y).mean() with pred of shape (n, 1) and y of shape (n,): about a half, although the loss is 0."""
    d = draw("own", seed, 900, 4, 6, 2)
    logits = nearest(**d.given)
    pred, y = logits(d.given["x"]).argmax(-1).reshape(-1, 1), d.given["y"].ravel()
    accuracy = (pred == y).mean() if wrong else (pred[:, 0] == y).mean()
    return judged(d, logits, observed_accuracy=float(accuracy))


@case("unseen_steps", "predict", "numpy", also=("history_unused",))
def own_step_only(seed, wrong):
    """A classifier of single frames on labels that hold until the next event."""
    d = draw("latch" if wrong else "own", seed, 2000, 6, 6, 3)
    return judged(d, nearest(**d.given))


@case("unseen_steps", "predict", "numpy")
def lag_too_short(seed, wrong):
    """Lag features of one step where the answer stands two steps back."""
    d = draw("held2", seed, 1800, 7, 5, 2)
    k = 1 if wrong else 2

    def lagged(a):
        return np.concatenate([np.zeros_like(a[:, :k]), a[:, :-k]], 1)

    def feed(x):
        return np.concatenate([x, lagged(x)], -1)[:, k:]

    x, y, events = d.given["x"], d.given["y"], d.events[: len(d.given["x"])]
    pairs = (2 * events + lagged(events))[:, k:]
    logits = nearest(feed(x), pairs)
    share = np.stack([np.bincount(y[:, k:][pairs == pair], minlength=2) + 0.01 for pair in range(4)])
    alone = nearest(x, events)  # at first nothing stands before

    def predict(x):
        p = softmax(logits(feed(x))) @ (share / share.sum(-1, keepdims=True))
        return np.concatenate([softmax(alone(x[:, :k])), p], 1)

    return judged(d, predict)


@case("sees_future", "predict", "numpy")
def smoothed_both_ways(seed, wrong):
    """A smoother (forward and backward pass) used for a signal that must be read as it comes."""
    stays, classes = 0.8, 3
    d = draw("own", seed, 1500, 8, 5, classes, spread=1.2, stays=stays)
    logits = nearest(**d.given, cool=1.0)
    change = stays * np.eye(classes) + (1 - stays) / classes

    def predict(x):
        likelihood = softmax(logits(x))  # events are alike in number
        ahead, behind = likelihood.copy(), np.ones_like(likelihood)
        for t in range(1, x.shape[1]):
            ahead[:, t] *= ahead[:, t - 1] @ change
            ahead[:, t] /= ahead[:, t].sum(-1, keepdims=True)
            behind[:, -1 - t] = (behind[:, -t] * likelihood[:, -t]) @ change.T
        p = ahead * behind if wrong else ahead
        return p / p.sum(-1, keepdims=True)

    return judged(d, predict, float("nan"), causal=True)


@case("model_family", "predict", "numpy")
def linear_on_xor(seed, wrong):
    """A linear classifier where two features have to be taken together."""
    d = draw("own", seed, 2400, 3, 4, 4)
    corner = np.array([[-1, -1, 0, 0], [-1, 1, 0, 0], [1, 1, 0, 0], [1, -1, 0, 0]])[d.events]
    rng = np.random.default_rng(seed)
    x = (corner + 0.2 * rng.normal(size=d.x.shape)).astype(np.float32)
    d = d._replace(x=x, y=d.events % 2)
    linear, corners = nearest(**d.given), nearest(d.given["x"], d.events[: len(d.given["x"])])

    def predict(x):
        if wrong:
            return softmax(linear(x))
        return softmax(corners(x)).reshape(*x.shape[:2], 2, 2).sum(-2)

    return judged(d, predict)


@case("label_noise", "predict", "numpy")
def sound_model_of_noisy_labels(seed, wrong):
    """Everything was tried and validation stays at 70 %: so many labels are right."""
    noise = 0.3 if wrong else 0.0
    d = draw("own", seed, 3500, 3, 5, 2, noise=noise)
    logits = nearest(d.given["x"], d.events[: len(d.given["x"])])
    return judged(d, with_noise(logits, noise, 2), noise_entropy(noise, 2))
