"""The report card of trainings in PyTorch and Keras, healthy ones and those with a mistake."""

import os

import jax
import numpy as np
import pytest

from seqjax import arrays, controls

os.environ.setdefault("KERAS_BACKEND", "jax")
pytestmark = pytest.mark.frameworks


@pytest.fixture(autouse=True)
def as_users_have_it():
    """The kit's own tests forbid what Keras does when it adds a bias."""
    with jax.numpy_rank_promotion("allow"):
        yield


def given(steps=5, features=8, n=3000):
    rng = np.random.default_rng(0)
    return arrays.load(
        x=rng.normal(size=(n, steps, features)).astype(np.float32), y=rng.integers(0, 2, (n, steps))
    )


def found(report):
    return [finding.cause for finding in report.findings]


def original():
    """100 bits a step; every step carries the label of the last: the case that the kit grew from."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (36_000, 2, 100)).astype(np.float32) - 0.5
    last = (x[:, -1] > 0).sum(-1) > 50
    return arrays.load(x=x, y=np.repeat(last[:, None], 2, 1).astype(int))


def keras_fit(loss="categorical_crossentropy", activation="softmax", optimizer="adam", from_logits=None):
    import keras
    from keras.layers import Dense, TimeDistributed

    def fit(x, y, mask):
        model = keras.Sequential(
            [keras.Input(x.shape[1:])]
            + [TimeDistributed(Dense(size, activation=a)) for size, a in ((10, None), (10, None), (2, activation))]
        )
        given_loss = loss if from_logits is None else keras.losses.CategoricalCrossentropy(from_logits=from_logits)
        model.compile(optimizer=optimizer, loss=given_loss)
        history = model.fit(x, np.eye(2)[y], batch_size=32, epochs=10, verbose=0)
        return (lambda x: model.predict(x, verbose=0)), history.history["loss"]

    return fit


def test_the_original_case_has_no_finding():
    report = controls.run(keras_fit(), original(), seconds=200)
    assert found(report) == [], report
    rows = {row["control"]: row for row in report.controls}
    assert rows["own_feature"]["passed"], rows["own_feature"]["text"]
    assert "not seen" in rows["previous_step"]["text"].lower()
    assert rows["last_step"]["loss"] == pytest.approx(rows["last_step"]["reachable"], abs=0.05)


@pytest.mark.parametrize(
    ("cause", "mistake"),
    [
        ("softmax_twice", {"from_logits": True}),
        ("logits_as_probabilities", {"activation": None}),
        ("learning_rate_low", {"optimizer": "adam_low"}),
    ],
)
def test_a_mistake_in_keras(cause, mistake):
    import keras

    if mistake.get("optimizer") == "adam_low":

        def make(x, y, mask):
            return keras_fit(optimizer=keras.optimizers.Adam(1e-6))(x, y, mask)
    else:
        make = keras_fit(**mistake)
    assert found(controls.run(make, given(), seconds=100)) == [cause]


def torch_fit(batch_first=True, step=True, probabilities=False, rate=5e-3):
    import torch

    class Net(torch.nn.Module):
        def __init__(self, features):
            super().__init__()
            self.lstm = torch.nn.LSTM(features, 16, batch_first=batch_first)
            self.head = torch.nn.Linear(16, 2)

        def forward(self, x):
            out = self.head(self.lstm(x)[0])
            return out.softmax(-1) if probabilities else out

    def fit(x, y, mask):
        torch.manual_seed(0)
        torch.set_num_threads(1)  # with more a small net is slower
        net = Net(x.shape[2])
        optimizer = torch.optim.Adam(net.parameters(), rate)
        x, y = torch.tensor(x), torch.tensor(y)
        losses = []
        for _ in range(6):
            values = []
            for rows in torch.randperm(len(x)).split(32):
                loss = torch.nn.functional.cross_entropy(net(x[rows]).reshape(-1, 2), y[rows].reshape(-1))
                optimizer.zero_grad()
                loss.backward()
                if step:
                    optimizer.step()
                values.append(loss.item())
            losses.append(float(np.mean(values)))

        def predict(x):
            with torch.no_grad():
                return net(torch.tensor(x)).numpy()

        return predict, losses

    return fit


@pytest.mark.parametrize(
    ("cause", "mistake"),
    [
        (None, {}),
        ("does_not_train", {"step": False}),
        ("batch_time_swapped", {"batch_first": False}),
        ("softmax_twice", {"probabilities": True}),
    ],
)
def test_a_mistake_in_torch(cause, mistake):
    report = controls.run(torch_fit(**mistake), given(), samples=512, seconds=100)
    assert found(report) == ([cause] if cause else [])
