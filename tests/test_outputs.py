"""Outputs in every form are read as what they are; what fits nothing is refused in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, log_expit, log_softmax, softmax

from seqjax.config import ConfigError
from seqjax.outputs import KINDS, log_probabilities, read_outputs

N, T, C = 20, 5, 3
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(N, T, C)) * 3
UNIT = RNG.normal(size=(N, T)) * 3
TWO = np.stack([log_expit(-UNIT), log_expit(UNIT)], -1)

LOG_P, FIRST = log_softmax(LOGITS, -1), log_softmax(LOGITS[:, :1].repeat(T, 1), -1)
WHOLE_TWO = np.stack([log_expit(-np.round(UNIT)), log_expit(np.round(UNIT))], -1)
WHOLE = np.round(LOGITS)
BITS = (LOGITS > 0).astype(int)

# what is returned, classes, labels per, kind, log-probabilities that it says, a part of the text
READ = {
    "logits": (LOGITS, C, "step", "logits", LOG_P, "rows do not sum to one: taken for logits"),
    "probabilities": (softmax(LOGITS, -1), C, "step", "probabilities", LOG_P, "rows sum to one"),
    "log-probabilities": (log_softmax(LOGITS, -1), C, "step", "log_probabilities", LOG_P, "logs"),
    "a list": (LOGITS.tolist(), C, "step", "logits", LOG_P, "[20, 5, 3]"),
    "whole logits": (LOGITS.astype(int), C, "step", "logits", log_softmax(LOGITS.astype(int), -1), "int64"),
    "whole logits as floats": (WHOLE, C, "step", "logits", log_softmax(WHOLE, -1), "float64"),
    "whole logits, 0 and 1": (BITS, C, "step", "logits", log_softmax(BITS, -1), "from 0 to 1, rows do not"),
    "one unit, whole logits": (np.round(UNIT), 2, "step", "logit", WHOLE_TWO, "the logit of class 1"),
    "one unit, whole": (np.round(UNIT)[..., None].astype(int), 2, "step", "logit", WHOLE_TWO, "of class 1"),
    "flattened": (LOGITS.reshape(-1, C), C, "step", "logits", LOG_P, "flattened"),
    "classes on axis 1": (LOGITS.swapaxes(1, 2), C, "step", "logits", LOG_P, "axis 1"),
    "more outputs than classes": (LOGITS, 2, "step", "logits", LOG_P, "taken for logits"),
    "one unit, logit": (UNIT, 2, "step", "logit", TWO, "one unit a step"),
    "one unit, sigmoid": (expit(UNIT)[..., None], 2, "step", "sigmoid", TWO, "probability of class 1"),
    "one unit, flattened": (expit(UNIT).reshape(-1), 2, "step", "sigmoid", TWO, "flattened"),
    "one unit, axis 1": (UNIT[:, None], 2, "step", "logit", TWO, "axis 1"),
    "a sequence": (LOGITS[:, 0], C, "sequence", "logits", FIRST, "a sequence"),
    "a sequence of one step": (LOGITS[:, :1], C, "sequence", "logits", FIRST, "a sequence"),
    "a sequence, each step": (LOGITS, C, "sequence", "logits", LOG_P, "[20, 5, 3]"),
    "a sequence, one unit": (UNIT[:, 0], 2, "sequence", "logit", TWO[:, :1].repeat(T, 1), "one unit a sequence"),
    "a sequence, a column": (UNIT[:, :1], 2, "sequence", "logit", TWO[:, :1].repeat(T, 1), "output a sequence"),
    "a sequence, a unit each step": (UNIT, 2, "sequence", "logit", TWO, "one unit a step"),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "classes", "per", "kind", "log_p", "text"), READ.values(), ids=READ)
def test_every_form_is_read(raw, classes, per, kind, log_p, text):
    found = read_outputs(raw, N, T, classes, per)
    assert found.kind == kind
    assert found.log_p.dtype == np.float64
    np.testing.assert_allclose(found.log_p, log_p, atol=1e-12)
    assert found.raw.shape[:2] == (N, T)
    assert text in found.text
    assert found.text.endswith(KINDS[kind])


def test_the_text_tells_type_shape_and_range():
    raw = LOGITS.astype(np.float32)
    text = read_outputs(raw, N, T, C).text
    low, high = raw.min(), raw.max()
    assert text == f"float32 [20, 5, 3] from {low:.4g} to {high:.4g}, rows do not sum to one: taken for logits"


def test_one_step_is_a_plain_classifier():
    for raw in (LOGITS[:, 0], LOGITS[:, :1]):
        np.testing.assert_allclose(read_outputs(raw, N, 1, C).log_p, log_softmax(LOGITS[:, :1], -1))
    for raw in (UNIT[:, 0], UNIT[:, :1], UNIT[:, :1, None]):
        assert read_outputs(raw, N, 1, 2).log_p.shape == (N, 1, 2)


def test_two_steps_and_two_classes():
    units = expit(UNIT[:, :2])
    assert read_outputs(units, N, 2, 2).kind == "sigmoid"
    np.testing.assert_allclose(read_outputs(units, N, 2, 2).log_p[..., 1], np.log(units))
    rows = softmax(LOGITS[:, 0, :2], -1)  # a softmax for each sequence, where labels are for each step
    with pytest.raises(ConfigError, match="one output a sequence, where every step has a label"):
        read_outputs(rows, N, 2, 2)
    np.testing.assert_allclose(read_outputs(rows, N, 2, 2, "sequence").log_p, np.log(rows)[:, None].repeat(2, 1))


def test_as_many_classes_as_steps_are_read_straight():
    logits = RNG.normal(size=(N, T, T))
    np.testing.assert_allclose(read_outputs(logits, N, T, T).raw, logits)


class Raising:
    def __array__(self, dtype=None, copy=None):
        raise KeyError("no array")


class NoDevice:
    def detach(self):
        raise RuntimeError("no device")


class NoNumpy:
    def numpy(self):
        raise RuntimeError("no numpy")


# What is refused, with the classes, and a part of the text.
REFUSED = {
    "classes": (
        LOGITS.argmax(-1),
        C,
        "step",
        "whole numbers .*classes it seems; expected probabilities or logits",
    ),
    "classes as floats": (LOGITS.argmax(-1).astype(float), C, "step", "whole numbers"),
    "classes of two": (UNIT > 0, 2, "step", "whole numbers"),
    "classes of two as floats": ((UNIT > 0).astype(np.float32), 2, "step", "whole numbers .*threshold"),
    "classes counted from one": (1 + (UNIT > 0), 2, "step", "whole numbers"),
    "classes with an axis": ((UNIT > 0)[..., None].astype(int), 2, "step", "whole numbers"),
    "one-hot classes": (np.eye(C, dtype=int)[LOGITS.argmax(-1)], C, "step", "whole numbers"),
    "classes of sequences": (LOGITS.argmax(-1)[:, 0], C, "sequence", "expected"),
    "too few outputs": (
        LOGITS,
        C + 2,
        "step",
        r"outputs have 3 classes, labels have 5 \(0 to 4\): the last layer needs 5 units$",
    ),
    "counted from one": (
        LOGITS,
        C + 1,
        "step",
        r"outputs have 3 classes, labels have 4 \(0 to 3\): the last layer needs 4 units; or, where labels "
        r"are counted from one, subtract one from y",
    ),
    "too few, a sequence": (LOGITS[:, 0], C + 1, "sequence", "outputs have 3 classes, labels have 4"),
    "too few, flattened": (LOGITS.reshape(-1, C), C + 2, "step", "outputs have 3 classes, labels have 5"),
    "two for three": (
        LOGITS[..., :2],
        3,
        "step",
        r"outputs have 2 classes, labels have 3 \(0 to 2\): the last layer",
    ),
    "one unit for three": (UNIT, C, "step", "one number a step cannot tell 3 classes apart"),
    "one unit with an axis": (UNIT[..., None], C, "step", "outputs have 1 class, labels have 3"),
    "one output a sequence": (LOGITS[:, 0], C, "step", "one output a sequence.*return_sequences=True"),
    "time first": (LOGITS.swapaxes(0, 1), C, "step", "first two axes look swapped"),
    "sequences lost": (LOGITS[:16], C, "step", "for 20 sequences it returned 16"),
    "four axes": (LOGITS[..., None], C, "step", "expected"),
    "a number": (0.5, C, "step", "expected"),
    "nothing": (None, C, "step", "returned NoneType: expected numbers"),
    "words": ("healthy", C, "step", "returned .*expected numbers"),
    "ragged": ([[1.0], [1.0, 2.0]], C, "step", "no rectangular array"),
    "raises": (Raising(), C, "step", r"f returned a Raising, which cannot be read as an array \(KeyError: 'n"),
    "no device": (NoDevice(), C, "step", r"returned a NoDevice, which cannot be .*\(RuntimeError: no device\)$"),
    "no numpy": (NoNumpy(), C, "step", r"returned a NoNumpy, which cannot be .*\(RuntimeError: no numpy\)$"),
    "complex": (LOGITS * 1j, C, "step", "returned complex128: expected numbers"),
}


@pytest.mark.parametrize(("raw", "classes", "per", "text"), REFUSED.values(), ids=REFUSED)
def test_what_fits_nothing_is_refused(raw, classes, per, text):
    with pytest.raises(ConfigError, match=text) as e:
        read_outputs(raw, N, T, classes, per, "--predict=m:f: f")
    assert str(e.value).startswith("--predict=m:f: f returned ")
    assert "\n" not in str(e.value)


def test_a_unit_that_is_stuck_is_no_class():
    """A softmax over one unit says 1 everywhere, which is a fault to find and not one to refuse."""
    stuck = read_outputs(np.ones((N, T, 1), np.float32), N, T, 2)
    assert stuck.kind == "sigmoid"
    assert np.isfinite(stuck.log_p).all()
    silent = read_outputs(np.zeros((N, T, 1), np.float32), N, T, 2)
    assert silent.kind == "logit"
    np.testing.assert_allclose(silent.log_p, np.log(0.5))


def test_a_softmax_over_another_axis_is_no_probability():
    for axis in (0, 1):
        assert read_outputs(softmax(LOGITS, axis), N, T, C).kind == "logits"
    assert read_outputs(np.maximum(LOGITS, 0), N, T, C).kind == "logits"


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32])
def test_rounding_does_not_hide_probabilities(dtype):
    wide = RNG.normal(size=(N, T, 100))
    for logits in (LOGITS, wide):
        raw = jax.nn.softmax(jnp.asarray(logits, dtype))
        found = read_outputs(raw, N, T, logits.shape[-1])
        assert found.kind == "probabilities"
        np.testing.assert_allclose(np.exp(found.log_p).sum(-1), 1)


def test_what_is_not_finite_is_told_and_not_refused():
    for kind, values in (("logits", LOGITS), ("probabilities", softmax(LOGITS, -1)), ("logit", UNIT[..., None])):
        raw = values.copy()
        raw[3, 1, 0], raw[4, 2, 0] = np.nan, np.inf
        found = read_outputs(raw, N, T, 2 if kind == "logit" else C)
        assert found.kind == kind
        assert f"2 of {raw.size} values not finite" in found.text
        assert np.isnan(found.log_p[3, 1]).all()
        assert np.isnan(found.log_p[4, 2]).all()
        assert np.isfinite(np.delete(found.log_p, [3, 4], 0)).all()
    all_bad = read_outputs(np.full((N, T, C), np.nan), N, T, C)
    assert all_bad.kind == "logits"
    assert np.isnan(all_bad.log_p).all()
    assert read_outputs(np.full((N, T), np.nan), N, T, 2).kind == "logit"


def test_a_probability_of_zero_has_a_finite_loss():
    p = np.zeros((N, T, C), np.float32)
    p[..., 0] = 1
    p[0, 0] = (0.5, 0.5, 0)
    found = read_outputs(p, N, T, C)
    assert found.kind == "probabilities"
    np.testing.assert_allclose(found.log_p[1, 1], [0, *[np.log(np.finfo(np.float32).tiny)] * 2], atol=1e-6)
    masked = LOGITS.copy()
    masked[..., 2] = -np.inf  # a class that is ruled out
    found = read_outputs(masked, N, T, C)
    assert np.isfinite(found.log_p).all()
    np.testing.assert_allclose(found.log_p[..., :2], log_softmax(LOGITS[..., :2], -1))


@given(
    st.integers(1, 6), st.integers(1, 5), st.integers(2, 5), st.floats(0.1, 50), st.integers(0, 2**31),
    st.sampled_from(["logits", "probabilities", "log_probabilities", "sigmoid", "logit"]),
    st.sampled_from([np.float32, np.float64]), st.booleans(),
)  # fmt: skip
def test_any_outputs_are_read_as_they_were_made(n, steps, classes, scale, seed, kind, dtype, flat):
    unit = kind in ("sigmoid", "logit")
    # Two sequences at least: of a single row nothing can be told for sure.
    n, classes = n + 1, 2 if unit else classes
    logits = np.random.default_rng(seed).normal(size=(n, steps, 1 if unit else classes)) * scale
    logits = logits.astype(dtype)
    make = {"logits": lambda x: x, "probabilities": lambda x: softmax(x, -1), "logit": lambda x: x,
            "log_probabilities": lambda x: log_softmax(x, -1), "sigmoid": expit}  # fmt: skip
    raw = make[kind](logits)
    if kind == "logit" and raw.min() >= 0 and raw.max() <= 1:
        kind = "sigmoid"  # nobody could tell
    found = read_outputs(raw.reshape(n * steps, -1) if flat else raw, n, steps, classes)
    assert found.kind == kind
    assert found.log_p.shape == (n, steps, classes)
    np.testing.assert_allclose(np.exp(found.log_p).sum(-1), 1, atol=1e-5)
    full = np.concatenate([np.zeros_like(logits), logits], -1) if unit else logits
    if not (unit and kind == "sigmoid" and (raw == logits).all()):
        # Where rounding to the format hid nothing: a probability near 1 tells little of what is left.
        clear = log_softmax(full.astype(float), -1) > -10
        np.testing.assert_allclose(
            found.log_p[clear],
            log_softmax(full.astype(float), -1)[clear],
            atol=0.02 if dtype == np.float32 else 1e-6,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_can_be_traced(kind):
    units = {"sigmoid": expit(UNIT)[..., None], "logit": UNIT[..., None]}
    values = (units | {"probabilities": np.exp(LOG_P)}).get(kind, LOG_P).astype(np.float32)
    traced = jax.jit(lambda v: log_probabilities(v, kind, xp=jnp))(values)
    np.testing.assert_allclose(traced, log_probabilities(values, kind), atol=1e-5)
    zeros = jnp.zeros((1, 1, values.shape[-1])).at[..., 0].set(1.0)
    assert np.isfinite(log_probabilities(zeros, kind, xp=jnp)).all()
