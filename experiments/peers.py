"""What one would use instead: the same work in Keras and in PyTorch.  Imports nothing of the library.

python -m experiments.peers WORK PEER SETTINGS

WORK is `answer` (all of it: data, training, losses), `train` or `gru`; SETTINGS a JSON object, see `PEERS`.  An
answer prints one line of JSON.  The others print one when they are ready, and then, for each line that they read,
do the work once and print its seconds and losses.
"""

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WIDTHS = (10, 10, 2)
# Losses after an epoch, and how many updates it took: {"train_loss", "val_loss", "updates"}.
Epochs = Callable[[int], dict[str, float]]


def sequences(settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """`x [N, T, F]`, bits minus 0.5, and `y [N, T]`, at every step the label of the last one."""
    draw = np.random.default_rng(settings["seed"])
    shape = settings["num_samples"], settings["seq_len"], settings["num_features"]
    x = draw.integers(0, 2, shape, np.int8).astype(np.float32) - np.float32(0.5)
    return x, np.repeat((x[:, -1:].sum(-1) > 0).astype(np.int64), settings["seq_len"], 1)


def keras_training(settings: dict[str, Any]) -> Epochs:
    """The model of the original question, as it was written, by `fit`."""
    import keras  # pyright: ignore[reportMissingImports]

    keras.utils.set_random_seed(settings["seed"])
    layers = [keras.layers.Dense(size, activation="softmax" if size == WIDTHS[-1] else None) for size in WIDTHS]
    model = keras.Sequential(
        [
            keras.layers.Input((settings["seq_len"], settings["num_features"])),
            *(keras.layers.TimeDistributed(layer) for layer in layers),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = sequences(settings)
    n, size = settings["num_train"], settings["batch_size"]

    def epochs(count: int) -> dict[str, float]:
        options = {"batch_size": size, "epochs": count, "validation_data": (x[n:], y[n:]), "verbose": 0}
        history = model.fit(x[:n], y[:n], **options).history
        return {
            "train_loss": history["loss"][-1],
            "val_loss": history["val_loss"][-1],
            "updates": float(model.optimizer.iterations),
        }

    return epochs


def torch_training(settings: dict[str, Any]) -> Epochs:
    """A plain loop: batches are slices of a permuted tensor, and nothing is read back before the epoch ends."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch.nn.functional import cross_entropy  # pyright: ignore[reportMissingImports]

    torch.manual_seed(settings["seed"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    widths = settings["num_features"], *WIDTHS
    model = torch.nn.Sequential(*(torch.nn.Linear(*pair) for pair in zip(widths, WIDTHS, strict=False))).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    x, y = (torch.from_numpy(a).to(device) for a in sequences(settings))
    n, size = settings["num_train"], settings["batch_size"]
    updates = 0

    def mean_loss(x: Any, y: Any) -> Any:
        return cross_entropy(model(x).flatten(0, 1), y.flatten())

    def epochs(count: int) -> dict[str, float]:
        nonlocal updates
        total = val_loss = torch.zeros(())
        for _ in range(count):
            order = torch.randperm(n, device=device)
            x_epoch, y_epoch = x[order], y[order]
            total = torch.zeros((), device=device)
            for start in range(0, n, size):
                x_batch, y_batch = x_epoch[start : start + size], y_epoch[start : start + size]
                optimizer.zero_grad()
                loss = mean_loss(x_batch, y_batch)
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(x_batch)
                updates += 1
            with torch.no_grad():
                val_loss = mean_loss(x[n:], y[n:])
        return {"train_loss": total.item() / n, "val_loss": val_loss.item(), "updates": updates}

    return epochs


def gru_arrays(settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Inputs `x [B, T, F]`, weights of the outputs `[B, T, H]`, parameters laid out as PyTorch's (r, z, n)."""
    draw = np.random.default_rng(settings["seed"])
    num_sequences, num_steps, num_features, width = settings["size"]
    bound = width**-0.5

    def uniform(*shape: int) -> np.ndarray:
        return draw.uniform(-bound, bound, shape).astype(np.float32)

    bias = uniform(3 * width)
    bias[: 2 * width] = 0  # Flax has no second bias in the gates r and z
    return {
        "x": draw.standard_normal((num_sequences, num_steps, num_features), np.float32),
        "weights": draw.standard_normal((num_sequences, num_steps, width), np.float32),
        "weight_ih_l0": uniform(3 * width, num_features),
        "weight_hh_l0": uniform(3 * width, width),
        "bias_ih_l0": uniform(3 * width),
        "bias_hh_l0": bias,
    }


def torch_gru(settings: dict[str, Any]) -> Epochs:
    """`torch.nn.GRU` forwards and backwards, to inputs and parameters."""
    import torch  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    arrays = {name: torch.from_numpy(a).to(device) for name, a in gru_arrays(settings).items()}
    x, weights = arrays.pop("x").requires_grad_(), arrays.pop("weights")
    gru = torch.nn.GRU(*settings["size"][2:], batch_first=True).to(device)
    gru.load_state_dict(arrays)

    def times(count: int) -> dict[str, float]:
        loss = torch.zeros(())
        for _ in range(count):
            gru.zero_grad()
            x.grad = None
            loss = (gru(x)[0] * weights).sum()
            loss.backward()
        gradients = torch.stack([a.grad.norm() for a in (x, *gru.parameters()) if a.grad is not None])
        return {"loss": loss.item(), "gradient": gradients.norm().item()}

    return times


# Name: what must be installed, the environment that it needs, and how each work is done.
PEERS: dict[str, tuple[tuple[str, ...], dict[str, str], dict[str, Callable[[dict[str, Any]], Epochs]]]] = {
    "Keras on JAX": (("keras", "jax"), {"KERAS_BACKEND": "jax"}, {"train": keras_training}),
    "Keras on PyTorch": (("keras", "torch"), {"KERAS_BACKEND": "torch"}, {"train": keras_training}),
    "PyTorch": (("torch",), {}, {"train": torch_training, "gru": torch_gru}),
}


def installed(peer: str) -> bool:
    """Whether all packages that a peer needs are there; nothing is imported."""
    return all(importlib.util.find_spec(package) for package in PEERS[peer][0])


def versions(peer: str) -> dict[str, str]:
    """Of the packages of a peer that has been used."""
    return {package: sys.modules[package].__version__ for package in PEERS[peer][0]}


def main(work: str, peer: str, settings: dict[str, Any]) -> None:
    """Do the work once, or as often as a line is read."""
    _, environment, works = PEERS[peer]
    os.environ.update(environment)  # before the peer is imported
    count = settings["times"]
    times = works["train" if work == "answer" else work](settings)
    if work == "answer":
        print(json.dumps(times(count) | {"versions": versions(peer)}), flush=True)
        return
    print(json.dumps({"versions": versions(peer)}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        found = times(count)  # its losses are read back: nothing is left to be done
        print(json.dumps(found | {"seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
