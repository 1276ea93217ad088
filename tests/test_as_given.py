"""Arrays that were read are given back as they came."""

import numpy as np
import pytest

from seqjax import arrays, as_given

N, T, F, C = 12, 4, 3, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, F)).astype(np.float32)
Y = RNG.integers(0, C, (N, T))
Y[0] = np.arange(T) % C
HOT = np.eye(C, dtype=np.float32)
PARTLY = np.where(RNG.random((N, T)) < 0.3, -100, Y)
PARTLY[:, 0] = Y[:, 0]
TOKENS = RNG.integers(0, 7, (N, T))

FORMS = {
    "steps": {"x": X, "y": Y},
    "float64": {"x": X.astype(np.float64), "y": Y.astype(np.int16)},
    "one_hot": {"x": X, "y": HOT[Y]},
    "one_hot_whole": {"x": X, "y": HOT[Y].astype(int)},
    "labels_with_an_axis_of_one": {"x": X, "y": Y[..., None]},
    "tokens": {"x": TOKENS, "y": Y},
    "tokens_with_an_axis_of_one": {"x": TOKENS[..., None], "y": Y, "inputs": "tokens"},
    "one_label": {"x": X, "y": Y[:, 0]},
    "one_label_with_an_axis": {"x": X, "y": Y[:, :1]},
    "one_hot_label": {"x": X, "y": HOT[Y[:, 0]], "labels_per": "sequence"},
    "one_hot_label_with_an_axis": {"x": X, "y": HOT[Y[:, :1]]},
    "one_step": {"x": X[:, 0], "y": Y[:, 0]},
    "one_step_one_hot": {"x": X[:, 0], "y": HOT[Y[:, 0]], "labels_per": "sequence"},
    "one_step_of_three_axes": {"x": X[:, :1], "y": Y[:, :1]},
    "steps_first": {"x": X.swapaxes(0, 1), "y": Y.swapaxes(0, 1), "batch_first": False},
    "steps_first_one_hot": {"x": X.swapaxes(0, 1), "y": HOT[Y].swapaxes(0, 1), "batch_first": False},
    "steps_first_one_label": {"x": X.swapaxes(0, 1), "y": Y[:, 0], "batch_first": False},
    "not_scored": {"x": X, "y": PARTLY},
}


@pytest.mark.parametrize("name", FORMS)
def test_what_was_read_is_given_back_as_it_came(name):
    given = FORMS[name]
    read = arrays.load(**given)
    x, y, mask = (np.asarray(part) for part in read.train)
    back = read.form.inputs(x), read.form.labels(y, mask)
    for found, expected in zip(back, (given["x"], given["y"]), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    steps_first = not given.get("batch_first", True)
    assert read.form.mask(mask).shape == ((T, N) if steps_first else mask.shape)


def test_features_that_are_whole_numbers_are_floats_to_a_model():
    read = arrays.load(x=(X > 0).astype(np.uint8), y=Y)
    assert read.form.inputs(np.asarray(read.train.inputs)).dtype == np.float32


def test_what_somebody_writes_into_their_arrays_stays_theirs():
    read = arrays.load(x=X.copy(), y=Y)

    def predict(x):
        x[:] = 0
        return x

    read.form.predict(predict)(np.asarray(read.train.inputs))
    np.testing.assert_array_equal(read.train.inputs, X)


def test_the_mask_of_one_label_is_that_of_the_steps_before_it():
    mask = np.arange(T) < RNG.integers(1, T + 1, N)[:, None]
    read = arrays.load(x=X, y=Y[:, 0], mask=mask)
    np.testing.assert_array_equal(read.form.mask(np.asarray(read.train.mask)), mask)
    np.testing.assert_array_equal(read.form.labels(*map(np.asarray, read.train[1:])), Y[:, 0])


@pytest.mark.parametrize("name", ["steps", "steps_first"])
def test_predictions_come_sequences_first(name):
    given = FORMS[name]
    read = arrays.load(**given)
    predict = read.form.predict(lambda x: x[..., :2] + 1)
    np.testing.assert_array_equal(predict(X), X[..., :2] + 1)


def test_a_fit_is_given_arrays_in_its_own_form():
    seen = {}

    def fit(x, y, mask):
        seen.update(x=x, y=y, mask=mask)
        return (lambda x: x), [1.0]

    given = FORMS["steps_first_one_hot"]
    read = arrays.load(**given)
    _, losses = read.form.fit(fit)(*map(np.asarray, read.train))
    np.testing.assert_array_equal(seen["x"], given["x"])
    np.testing.assert_array_equal(seen["y"], given["y"])
    assert losses == [1.0]


def test_a_fit_without_a_mask_is_given_none():
    read = arrays.load(x=X, y=Y)
    predict = read.form.fit(lambda x, y: lambda x: x + y.max())(*map(np.asarray, read.train))
    np.testing.assert_array_equal(predict(X), X + Y.max())


FITS = {  # a fit, and whether it is given the mask
    "by position": (lambda x, y, m: m, True),
    "by name": (lambda x, y, epochs=3, mask=None: mask if epochs == 3 else 1 / 0, True),
    "by name alone": (lambda x, y, *, mask: mask, True),
    "any number": (lambda *args: args[2], True),
    "options": (lambda x, y, epochs=3, verbose=0: None if epochs == 3 else 1 / 0, False),
    "none": (lambda x, y: None, False),
}


@pytest.mark.parametrize(("fit", "masked"), FITS.values(), ids=FITS)
def test_a_fit_is_given_the_mask_where_it_takes_one(fit, masked):
    call = as_given.with_mask(fit)
    assert call(1, 2, "a mask") == ("a mask" if masked else None)
    assert as_given.with_mask(lambda x: x) is None
    assert as_given.with_mask(lambda x, y, mask, more: x) is None
