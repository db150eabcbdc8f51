"""Checkpoints: whole at any moment, and saved as often as the policy wants."""

import os
import threading
from pathlib import Path

import pytest
import torch

from adapad_ray.training.checkpoint import Checkpoint, Checkpointer, CheckpointPolicy


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("moment", ["before the file is written", "before it takes its place", "afterwards"])
def test_a_kill_while_saving_leaves_a_whole_checkpoint(tmp_path, monkeypatch, moment):
    folder = tmp_path / "checkpoint"
    Checkpoint({"x": torch.ones(1)}, {"step": 1}).save(folder)
    replace = os.replace

    def killed(*args, **kwargs):
        if moment == "afterwards":
            replace(*args)
        raise Killed

    target = "adapad_ray.training.checkpoint.save_file" if moment.endswith("written") else "os.replace"
    monkeypatch.setattr(target, killed)
    monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: None)  # the dead clear nothing away
    with pytest.raises(Killed):
        Checkpoint({"x": torch.full((1,), 2.0)}, {"step": 2}).save(folder)
    monkeypatch.undo()
    saved = Checkpoint.load(folder)
    assert saved is not None
    assert float(saved.tensors["x"]) == saved.meta["step"] == (2 if moment == "afterwards" else 1)
    Checkpoint.remove(folder)
    assert not folder.exists()


def test_who_reads_while_another_writes_gets_one_checkpoint_or_the_other(tmp_path):
    """As when a worker resumes a cell whose old worker is not quite dead."""
    folder = tmp_path / "checkpoint"

    def write():
        for step in range(1, 300):
            Checkpoint({"x": torch.full((1000,), float(step))}, {"step": step}).save(folder)

    Checkpoint({"x": torch.zeros(1000)}, {"step": 0}).save(folder)
    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while writer.is_alive():
        saved = Checkpoint.load(folder)
        assert saved is not None and bool((saved.tensors["x"] == saved.meta["step"]).all())
        seen.add(saved.meta["step"])
    writer.join()
    assert len(seen) > 1


def test_there_may_be_no_checkpoint(tmp_path):
    assert Checkpoint.load(tmp_path / "checkpoint") is None


def test_a_checkpoint_is_due_after_the_rounds_of_the_policy(tmp_path):
    checkpointer = Checkpointer(tmp_path, CheckpointPolicy(seconds=1e6, rounds=3))
    checkpointer.begin(4)
    assert [checkpointer.due(version) for version in range(5, 9)] == [False, False, True, True]
    checkpointer.save(7, Checkpoint({}, {"step": 7}))
    assert not checkpointer.due(9) and checkpointer.due(10)
    saved = Checkpoint.load(tmp_path)
    assert saved is not None and saved.meta == {"step": 7}


def test_a_checkpoint_is_due_after_the_time_of_the_policy(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    checkpointer = Checkpointer(tmp_path, CheckpointPolicy(seconds=60))
    assert not checkpointer.due(10**6)
    now = 160.0
    assert checkpointer.due(1)
    checkpointer.save(1, Checkpoint({}, {}))
    assert not checkpointer.due(2)
