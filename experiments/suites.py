"""The suites of the benchmark: what is timed, beside what.  Imports the library, `peers` and `turns`.

A suite is a function of `(seed, rounds)` and gives the rows of its table.  All that is compared within a suite
runs in turns, so that whatever else the machine does meets each alike; ratios are taken within a turn.  Work that
is compared is the same work: losses and numbers of updates are held against each other, and `Unequal` is raised
where they differ.
"""

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments import peers
from experiments.turns import (
    OURS,
    ROOT,
    Row,
    Run,
    absent,
    command_of,
    compared,
    done,
    in_turns,
    peer_at_work,
    ratio,
    the_same,
)  # fmt: skip
from seqjax import devices, experiment, forecasts, gru, ladder, models, tasks, training
from seqjax.config import Config

# (name, vary, number of replicates): what the suite `replicates` runs in turns.
REPLICATES = [
    ("one run", "all", 1),
    *((f"{count}, data shared", "init", count) for count in (8, 32, 128, 512)),
    *((f"{count}, data of their own", "all", count) for count in (8, 32, 128)),
]
# A tenth of the main job's: 128 times data of their own are then 0.4 GB, and an update takes as long.
SEQUENCES = 3_600
MAIN_JOB = Config()  # what `answer` does, and `train` at two steps
LENGTHS = (1, 2, 16, 128)  # of the sequences that `train` trains on
GRUS = [(32, 64, 100, 64), (32, 512, 100, 128), (8, 4096, 100, 128), (64, 1024, 128, 256)]
LONG = (1024, 4096, 16384, 65536)
DIAGNOSED = (2, 16, 64, 256)
LADDER_SEQUENCES, LADDER_FEATURES = 2000, 20
PEAK_SIZE = 2048  # of the matrices whose product says what the machine can do


@functools.cache
def limits() -> dict[str, float]:
    """What this machine can do: operations a second in a large product, bytes a second in a large copy."""
    a = jnp.ones((PEAK_SIZE, PEAK_SIZE))
    large = jnp.ones(16 * PEAK_SIZE**2)
    runs = {"product": done(jax.jit(lambda a: a @ a), a), "copy": done(jax.jit(lambda a: a + 1), large)}
    seconds = in_turns(runs, 9)
    return {"flops": 2 * PEAK_SIZE**3 / min(seconds["product"]), "bytes": 2 * large.nbytes / min(seconds["copy"])}


def peer_settings(config: Config, times: int) -> dict[str, Any]:
    names = ("seed", "num_samples", "num_train", "seq_len", "num_features", "batch_size")
    return {name: getattr(config, name) for name in names} | {"times": times}


# --- answer: the whole process ---


def answer(seed: int, rounds: int) -> list[Row]:
    """Wall time of the whole process for the main job, with nothing compiled before and with everything."""
    names = [name for name in peers.PEERS if peers.installed(name)]
    rows, settings = [], peer_settings(MAIN_JOB, MAIN_JOB.num_epochs) | {"seed": seed}
    for state in ("cold", "warm"):
        with tempfile.TemporaryDirectory() as folder:
            found: dict[str, dict[str, float]] = {}
            runs: dict[str, Run] = {OURS: functools.partial(our_answer, folder, state, seed, found)}
            for name in names:
                runs[name] = functools.partial(peers_answer, name, settings, folder, state, found)
            seconds = in_turns(runs, rounds)
            the_same(found, ("train_loss", "val_loss"))
        rows += [{"cache": state} | row for row in compared(seconds)]
    return [*rows, *({"cache": ""} | row for row in absent(list(peers.PEERS)))]


def cache_for(folder: str, name: str, state: str) -> str:
    """A folder for compiled programs: a new one for a cold start, the same for all warm ones."""
    return tempfile.mkdtemp(dir=folder) if state == "cold" else str(Path(folder) / name.replace(" ", "_"))


