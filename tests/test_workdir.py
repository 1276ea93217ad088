"""The folder of a run: refused where it cannot be had, and its files whole or not at all."""

import contextlib
import json
import os

import numpy as np
import pytest

from experiments import workdir
from seqjax.config import ConfigError


def tree(folder) -> dict[str, bytes | None]:
    """Everything below a folder but the lock: contents of files, None for folders."""
    paths = [path for path in folder.rglob("*") if path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def open_workdir():
    """`experiments.workdir.open_workdir`; what it opens is let go of at the end."""
    opened = []

    def open_it(path, **options):
        opened.append(stack.enter_context(workdir.open_workdir(path, "dense-T2", **options)))
        return opened[-1].folder

    open_it.opened = opened
    with contextlib.ExitStack() as stack:
        yield open_it


def test_a_named_folder_is_made_with_its_parents(tmp_path, open_workdir):
    folder = open_workdir(str(tmp_path / "a" / "b"))
    assert folder == tmp_path / "a" / "b"
    assert tree(tmp_path) == {"a": None, "a/b": None}


def test_a_folder_with_other_things_in_it_is_taken_and_they_stay(tmp_path, open_workdir):
    (tmp_path / "notes.txt").write_text("mine")
    open_workdir(str(tmp_path))
    assert tree(tmp_path) == {"notes.txt": b"mine"}


def test_without_a_name_every_run_gets_a_fresh_folder_under_runs(tmp_path, monkeypatch, open_workdir):
    monkeypatch.chdir(tmp_path)
    one = open_workdir(None)
    (one / "result.json").write_text("{}")
    other = open_workdir(None)
    assert one != other
    assert {one.parent.resolve(), other.parent.resolve()} == {tmp_path / "runs"}
    assert "dense-T2" in one.name


def test_a_fresh_folder_of_a_run_that_is_refused_goes_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refused(path, writes):
        with workdir.open_workdir(path, "dense-T2") as folder:
            if writes:
                (folder / "config.json").write_text("{}")
            raise ConfigError("no such model")

    for path, writes, kept in ((None, False, 0), (None, True, 1), ("mine", False, 1)):
        with pytest.raises(ConfigError):
            refused(path, writes)
        folder = tmp_path / "runs" if path is None else tmp_path
        assert len([each for each in folder.iterdir() if each.name != "runs"]) == kept


@pytest.mark.parametrize("held", ["config.json", "metrics.jsonl", "result.json", "params.npz", "predictions.npz"])
def test_a_folder_that_holds_a_run_is_refused(tmp_path, held, open_workdir):
    (tmp_path / held).write_text("before")
    with pytest.raises(ConfigError, match=r"holds a run .*; name another, or replace it with --overwrite$"):
        open_workdir(str(tmp_path))
    with pytest.raises(ConfigError, match=r"--overwrite, or go on with it with --resume$"):
        open_workdir(str(tmp_path), resume=False)
    assert tree(tmp_path) == {held: b"before"}


def test_overwrite_removes_the_run_and_nothing_else(tmp_path, open_workdir):
    for file in workdir.FILES:
        (tmp_path / file).write_text("before")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "result.json").write_text("another's")
    before = tree(tmp_path)
    open_workdir(str(tmp_path), overwrite=True)
    assert tree(tmp_path) == before  # until everything else is known to be right
    open_workdir.opened[-1].clear()
    assert tree(tmp_path) == {"notes.txt": b"mine", "more": None, "more/result.json": b"another's"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_no_folder(tmp_path, overwrite, open_workdir):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        open_workdir(str(tmp_path / "file"), overwrite=overwrite)
    assert tree(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_a_link_to_nothing_is_no_folder(tmp_path, target, open_workdir):
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(ConfigError, match=rf"link: is a link to {target}, which is not there; expected a folder"):
        open_workdir(str(tmp_path / "link"), overwrite=True)


def test_a_folder_below_a_file_cannot_be_written(tmp_path, open_workdir):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"workdir=.*cannot be written"):
        open_workdir(str(tmp_path / "file" / "sub"))
    assert tree(tmp_path) == {"file": b"mine"}


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("below", ["", "sub"])
def test_a_folder_without_permission_cannot_be_written(tmp_path, below, open_workdir):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="cannot be written"):
            open_workdir(str(tmp_path / below))
    finally:
        tmp_path.chmod(0o700)


def test_a_folder_that_another_run_writes_to_is_refused(tmp_path, open_workdir):
    open_workdir(str(tmp_path))
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ConfigError, match="is in use by another run"):
            open_workdir(str(tmp_path), **how)


def test_a_folder_is_let_go_of_at_the_end_and_not_only_when_the_process_ends(tmp_path):
    for _ in range(2):
        with workdir.open_workdir(str(tmp_path), "dense-T2"):
            pass


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch, failing):
    path = tmp_path / "result.json"
    workdir.write_whole(path, b"before")

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="the disk is full"):
        workdir.write_whole(path, b"after")
    assert tree(tmp_path) == {"result.json": b"before"}


def test_a_file_is_replaced_whole(tmp_path):
    workdir.write_whole(tmp_path / "file", b"a long one before")
    workdir.write_whole(tmp_path / "file", b"after")
    assert tree(tmp_path) == {"file": b"after"}


def test_json_is_written_as_it_is_and_never_with_nan(tmp_path):
    value = {"loss": 0.6053, "why": None, "steps": [1, 2]}
    workdir.write_json(tmp_path / "result.json", value)
    assert json.loads((tmp_path / "result.json").read_text()) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        workdir.write_json(tmp_path / "result.json", {"loss": float("nan")})
    assert json.loads((tmp_path / "result.json").read_text()) == value
    assert list(tree(tmp_path)) == ["result.json"]


def test_lines_are_appended(tmp_path):
    for epoch in (1, 2, 3):
        workdir.append_line(tmp_path / "metrics.jsonl", {"epoch": epoch})
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == [{"epoch": n} for n in range(1, epoch + 1)]


DAMAGED = [
    "{}",
    "",
    "[1]",
    "5",
    "null",
    '{"epoch": "two"}',
    '{"epoch": 2, "lo',
    '{"epoch": NaN}',
    '"epoch"',
    "\x00",
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_line_of_a_record_costs_no_other_line(tmp_path, damage, open_workdir):
    open_workdir(str(tmp_path))
    lines = ['{"epoch": 1, "val_loss": 0.5}', damage, '{"epoch": 3}', '{"epoch": 4}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    open_workdir.opened[-1].forget_epochs(group=0, done=3)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == [lines[0], lines[2]]


def test_a_record_that_is_no_text_has_no_lines(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\n" + b'{"epoch": 1}\n')
    assert workdir.read_lines(tmp_path / "metrics.jsonl") == [{"epoch": 1}]


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {"body/dense_0/kernel": np.arange(6, dtype="float32").reshape(2, 3), "mask": np.array([True, False])}
    workdir.write_npz(tmp_path / "params.npz", arrays)
    with np.load(tmp_path / "params.npz") as back:
        assert set(back) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(back[name], array, strict=True)
