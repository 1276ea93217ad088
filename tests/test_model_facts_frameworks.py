"""What a model does, of models that PyTorch and Keras trained: each fault beside a twin without it."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
import pytest

from seqjax import adapters
from seqjax import arrays as user_arrays
from seqjax.model_facts import examine

pytestmark = [
    pytest.mark.frameworks,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
N, T, F = 800, 6, 5


def data(classes=2, seed=0):
    """Labels that need the own and the earlier step: the sign of a sum, or the place of the largest."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, T, F)).astype(np.float32)
    z = x[..., :classes] + 0.7 * np.concatenate([0 * x[:, :1], x[:, :-1]], 1)[..., :classes]
    return x, z.argmax(-1)


def loaded(x, y):
    half = N // 2
    return user_arrays.load(x=x[:half], y=y[:half], x_val=x[half:], y_val=y[half:])


def causes(facts):
    return [finding.cause for finding in facts.findings]


# --- PyTorch -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    found = pytest.importorskip("torch")
    found.set_num_threads(1)  # several wait for each other on a busy machine
    return found


def torch_model(torch, kind):
    """Every one returns `[N, T, C]`."""
    nn = torch.nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            wide = 24
            if "lstm" in kind:
                self.body = nn.LSTM(F, wide, batch_first="time_first" not in kind)
            elif "transformer" in kind:
                self.first = nn.Linear(F, wide)
                layer = nn.TransformerEncoderLayer(wide, 2, 32, 0.1, batch_first="time_first" not in kind)
                self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            elif "conv" in kind:
                self.body = nn.Conv1d(F, wide, 3, padding=1)
            else:
                self.body = nn.Sequential(nn.Linear(F, wide), nn.ReLU(), nn.Dropout(0.2))
            self.norm = nn.BatchNorm1d(wide) if "norm" in kind else None
            self.last = nn.Linear(wide, 2)

        def forward(self, x):
            if "lstm" in kind:
                h = self.body(x)[0]
            elif "transformer" in kind:
                h = self.body(self.first(x))
            elif "conv" in kind:
                x = x.reshape(len(x), F, -1) if "view" in kind else x.transpose(1, 2)
                h = self.body(x).relu().transpose(1, 2)
            else:
                h = self.body(x)
            if self.norm is not None:
                h = self.norm(h.transpose(1, 2)).transpose(1, 2)
            h = self.last(h)
            if "relu_out" in kind:
                h = h.relu()
            if "softmax_steps" in kind:
                return h.softmax(1)
            return h.softmax(-1) if "softmax" in kind else h

    return Net()


def trained(torch, kind, x, y, epochs=12):
    """The model after Adam on cross-entropy, and the loss of the training set that a log would show at the end."""
    model = torch_model(torch, kind)
    loss_of = torch.nn.CrossEntropyLoss()
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    xs, ys = torch.tensor(x[: N // 2]), torch.tensor(y[: N // 2])
    for _ in range(epochs):
        for rows in torch.randperm(len(xs)).split(32):
            optimiser.zero_grad()
            loss_of(model(xs[rows]).flatten(0, 1), ys[rows].flatten()).backward()
            optimiser.step()
    model.eval()
    with torch.no_grad():
        loss = loss_of(model(xs).flatten(0, 1), ys.flatten()).item()
    return model, round(loss, 4)


HEALTHY = {
    "dense": "own_step",
    "lstm": "past",
    "transformer": "all",
    "conv": "all",
    "conv norm": "all",
    "dense norm": "own_step",
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_modules(torch, kind):
    x, y = data()
    model, loss = trained(torch, kind, x, y)
    facts = examine(adapters.as_predict(model), loaded(x, y), observed_loss=loss, causal=HEALTHY[kind] != "all")
    assert causes(facts) == []
    assert facts.rung == HEALTHY[kind]
    assert facts.values["reported"]["loss"]["agrees"]


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("lstm time_first", "batch_time_swapped"),
        ("transformer time_first", "batch_time_swapped"),
        ("conv view", "scrambled_axes"),
        ("dense softmax_steps", "softmax_axis"),
        ("dense relu_out", "logits_as_probabilities"),
    ],
)
def test_modules_with_a_fault(torch, kind, cause):
    x, y = data()
    model, loss = trained(torch, kind, x, y)
    facts = examine(adapters.as_predict(model), loaded(x, y), observed_loss=loss)
    assert causes(facts)[0] == cause, facts.findings


@pytest.mark.parametrize("kind", ["dense", "conv norm", "transformer"])
def test_training_mode_left_on(torch, kind):
    x, y = data()
    model, _ = trained(torch, kind, x, y, epochs=4)
    assert "training_mode" not in causes(examine(adapters.as_predict(model), loaded(x, y)))
    model.train()
    assert causes(examine(adapters.as_predict(model), loaded(x, y)))[0] == "training_mode"


def test_a_softmax_before_cross_entropy_shows_in_the_number(torch):
    x, y = data()
    model, loss = trained(torch, "lstm softmax", x, y)
    assert causes(examine(adapters.as_predict(model), loaded(x, y), observed_loss=loss)) == ["softmax_twice"]


# --- Keras -------------------------------------------------------------------------------------------------------


@pytest.fixture
def keras():
    import jax

    found = pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"):  # as Keras needs it
        yield found


def fitted(keras, layers, loss, x, y, epochs=12):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    model.compile(keras.optimizers.Adam(5e-3), loss)
    model.fit(x[: N // 2], y[: N // 2], epochs=epochs, verbose=0)
    return model, round(float(model.evaluate(x[N // 2 :], y[N // 2 :], verbose=0)), 4)


@pytest.mark.parametrize(
    ("last", "from_logits", "cause"),
    [
        (("softmax", 2), False, None),
        ((None, 2), True, None),
        (("softmax", 2), True, "softmax_twice"),
        ((None, 2), False, "logits_as_probabilities"),
        (("relu", 2), False, "logits_as_probabilities"),
    ],
)
def test_activations_and_losses(keras, last, from_logits, cause):
    x, y = data()
    layers = [keras.layers.LSTM(16, return_sequences=True), keras.layers.Dense(last[1], activation=last[0])]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model, number = fitted(keras, layers, loss, x, y)
    facts = examine(adapters.as_predict(model), loaded(x, y), observed_loss=number)
    assert causes(facts)[:1] == ([cause] if cause else []), (facts.findings, facts.values)
    assert facts.rung == "past"


@pytest.mark.parametrize(
    ("activation", "from_logits", "cause"),
    [
        ("sigmoid", False, None),
        (None, True, None),
        ("sigmoid", True, "probabilities_as_logits"),
        (None, False, "logits_as_probabilities"),
        ("softmax", False, "single_unit_softmax"),
    ],
)
def test_one_unit(keras, activation, from_logits, cause):
    x, y = data()
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(1, activation=activation)]
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
    model, number = fitted(keras, layers, loss, x, y[..., None].astype(np.float32), epochs=6)
    facts = examine(adapters.as_predict(model), loaded(x, y), observed_loss=number)
    assert causes(facts)[:1] == ([cause] if cause else []), (facts.findings, facts.values)