def our_answer(folder: str, state: str, seed: int, found: dict[str, Any]) -> None:
    """The main job as anybody would start it: forecast, training, account, figures and files."""
    workdir = Path(folder) / "run"
    settings = {"seed": seed, "seq_len": MAIN_JOB.seq_len, "num_samples": MAIN_JOB.num_samples}
    flags = [*(f"--{name}={value}" for name, value in settings.items()), f"--num_epochs={MAIN_JOB.num_epochs}"]
    cache = f"--cache_dir={cache_for(folder, OURS, state)}"
    argv = [sys.executable, "-m", "experiments.main", *flags, cache, f"--workdir={workdir}", "--overwrite"]
    subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    history = json.loads((workdir / "result.json").read_text())["history"]
    updates = training.updates_per_epoch(MAIN_JOB) * MAIN_JOB.num_epochs
    found[OURS] = {name: history[name][-1] for name in ("train_loss", "val_loss")} | {"updates": updates}


def peers_answer(peer: str, settings: dict[str, Any], folder: str, state: str, found: dict[str, Any]) -> None:
    """The same work by a peer, its compiled programs kept as ours are where it is on JAX."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": cache_for(folder, peer, state),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(
        command_of("answer", peer, settings),
        cwd=ROOT, env=os.environ | cache, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    found[peer] = json.loads(done.stdout.splitlines()[-1])


# --- train: training alone ---


def train(seed: int, rounds: int) -> list[Row]:
    """Sequences a second of training, the validation after each epoch included, and what the machine could do."""
    rows, names = [], [name for name, (_, _, works) in peers.PEERS.items() if "train" in works]
    for length in LENGTHS:
        num_samples = min(MAIN_JOB.num_samples, 2 * MAIN_JOB.num_samples // length)
        config = Config(seq_len=length, num_samples=num_samples, seed=seed)
        count, found = MAIN_JOB.num_epochs, {}
        trained = num_samples * count
        # A multiply and an add for each weight; forwards, and twice that backwards for what is trained on.
        weights = sum(a * b for a, b in zip((config.num_features, *peers.WIDTHS), peers.WIDTHS, strict=False))
        flops = 2 * weights * length * count * (3 * config.num_train + config.num_val)
        moved = 4 * config.num_features * length * trained
        with contextlib.ExitStack() as stack:
            runs: dict[str, Run] = {OURS: epochs("all", 1, config, count, found)}
            for name in filter(peers.installed, names):
                at_work = peer_at_work("train", name, peer_settings(config, count), found)
                runs[name] = stack.enter_context(at_work)
            seconds = in_turns(runs, rounds)
        the_same(found, ("train_loss", "val_loss"))
        columns = {
            "sequences / s": lambda took, n=trained: n / statistics.median(took),
            "of arithmetic": lambda took, n=flops: n / min(took) / limits()["flops"],
            "of memory": lambda took, n=moved: n / min(took) / limits()["bytes"],
        }
        rows += [{"T": length} | row for row in compared(seconds, **columns)]
    return [*rows, *({"T": ""} | row for row in absent(names))]


def epochs(
    vary: str, num_replicates: int, config: Config, times: int, found: dict[str, Any] | None = None
) -> Callable[[], None]:
    """Trains the default model `times` epochs on from where it stands, as `experiments.main` would."""
    config = Config(
        vary=vary,
        num_replicates=num_replicates,
        num_epochs=1_000_000,  # a long run; the first epochs, in a program of their own, are the warm-up's
        **{n: getattr(config, n) for n in ("seq_len", "num_samples", "seed")},
    )
    model = models.build(config, config.num_features, 2)
    programs = training.compile_programs(config, tasks.build(config), model, num_replicates)
    key, numbers = np.uint32(config.seed), np.arange(num_replicates, dtype=np.int32)
    state, data = programs.setup(key, numbers)
    done = 0

    def run() -> None:
        nonlocal state, done
        train = val = None
        for _ in range(times):
            state, train, val = programs.epoch(state, data, key, numbers, np.int32(done))
            done += 1
            jax.block_until_ready(state)  # as a run does, which shows each epoch
        if found is not None and train is not None and val is not None:
            losses = {"train_loss": train, "val_loss": val}
            found[OURS] = {name: float(m.loss.sum() / m.steps.sum()) for name, m in losses.items()}
            found[OURS]["updates"] = done * training.updates_per_epoch(config)

    return run


# --- replicates: many trainings at once ---


def replicates(seed: int, rounds: int) -> list[Row]:
    """Seconds of training per epoch and replicate, medians, and the share of a single run's, and of PyTorch's."""
    config = Config(num_samples=SEQUENCES, seed=seed)
    times = {name: max(1, 16 // count) for name, _, count in REPLICATES}  # so that each takes long enough to time
    runs: dict[str, Run] = {name: epochs(vary, count, config, times[name]) for name, vary, count in REPLICATES}
    units = {name: times[name] * count for name, _, count in REPLICATES}
    with contextlib.ExitStack() as stack:
        if peers.installed("PyTorch"):
            at_work = peer_at_work("train", "PyTorch", peer_settings(config, 16), {})
            runs["PyTorch"], units["PyTorch"] = stack.enter_context(at_work), 16
        seconds = in_turns(runs, rounds)
    each = {name: [s / units[name] for s in took] for name, took in seconds.items()}
    return [
        {
            "replicates": name,
            "ms per epoch and replicate": 1e3 * statistics.median(took),
            "least": 1e3 * min(took),
            "most": 1e3 * max(took),
            "of one run": ratio(took, each[REPLICATES[0][0]]),
            "of PyTorch": ratio(took, each["PyTorch"]) if "PyTorch" in each else "not installed",
        }
        for name, took in each.items()
    ]


# --- recurrent: the GRU ---


def recurrent(seed: int, rounds: int) -> list[Row]:
    """A GRU forwards and backwards: ours, Flax's and PyTorch's (cuDNN's on a GPU), on the same numbers."""
    rows = []
    for size in GRUS:
        num_sequences, num_steps, num_features, width = size
        # A multiply and an add; forwards, and twice that backwards.
        flops = 3 * 2 * num_sequences * num_steps * 3 * width * (num_features + width)
        times = max(1, round(2e10 / flops))  # so that each takes long enough to time
        settings, found = {"seed": seed, "size": size, "times": times}, {}
        with contextlib.ExitStack() as stack:
            runs: dict[str, Run] = {
                OURS: our_gru(gru.gru, settings, found, OURS),
                "Flax": our_gru(flax_gru, settings, found, "Flax"),
            }
            if peers.installed("PyTorch"):
                runs["PyTorch"] = stack.enter_context(peer_at_work("gru", "PyTorch", settings, found))
            seconds = {name: [s / times for s in took] for name, took in in_turns(runs, rounds).items()}
        the_same(found, ("loss", "gradient"), relative=True)
        of_peak = {"of arithmetic": lambda took, n=flops: n / statistics.median(took) / limits()["flops"]}
        rows += [{"B, T, F, H": ", ".join(map(str, size))} | row for row in compared(seconds, **of_peak)]
    return [*rows, *({"B, T, F, H": ""} | row for row in absent(["PyTorch"]))]


def flax_gru(params: Any, x: Any) -> Any:
    return nn.RNN(nn.GRUCell(params["hn"]["bias"].size)).apply({"params": {"cell": params}}, x)


def our_gru(function: Callable[..., Any], settings: dict[str, Any], found: dict[str, Any], name: str) -> Run:
    """Forwards and backwards `times` times in one program, as the updates of an epoch are."""
    arrays = peers.gru_arrays(settings)
    gates = {
        side: dict(zip("rzn", np.split(arrays[f"weight_{side}h_l0"].T, 3, 1), strict=True)) for side in ("i", "h")
    }
    biases = dict(zip("rzn", np.split(arrays["bias_ih_l0"], 3), strict=True))
    params = {f"i{gate}": {"kernel": gates["i"][gate], "bias": biases[gate]} for gate in "rzn"}
    params |= {f"h{gate}": {"kernel": gates["h"][gate]} for gate in "rzn"}
    params["hn"]["bias"] = np.split(arrays["bias_hh_l0"], 3)[2]

    def loss_of(params: Any, x: jax.Array, weights: jax.Array) -> jax.Array:
        return (function(params, x) * weights).sum()

    def program(params: Any, x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
        def once(_: Any, carry: Any) -> Any:
            params, x, _, _ = carry
            loss, grads = jax.value_and_grad(loss_of, (0, 1))(params, x, weights)
            norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads)))
            # So little that it changes nothing, yet no repetition can be left out.
            params, x = jax.tree.map(lambda a, g: a - 1e-12 * g, (params, x), grads)
            return params, x, loss, norm

        zero = jnp.zeros(())
        return jax.lax.fori_loop(0, settings["times"], once, (params, x, zero, zero))[2:]

    args = jax.device_put((params, arrays["x"], arrays["weights"]))
    compiled = jax.jit(program).lower(*args).compile(devices.compiler_options())

    def run() -> None:
        loss, norm = jax.device_get(compiled(*args))
        found[name] = {"loss": float(loss), "gradient": float(norm)}

    return run


