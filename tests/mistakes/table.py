"""Every case and its twin through `seqjax.diagnose`: found first, found at all, missed, and false alarms.

python tests/mistakes/table.py --seeds=10 --cases=REGEX --framework=numpy|torch|keras|jax
python tests/mistakes/table.py --seeds=10 --spread --json=FILE      each case at one of ten seeds
python tests/mistakes/table.py --report FILE...     the table of what was run before
python tests/mistakes/table.py --twins      what mistake and twin reach, without a diagnosis
"""

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("KERAS_BACKEND", "jax")
# Networks of this size are faster on one core, and another program may want the other.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
from scipy.special import betaincinv  # noqa: E402

from experiments.workdir import write_json  # noqa: E402
from mistakes.cases import CASES, Case, Given  # noqa: E402

# Of which module the cases come, and what must be there for it.
MODULES = {"numpy": "array_cases", "torch": "torch_cases", "keras": "keras_cases", "jax": "jax_cases"}


def load(frameworks: list[str] | None = None) -> dict[str, str]:
    """Imports the modules of cases; those whose framework is not installed are named with the reason."""
    left_out = {}
    for framework in frameworks or MODULES:
        try:
            __import__(f"mistakes.{MODULES[framework]}")
        except ModuleNotFoundError as error:
            if (error.name or "").startswith("mistakes"):
                raise
            left_out[framework] = str(error)
    return left_out


# --- What a model reaches ----------------------------------------------------------------------------------------


