"""Run by test_devices.py in a process with eight simulated devices: the largest differences from one device.

Prints JSON: for every case, by what it was measured on, the largest difference.
"""

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

# name: (settings, meshes); None is the default mesh.  160 sequences in batches of 30: neither the
# batches nor the last one, of 10, can be shared out evenly.
ODD = {"num_features": 4, "num_samples": 203, "batch_size": 30, "label_noise": 0.1}
CASES: dict[str, tuple[dict[str, Any], tuple[str | None, ...]]] = {
    "dense, one": ({}, ("replica:8", "data:8", "replica:4,data:2", None)),
    "dense, three": ({"num_replicates": 3}, ("data:8", None)),
    "dense, eight, fresh data": ({"num_replicates": 8, "fresh_data": True}, (None, "replica:4,data:2")),
    "dense, three, shared": ({"num_replicates": 3, "vary": "init"}, ("replica:4,data:2",)),
    "gru, one, fresh data": ({"model": "gru", "hidden_sizes": (4,), "seq_len": 3, "fresh_data": True}, ("data:8",)),
    "gru, eight, shared": (
        {"model": "gru", "hidden_sizes": (4,), "num_replicates": 8, "vary": "init"},
        ("replica:8", "replica:2,data:4"),
    ),
}


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
    for name, (settings, meshes) in CASES.items():
        config = Config(**ODD | settings)
        one = measure(config, None, one_device=True)
        for text in meshes:
            several = measure(config, text, one_device=False)
            key = f"{name}, {text or 'default'}"
            report[key] = {
                what: runs.difference(one[what], several[what]) for what in one if one[what] is not None
            }
            report[key]["size of gradients"] = runs.difference(one["gradients"], jax.tree.map(np.zeros_like, one["gradients"]))
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
