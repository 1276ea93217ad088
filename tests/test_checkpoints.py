"""A checkpoint comes back to the bit, or is passed over with a line that says so; never anything else."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from seqjax.checkpoints import KEEP, Checkpoint, CheckpointError, Checkpoints

PARAMS = {"logits": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4) / 7, "bias": np.float32([0, -0.0])}}


def state(epoch: int):
    """Like the state of a run, and every dtype that one could hold; other bits at every epoch."""
    adam = jax.device_get(optax.adam(1e-3).init(PARAMS))
    return {
        "params": jax.tree.map(lambda leaf: leaf + np.float32(epoch), PARAMS),
        "adam": (adam[0]._replace(count=np.int32(2**24 + 1 + epoch)), *adam[1:]),  # no float32 holds this count
        "seed": np.uint32(2**32 - 1 - epoch),
        "flags": np.array([True, epoch % 2 == 0]),
        "half": np.asarray(jnp.arange(5, dtype=jnp.bfloat16) / 3 + epoch),
        "nan": np.float32([np.nan, np.inf, -0.0, epoch]),
    }


def record(epoch: int):
    return {"history": {"val_loss": [[0.1 * n, 1 / 3] for n in range(epoch)]}}


def checkpoint(epoch: int) -> Checkpoint:
    return Checkpoint(epoch, state(epoch), record(epoch))


def saved(folder: Path, epochs) -> Path:
    store = Checkpoints(folder)
    for epoch in epochs:
        store.save(checkpoint(epoch))
    store.close()
    return folder


def restored(folder: Path, template=None):
    """What a new process would find, and what it is told."""
    store = Checkpoints(folder)
    found = store.restore(state(0) if template is None else template)
    store.close()
    return found, store.problems


def test_an_error_leaves_no_writer_behind(tmp_path):
    """In a notebook the next run may begin at once: what is still being written would be in its way."""

    def fails(folder):
        with Checkpoints(folder) as store:
            store.save(checkpoint(1))
            raise ZeroDivisionError

    for folder in (tmp_path / str(i) for i in range(5)):
        with pytest.raises(ZeroDivisionError):
            fails(folder)
        assert [path.name for path in folder.iterdir()] == ["1"]


def same_bits(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in pairs
    )


def whole(found: Checkpoint) -> bool:
    """Whether a checkpoint is, to the bit, the one that was saved at its epoch."""
    return same_bits(found.state, state(found.epoch)) and found.record == record(found.epoch)


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("checkpoints") / "three", (1, 2, 3))


def test_a_state_comes_back_to_the_bit(three):
    found, problems = restored(three)
    assert (found.epoch, problems) == (3, [])
    assert whole(found)
    assert isinstance(found.state["adam"][0], optax.ScaleByAdamState)
    assert found.state["adam"][0].count == 2**24 + 4


def test_the_state_of_a_run_comes_back_to_the_bit(tmp_path):
    config = tiny.config(optimizer="adamw", grad_clip=1.0, schedule="cosine")
    programs = tiny.programs_of(config)
    trained, *_ = tiny.epoch(config, programs, *tiny.start(config, programs), 0)
    store = Checkpoints(tmp_path / "new")
    store.save(Checkpoint(1, trained, {}))
    store.close()
    found, problems = restored(tmp_path / "new", programs.state)  # shapes alone
    assert same_bits(found.state, jax.device_get(trained))
    assert not problems


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    # It is written in the background, while the caller goes on with the same memory.
    store, mine = Checkpoints(tmp_path), state(1)
    store.save(Checkpoint(1, mine, record(1)))
    mine["params"]["logits"]["kernel"][:] = -1
    store.close()
    found, problems = restored(tmp_path)
    assert found.epoch == 1
    assert not problems
    assert whole(found)


def test_the_last_few_are_kept(tmp_path):
    saved(tmp_path, range(1, 7))
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [4, 5, 6][-KEEP:]


def test_no_folder_and_an_empty_folder_hold_nothing(tmp_path):
    assert restored(tmp_path / "none") == (None, [])
    assert not (tmp_path / "none").exists()
    assert restored(tmp_path) == (None, [])


def test_what_a_killed_process_was_writing_is_ignored(three, tmp_path):
    folder = shutil.copytree(three, tmp_path / "copy")
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp-0")
    shutil.rmtree(folder / "4.orbax-checkpoint-tmp-0" / "meta")
    (folder / "5.orbax-checkpoint-tmp").mkdir()
    found, problems = restored(folder)
    assert found.epoch == 3
    assert whole(found)
    assert not problems
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "3"]
    saved(folder, (4, 5))
    assert restored(folder)[0].epoch == 5


# -- Damage -----------------------------------------------------------------------------------------


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damages(content: bytes, number: int, rng: random.Random):
    """(name, what the file holds then, None where it is gone): several of each kind."""
    bits = 8 * len(content)
    places = {0, bits - 1, *(rng.randrange(bits) for _ in range(number))} if bits else set()
    yield from ((f"bit {bit} flipped", flipped(content, bit)) for bit in sorted(places))
    sizes = {0, len(content) // 2, max(len(content) - 1, 0)}
    yield from ((f"cut to {size}", content[:size]) for size in sorted(sizes))
    yield "zeros", bytes(len(content))
    yield "gone", None


def test_every_file_damaged_in_turn_gives_the_very_bits_or_the_checkpoint_before(three, tmp_path, capfd):
    number = int(os.environ.get("SEQJAX_FLIPS", 4))
    rng, cases, passed_over, wrong = random.Random(0), 0, 0, []
    files = sorted(path for path in (three / "3").rglob("*") if path.is_file())
    assert len(files) > 5
    folder = shutil.copytree(three, tmp_path / "copy")
    for file in files:
        content, victim = file.read_bytes(), folder / file.relative_to(three)
        for name, damaged in damages(content, number, rng):
            if damaged is None:
                victim.unlink()
            else:
                victim.write_bytes(damaged)
            try:
                found, problems = restored(folder)
            except Exception as error:
                wrong.append((victim.name, name, repr(error)))
            else:
                fell_back = (
                    found is not None and found.epoch == 2 and len(problems) == 1 and "epoch 3" in problems[0]
                )
                right = found is not None and found.epoch == 3 and not problems
                if not (fell_back or right) or not whole(found) or "\n" in "".join(problems):
                    wrong.append((victim.name, name, found and found.epoch, problems))
                passed_over += fell_back
            cases += 1
            victim.write_bytes(content)
    assert capfd.readouterr().err == ""  # nothing of Orbax's own
    print(f"{cases} damages of {len(files)} files: {passed_over} passed over, {cases - passed_over} of no effect")
    assert not wrong
    assert passed_over > cases / 5


@pytest.mark.parametrize("gone", ["state", "meta", "state/d", "state/ocdbt.process_0", "."])
def test_a_folder_that_is_gone_gives_the_checkpoint_before(three, tmp_path, gone):
    folder = shutil.copytree(three, tmp_path / "copy")
    shutil.rmtree(folder / "3" / gone)
    (folder / "3").mkdir(exist_ok=True)
    found, problems = restored(folder)
    assert whole(found)
    assert found.epoch == (3 if not problems else 2)


def test_a_record_that_changed_and_is_still_json_is_noticed(three, tmp_path):
    folder = shutil.copytree(three, tmp_path / "copy")
    path = folder / "3" / "meta" / "metadata"
    text = path.read_text()
    assert "0.333" in text
    path.write_text(text.replace("0.333", "0.323", 1))
    found, problems = restored(folder)
    assert found.epoch == 2
    assert "epoch 3 is damaged" in problems[0]


def test_a_checkpoint_under_the_name_of_another_epoch_is_noticed(three, tmp_path):
    folder = shutil.copytree(three, tmp_path / "copy")
    shutil.rmtree(folder / "3")
    (folder / "2").rename(folder / "3")
    found, problems = restored(folder)
    assert found.epoch == 1
    assert len(problems) == 1


def test_all_damaged_is_as_if_there_were_none_and_each_is_named(three, tmp_path):
    folder = shutil.copytree(three, tmp_path / "copy")
    for epoch in (1, 2, 3):
        (folder / str(epoch) / "meta" / "metadata").write_bytes(b"{}")
    found, problems = restored(folder)
    assert found is None
    assert [f"epoch {epoch} " in line for epoch, line in zip((3, 2, 1), problems, strict=True)] == [True] * 3


@pytest.mark.parametrize("damaged", [(3,), (2, 3), (1, 2, 3)])
def test_a_run_goes_on_over_the_damaged_ones(three, tmp_path, damaged):
    """What was passed over is written anew, and does not push out what is whole."""
    folder = shutil.copytree(three, tmp_path / "copy")
    for epoch in damaged:
        (folder / str(epoch) / "meta" / "metadata").write_bytes(b"{}")
    store = Checkpoints(folder)
    found = store.restore(state(0))
    first = found.epoch + 1 if found else 1
    for epoch in range(first, 5):
        store.save(checkpoint(epoch))
        store.wait()
        now, problems = restored(folder)
        assert (now.epoch, problems) == (epoch, [])
        assert whole(now)
    store.close()
    assert len(list(folder.iterdir())) == KEEP


# -- What does not fit ------------------------------------------------------------------------------


def reshaped(tree):
    return tree | {"flags": np.zeros(3, bool)}


def retyped(tree):
    return tree | {"seed": np.int32(0)}


def float_count(tree):
    adam = tree["adam"]
    return tree | {"adam": (adam[0]._replace(count=np.float32(0)), *adam[1:])}


def with_more(tree):
    return tree | {"more": np.zeros(3, np.float32)}


def with_less(tree):
    return {name: leaf for name, leaf in tree.items() if name != "half"}


def renamed(tree):
    return with_less(tree) | {"other": tree["half"]}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (reshaped, "['flags'] is bool[2], expected bool[3]"),
        (retyped, "['seed'] is uint32[], expected int32[]"),
        (float_count, ".count is int32[], expected float32[]"),
        (with_more, "['more'] is absent, expected float32[3]"),
        (with_less, "['half'] is bfloat16[5], expected absent"),
        (renamed, "absent"),
    ],
)
def test_another_shape_dtype_or_structure_is_never_loaded(three, change, name):
    store = Checkpoints(three)
    with pytest.raises(CheckpointError, match="of another model or optimiser") as error:
        store.restore(change(state(0)))
    store.close()
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    assert len(store.problems) == 3
    found, problems = restored(three, state(0))
    assert (found.epoch, problems) == (3, [])


# -- A disk that does not take it -------------------------------------------------------------------


def test_a_path_that_cannot_be_a_folder_gives_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    store = Checkpoints(tmp_path / "file" / "below")
    assert store.restore(state(0)) is None
    with pytest.raises(CheckpointError, match=r"^checkpoints cannot be written in .*below \(Not a directory\)$"):
        store.save(checkpoint(1))


def one_line_of_failure(folder: Path) -> str:
    """The line with which a first save, a wait or a second save fails."""
    store = Checkpoints(folder)
    with pytest.raises(CheckpointError) as error:  # noqa: PT012
        for epoch in (1, 2):
            store.save(checkpoint(epoch))
            store.wait()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_full_disk_gives_one_line(tmp_path):
    """A file system of 64 KiB, in a mount namespace of its own: nobody else sees it."""
    script = (
        "import sys, pathlib; sys.path[:0] = sys.argv[2:]\n"
        "import numpy as np\n"
        "from seqjax.checkpoints import *\n"
        "store = Checkpoints(pathlib.Path(sys.argv[1]) / 'new')\n"
        "try:\n"
        "    for epoch in (1, 2, 3):\n"
        "        state = {'a': np.random.default_rng(epoch).random(200_000)}\n"
        "        store.save(Checkpoint(epoch, state, {})); store.wait()\n"
        "except CheckpointError as error:\n"
        "    print('LINE', error)\n"
    )
    mount = 'mount -t tmpfs -o size=64k none "$0" && exec "$@"'
    root = Path(__file__).parent.parent
    command = [
        "unshare",
        "-m",
        "sh",
        "-c",
        mount,
        str(tmp_path),
        sys.executable,
        "-c",
        script,
        str(tmp_path),
        str(root),
    ]
    if not shutil.which("unshare") or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace may be made here")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if "mount:" in done.stderr:
        pytest.skip("nothing may be mounted here")
    lines = [line for line in done.stdout.splitlines() if line.startswith("LINE")]
    assert len(lines) == 1, done
    assert "epoch 1" in lines[0] or "could not be written" in lines[0]
    assert "No space left on device" in lines[0]
    assert not done.stderr  # Orbax's own pages of it


def test_a_disk_that_fills_up_later_gives_one_line_and_leaves_the_ones_before(tmp_path, monkeypatch):
    saved(tmp_path, (1, 2))
    real = os.rename

    def rename(source, target, **options):
        if "tmp" in str(source):
            raise OSError(28, "No space left on device", str(target))
        return real(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(os, "replace", rename)
    store = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match="No space left on device") as error:  # noqa: PT012
        store.save(checkpoint(3))
        store.wait()
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    found, problems = restored(tmp_path)
    assert found.epoch == 2
    assert whole(found)
    assert not problems


# -- What it costs those who do not use it ----------------------------------------------------------


def test_orbax_is_not_imported_where_no_checkpoint_is_used(tmp_path):
    script = (
        "import sys, pathlib; from seqjax.checkpoints import *\n"
        "store = Checkpoints(pathlib.Path(sys.argv[1]) / 'none')\n"
        "assert store.restore({}) is None; store.close()\n"
        "import experiments.main\n"
        "sys.exit(any(name.partition('.')[0] in ('orbax', 'tensorstore') for name in sys.modules))"
    )
    where = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=where, timeout=120, check=False)
    assert done.returncode == 0