def log_p(outputs: Any, classes: int) -> np.ndarray:
    """[N, T, C] plainly read: rows that sum to one are probabilities, one unit in 0..1 is a sigmoid's."""
    z = np.asarray(outputs, np.float64)
    if z.ndim == 2 or z.shape[-1] == 1 < classes:
        z = z.reshape(*z.shape[:2])
        inside = z.min() >= 0 and z.max() <= 1
        z = np.log(np.stack([1 - z, z], -1).clip(1e-7)) if inside else np.stack([0 * z, z], -1)
    elif z.min() >= 0 and np.allclose(z.sum(-1), 1, atol=1e-3):
        return np.log(z.clip(1e-7))
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def loss(predict: Any, test: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Nats per scored step and accuracy, on sequences that are fresh."""
    x, y, mask = test
    p = log_p(predict(x), int(y.max()) + 1)
    found = np.take_along_axis(p, y[..., None], -1)[..., 0]
    return float(-found[mask].mean()), float((p.argmax(-1) == y)[mask].mean())


def predictor(given: Given) -> Any:
    """The model that comes of it, trained by itself or, where it is only handed over, by the kit."""
    known = given.known
    if "fit" in known:
        mask = known.get("mask", np.ones(known["y"].shape[:2], bool))
        trained = known["fit"](known["x"], known["y"], mask)
        return trained[0] if isinstance(trained, tuple) else trained
    if "predict" in known:
        return known["predict"]
    from mistakes.plain_training import train

    return train(known["model"], known)


def reached(given: Given) -> tuple[float, float, float]:
    """Loss, accuracy, seconds."""
    started = time.perf_counter()
    try:
        found = loss(predictor(given), given.test)
    except Exception as error:
        traceback.print_exc()
        print(f"    raised {type(error).__name__}: {error}")
        found = float("nan"), float("nan")
    return *found, time.perf_counter() - started


def twins(cases: list[Case], seeds: list[int]) -> None:
    print(f"{'case':42} {'cause':24} {'seed':>4} {'reach':>7} {'mistake':>8} {'twin':>8}  accuracies      seconds")
    for case in cases:
        for seed in seeds:
            started = time.perf_counter()
            wrong, right = case.build(seed), case.twin(seed)
            made = time.perf_counter() - started
            if right.test is None:
                print(f"{case.name:42} {case.cause:24} {seed:4} arrays: built in {made:.1f} s", flush=True)
                continue
            (a, accuracy, slow), (b, twin_accuracy, quick) = reached(wrong), reached(right)
            odd = " *" if b - right.reach > 0.02 or a - right.reach < 0.05 else ""
            print(
                f"{case.name:42} {case.cause:24} {seed:4} {right.reach:7.3f} {a:8.3f} {b:8.3f}  {accuracy:.3f} "
                f"{twin_accuracy:.3f}   {made:4.1f} {slow:4.1f} {quick:4.1f}{odd}",
                flush=True,
            )


# --- One ladder for one set of arrays ----------------------------------------------------------------------------


def share_ladders() -> None:
    """Mistake and twin have the same arrays, mostly: their ladder is climbed once, and probes compiled once."""
    import climbs
    import known_truth

    from seqjax import ladder, probes, step_swaps

    known: dict[int, Any] = {}
    dependence = step_swaps.dependence

    def once(climbed: Any) -> Any:
        if id(climbed) not in known:
            known[id(climbed)] = dependence(climbed)
        return known[id(climbed)]

    ladder.climb, step_swaps.dependence = climbs.climb, once
    probes.build = known_truth.built_once(probes.build)


# --- The table ---------------------------------------------------------------------------------------------------


def said(given: Given, options: dict[str, Any]) -> tuple[list[str], str, dict[str, Any]]:
    """The causes in the order found, the verdict, and the whole result; an error is a verdict of its own."""
    import seqjax

    trains = {"fit", "model"} & set(given.known)
    try:
        result = seqjax.diagnose(**given.known, **(options if trains else {}))
    except Exception as error:
        frames = traceback.format_exc(limit=-4)
        return [], f"{type(error).__name__}: {error}", {"frames": frames}
    return [finding["cause"] for finding in result["findings"]], result["verdict"]["cause"], result


def outcome(case: Case, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Case and twin, diagnosed.  Found first: the verdict is the cause."""
    row: dict[str, Any] = {"case": case.name, "cause": case.cause, "way": case.way, "seed": seed}
    names = {case.cause, *case.also}
    started = time.perf_counter()
    causes, verdict, result = said(case.build(seed), options)
    row |= {"verdict": verdict, "findings": causes, "seconds": round(time.perf_counter() - started, 1)}
    row["first"] = verdict in names
    row["details"] = None if row["first"] else details(result)
    row["found"] = row["first"] or bool(names & set(causes))
    started = time.perf_counter()
    causes, verdict, result = said(case.twin(seed), options)
    row |= {"twin_verdict": verdict, "twin_findings": causes}
    row["twin_seconds"] = round(time.perf_counter() - started, 1)
    row["false_alarm"] = verdict not in {"healthy", "label_noise", *case.allowed}
    row["twin_details"] = details(result) if row["false_alarm"] else None
    return row


def details(result: dict[str, Any]) -> Any:
    if "frames" in result:
        return result["frames"]
    return [f"{f['cause']} {f['value']:.4g} {f['ci95']}: {f['evidence']}" for f in result["findings"]]


def report(rows: list[dict[str, Any]]) -> str:
    """By cause: cases, found first, found at all, missed, false alarms, seconds."""
    by = defaultdict(list)
    for row in rows:
        by[row["cause"]].append(row)
    heads = ("runs", "first", "found", "missed", "false", "seconds")
    lines = [f"{'cause':26}" + "".join(f"{head:>8}" for head in heads) + "  said instead"]
    for cause, some in [*by.items(), ("all", rows)]:
        first, found, false = (sum(row[name] for row in some) for name in ("first", "found", "false_alarm"))
        seconds = np.mean([row["seconds"] + row["twin_seconds"] for row in some]) / 2
        instead = sorted({row["verdict"].split(":")[0] for row in some if not row["first"]})
        words = ", ".join(instead) if cause != "all" else ""
        lines.append(
            f"{cause:26}{len(some):8}{first:8}{found:8}{len(some) - found:8}{false:8}{seconds:8.1f}  {words}"
        )
    lines.append(", ".join(f"{words} {share_of(rows, name)}" for name, words in SHARES.items()))
    return "\n".join(lines)


SHARES = {"first": "first", "found": "found at all", "false_alarm": "false alarms"}


def share_of(rows: list[dict[str, Any]], name: str) -> str:
    """In per cent, with the 95 % interval of Clopper and Pearson (1934)."""
    n, k = len(rows), sum(row[name] for row in rows)
    low = betaincinv(k, n - k + 1, 0.025) if k else 0.0
    high = betaincinv(k + 1, n - k, 0.975) if k < n else 1.0
    return f"{100 * k / max(1, n):.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def spread(name: str, seeds: list[int]) -> list[int]:
    """One of the seeds for each case, the same in every run."""
    return [seeds[sum(name.encode()) % len(seeds)]]


def main() -> None:
    ask = argparse.ArgumentParser(description=inspect.getdoc(sys.modules[__name__]))
    ask.add_argument("--seeds", type=int, default=1, help="how many seeds of each case")
    ask.add_argument("--first_seed", type=int, default=0)
    ask.add_argument("--spread", action="store_true", help="each case at one of the seeds alone")
    ask.add_argument("--cases", default="", help="a regular expression, of name, cause or way")
    ask.add_argument("--framework", choices=sorted(MODULES))
    ask.add_argument("--twins", action="store_true", help="only what mistake and twin reach")
    ask.add_argument("--json", type=Path, help="a file for all rows; those that it holds are not run again")
    ask.add_argument("--control_seconds", type=float, help="for all controls of one case; more on a busy machine")
    ask.add_argument("--quiet", action="store_true", help="only the table")
    ask.add_argument("--report", nargs="+", type=Path, metavar="FILE", help="the table of these files of --json")
    asked = ask.parse_args()
    if asked.report:
        return print(report([row for file in asked.report for row in json.loads(file.read_text())]))
    for framework, why in load([asked.framework] if asked.framework else None).items():
        print(f"left out: {framework} ({why})")
    cases = [c for c in CASES.values() if re.search(asked.cases, f"{c.name} {c.cause} {c.way}")]
    seeds = list(range(asked.first_seed, asked.first_seed + asked.seeds))
    if asked.twins:
        return twins(cases, seeds)
    share_ladders()
    options = {} if asked.control_seconds is None else {"control_seconds": asked.control_seconds}
    rows = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else []
    done = {(row["case"], row["seed"]) for row in rows}
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    for case in cases:
        for seed in spread(case.name, seeds) if asked.spread else seeds:
            if (case.name, seed) in done:
                continue
            row = outcome(case, seed, options) | {"commit": git.stdout.strip()}
            rows.append(row)
            if asked.json:
                write_json(asked.json, rows)
            if not asked.quiet:
                mark = "  " if row["first"] else "* "
                print(
                    f"{mark}{row['case']} seed {seed}: {row['cause']} -> {row['verdict']} {row['findings']}",
                    end=" ",
                )
                print(f"{row['seconds']:.0f} + {row['twin_seconds']:.0f} s", flush=True)
                if row["false_alarm"]:
                    print(f"    FALSE ALARM: {row['twin_verdict']}\n      {row['twin_details']}", flush=True)
    print(report(rows))
    return None


if __name__ == "__main__":
    main()
