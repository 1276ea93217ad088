"""Run by test_devices.py in a process with eight simulated devices: the largest differences from one device.

Prints JSON: for every case, by what it was measured on, the largest difference.
"""

import functools
import json
import sys
from typing import Any

import jax
import numpy as np
import optax
import runs
import tiny

from seqjax import devices, experiment, tasks, training
from seqjax.config import Config

jax.config.update("jax_numpy_rank_promotion", "raise")

# 162 sequences in batches of 30: neither the batches nor the last one, of 12, can be shared out evenly.
ODD = {"num_features": 4, "num_samples": 203, "batch_size": 30, "label_noise": 0.1}
GRU = {"model": "gru", "hidden_sizes": (4,)}
SETTINGS: dict[str, dict[str, Any]] = {
    "dense, one": {},
    "dense, three": {"num_replicates": 3},
    "dense, three, shared": {"num_replicates": 3, "vary": "init"},
    "dense, sixteen, shared": {"num_replicates": 16, "vary": "init"},
    "dense, eight, fresh data": {"num_replicates": 8, "fresh_data": True},
    "gru, one, fresh data": GRU | {"seq_len": 3, "fresh_data": True},
    "gru, eight, shared": GRU | {"num_replicates": 8, "vary": "init"},
}
# Settings and mesh, None for the default; the second table takes longer than a test should.
CASES: list[tuple[str, str | None]] = [
    ("dense, one", "replica:8"),
    ("dense, one", None),
    ("dense, sixteen, shared", "replica:4,data:2"),
    ("dense, eight, fresh data", "replica:4,data:2"),
    ("gru, eight, shared", "replica:2,data:4"),
]
MORE_CASES: list[tuple[str, str | None]] = [
    ("dense, one", "data:8"),
    ("dense, one", "replica:4,data:2"),
    ("dense, three", None),
    ("dense, three", "data:8"),
    ("dense, three, shared", "replica:4,data:2"),
    ("dense, eight, fresh data", None),
    ("gru, one, fresh data", "data:8"),
    ("gru, eight, shared", "replica:8"),
]


def recording(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimiser, which keeps the last gradients in its state."""

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, inner = optimizer.update(grads, state[0], params)
        return updates, (inner, grads)

    return optax.GradientTransformation(
        lambda params: (optimizer.init(params), jax.tree.map(lambda p: 0 * p, params)), update
    )


def measure(config: Config, mesh_text: str | None, one_device: bool) -> dict[str, Any]:
    """What one epoch gives, of the replicates that were asked for."""
    mesh = None if one_device else devices.make_mesh(config.num_replicates, mesh_text)
    (group,) = experiment.replicate_groups(config, mesh.shape["replica"] if mesh else 1)
    programs = training.compile_programs(config, tasks.build(config), tiny.model_of(config), len(group), mesh)
    seed = np.uint32(config.seed)
    state, data = programs.setup(seed, group)
    start = devices.to_host(state.params)
    state, train, val = programs.epoch(state, data, seed, group, np.int32(0))
    outputs = programs.evaluate(state.params, data, seed, group)
    found = {
        "data": data if config.vary == "all" else None,
        "start": start,
        "params": state.params,
        "gradients": state.opt_state[1],
        "train": train.mean_loss(),
        "val": val.mean_loss(),
        "counts": (train.steps, val.steps, train.sequences, val.sequences),
        "losses": outputs.losses,
        "labels": outputs.labels,
        "mask": outputs.mask,
        "probabilities": outputs.probabilities,
    }
    return jax.tree.map(lambda a: np.asarray(a)[: config.num_replicates], devices.to_host(found))


def main() -> None:
    assert jax.device_count() == 8
    build = training.build_optimizer
    training.build_optimizer = lambda config: recording(build(config))
    report: dict[str, Any] = {}
    on_one = functools.cache(lambda name: measure(Config(**ODD | SETTINGS[name]), None, one_device=True))
    for name, text in MORE_CASES if sys.argv[1:] == ["more"] else CASES:
        one, several = on_one(name), measure(Config(**ODD | SETTINGS[name]), text, one_device=False)
        found = {what: runs.difference(one[what], several[what]) for what in one if one[what] is not None}
        found["size of gradients"] = max(float(abs(leaf).max()) for leaf in jax.tree.leaves(one["gradients"]))
        report[f"{name}, {text or 'default'}"] = found
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
