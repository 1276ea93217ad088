"""Several processes on this machine: the numbers of one, one that writes, and an end for all when one dies."""

import json
import signal
import socket
import time

import jax
import pytest
import runs

from seqjax.devices import HEARTBEAT_SECONDS

GIVEN = runs.SMALL | {"num_epochs": 3, "num_replicates": 2, "eval_seq_len": (3,)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start(number: int, folders=None, **given):
    """The same command as `number` processes of one device each."""
    address = f"localhost:{free_port()}"
    return [
        runs.start(
            distributed=True,
            coordinator_address=address,
            num_processes=number,
            process_id=i,
            **given | ({"workdir": folders[i]} if folders else {}),
        )
        for i in range(number)
    ]


def finish(processes, timeout: float = 240) -> list[tuple[int, str, str]]:
    """How each of them ended; none is left behind."""
    try:
        return [runs.finish(process, timeout) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()


def assert_all_done(ends) -> None:
    assert [code for code, _, _ in ends] == [0] * len(ends), "\n".join(err for _, _, err in ends)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def one(tmp_path_factory, cache_dir):
    """The folder of a run in a single process."""
    folder = tmp_path_factory.mktemp("one") / "run"
    runs.succeed(workdir=folder, cache_dir=cache_dir, **GIVEN)
    return folder


def assert_same_numbers(folder, one, name: str) -> None:
    largest = runs.difference(runs.params_of(folder), runs.params_of(one))
    print(f"{name}: largest difference of a parameter from one process: {largest:.3g}")
    assert largest <= 1e-5
    found, expected = (json.loads((path / "result.json").read_text()) for path in (folder, one))
    assert found["environment"]["num_processes"] > 1
    for key in ("final", "history", "per_step", "budget", "replicates"):
        leaves = [jax.tree.leaves(values.get(key, 0)) for values in (found, expected)]
        assert runs.difference(*leaves) < 1e-4, key
    assert found["forecast"] == expected["forecast"]
    assert abs(found["lengths"][0]["val_loss"] - expected["lengths"][0]["val_loss"]) < 1e-4


def test_two_processes_give_the_numbers_of_one_and_only_the_first_writes(one, cache_dir, tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    ends = finish(start(2, folders, cache_dir=cache_dir, **GIVEN))
    assert_all_done(ends)
    assert_same_numbers(folders[0], one, "two processes")
    assert not folders[1].exists()
    said = ends[1][1].splitlines()
    assert said == []
    assert ends[0][1].splitlines()[-1] == str(folders[0] / "result.json")


@pytest.mark.full
def test_two_processes_share_out_the_batches_of_one_replicate(cache_dir, tmp_path):
    given = GIVEN | {"num_replicates": 1, "mesh": "data:2"}
    runs.succeed(workdir=tmp_path / "one", cache_dir=cache_dir, **GIVEN | {"num_replicates": 1})
    assert_all_done(finish(start(2, workdir=tmp_path / "two", cache_dir=cache_dir, **given)))
    assert_same_numbers(tmp_path / "two", tmp_path / "one", "two processes, batches shared out")


@pytest.mark.full
@pytest.mark.parametrize("to", [0, 1])
def test_two_processes_stop_together_and_are_resumed(to, cache_dir, tmp_path):
    """A signal to either of them stops both after the same epoch; together they go on."""
    if to == 0:
        folder, given = tmp_path / "run", GIVEN | {"num_epochs": 10_000}
    else:
        folder, given = tmp_path / "run", GIVEN | {"num_epochs": 10_000, "mesh": "data:2"}
    processes = start(2, workdir=folder, cache_dir=cache_dir, **given)
    try:
        runs.wait_for(lambda: runs.epochs_of(folder) >= 2 or processes[0].poll() is not None, 120)
        processes[to].send_signal(signal.SIGTERM)
        ends = finish(processes)
    finally:
        for process in processes:
            process.kill()
    assert [code for code, _, _ in ends] == [75, 75], "\n".join(err for _, _, err in ends)
    assert "go on with: " in ends[0][2]
    (epoch,) = (folder / "checkpoints" / "0").iterdir()
    assert runs.epochs_of(folder) == int(epoch.name) >= 2

    # Up to a bound that is near: as the straight run does.
    bound = int(epoch.name) + 2
    stored = json.loads((folder / "config.json").read_text()) | {"num_epochs": bound}
    (folder / "config.json").write_text(json.dumps(stored))
    again = {"workdir": folder, "cache_dir": cache_dir, "resume": True} | ({"mesh": "data:2"} if to else {})
    ends = finish(start(2, **again))
    assert_all_done(ends)
    straight = given | {"num_epochs": bound}
    assert_all_done(finish(start(2, workdir=tmp_path / "straight", cache_dir=cache_dir, **straight)))
    found, expected = runs.contents(folder), runs.contents(tmp_path / "straight")
    assert found == expected


def death_of_one(victim: int, cache_dir, tmp_path) -> None:
    given = GIVEN | {"num_epochs": 1_000_000}
    processes = start(2, workdir=tmp_path / "run", cache_dir=cache_dir, **given)
    try:
        runs.wait_for(lambda: runs.epochs_of(tmp_path / "run") >= 2 or processes[0].poll() is not None, 120)
        processes[victim].kill()
        started = time.monotonic()
        code, out, err = runs.finish(processes[1 - victim], HEARTBEAT_SECONDS + 30)
        seconds = time.monotonic() - started
    finally:
        for process in processes:
            process.kill()
        processes[victim].communicate()
    print(f"process {victim} killed: the other ended after {seconds:.1f} s with {code}\n{err[-1500:]}")
    assert code not in (0, 75), (out, err)
    # XLA's own thread may get there first, with its own words.
    assert "error: another process of this run is gone" in err or "coordination" in err.lower(), err
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.full
@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_process_dies_the_other_ends_with_a_clear_line(victim, cache_dir, tmp_path):
    death_of_one(victim, cache_dir, tmp_path)


@pytest.mark.full
def test_four_processes_give_the_numbers_of_one(one, cache_dir, tmp_path):
    for mesh in ("replica:2,data:2", "data:4"):
        folder = tmp_path / mesh.replace(":", "")
        assert_all_done(finish(start(4, workdir=folder, cache_dir=cache_dir, mesh=mesh, **GIVEN)))
        assert_same_numbers(folder, one, f"four processes, {mesh}")


def test_flags_of_no_cluster_are_bad_input(tmp_path):
    code, out, err = runs.command(workdir=tmp_path / "run", distributed=True, compilation_cache=False)
    assert code == 2
    assert err.splitlines()[-1].startswith("error: the processes could not be joined (")
    assert not out
    assert not (tmp_path / "run").exists()