# --- long: does a step cost the same in a long sequence? ---


def long(seed: int, rounds: int) -> list[Row]:
    """Time and memory per step of a gradient, which should not depend on the length."""
    rows = []
    for model in ("gru", "causal_conv"):
        runs, bytes_of = {}, {}
        for length in LONG:
            runs[str(length)], bytes_of[str(length)] = gradient_at(model, length, max(LONG), seed)
        seconds = {length: [s / max(LONG) for s in took] for length, took in in_turns(runs, rounds).items()}
        first = str(min(LONG))
        rows += [
            {
                "model": model,
                "T": int(length),
                "us per step": 1e6 * statistics.median(took),
                "least": 1e6 * min(took),
                f"of T = {first}": ratio(took, seconds[first]),
                "bytes per step": bytes_of[length] / int(length),
            }
            for length, took in seconds.items()
        ]
    return rows


def gradient_at(model: str, length: int, steps: int, seed: int) -> tuple[Callable[[], None], int]:
    """A run that takes gradients over `steps` steps, in sequences of this length; and the bytes that one needs."""
    config = Config(seq_len=length, model=model, hidden_sizes=(64,), num_samples=2, val_fraction=0.5, batch_size=1)
    built = models.build(config, config.num_features, 2)
    params = built.init(jax.random.key(seed))
    x = np.random.default_rng(seed).standard_normal((4, length, config.num_features), np.float32)
    gradient = jax.jit(jax.grad(lambda p, x: (built.apply(p, x) ** 2).mean()))
    compiled = gradient.lower(params, x).compile(devices.compiler_options())
    x = jax.device_put(x)

    def run() -> None:
        for _ in range(steps // length):
            jax.block_until_ready(compiled(params, x))

    sizes = compiled.memory_analysis()
    return run, sizes.temp_size_in_bytes + sizes.argument_size_in_bytes if sizes else 0


# --- diagnose: what is known without training ---


def diagnose(seed: int, rounds: int) -> list[Row]:
    """Seconds of a forecast, a receptive field and a ladder, with the compilation that each needs."""
    rows = []
    for length in DIAGNOSED:
        config = Config(seq_len=length, seed=seed)
        task = tasks.build(config)
        model = models.build(config, task.num_features, 2)
        small = Config(seq_len=length, num_features=LADDER_FEATURES, num_samples=LADDER_SEQUENCES, seed=seed)
        data = training.draw(small, tasks.build(small), jax.random.key(seed), LADDER_SEQUENCES)
        data = jax.tree.map(np.asarray, data)
        parts = {
            "forecast": done(experiment.run_forecast, config),
            "receptive field": done(receptive_field, config, task, model),
            "ladder": done(ladder.climb, data, 2),
        }
        for name, took in in_turns(parts, rounds).items():
            rows.append(
                {"T": length, "of": name, "s": statistics.median(took), "least": min(took), "most": max(took)}
            )
    return rows


def receptive_field(config: Config, task: tasks.Task, model: models.Model) -> None:
    """What each output sees, measured."""
    probes = forecasts.compile_probes(config, task, model)
    if probes is not None:
        forecasts.measure_model(config, model, probes)


# Name: rows of a table from `(seed, rounds)`.
SUITES: dict[str, Callable[[int, int], list[Row]]] = {
    function.__name__: function for function in (answer, train, replicates, recurrent, long, diagnose)
}
