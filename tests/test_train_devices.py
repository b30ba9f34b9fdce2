"""Processes that do not agree, and how one ends when another is lost.

That several devices train as one: see test_train_processes.py, and test_settings.py of gradients within shard_map.
"""

from pathlib import Path

import jax
import numpy as np
import pytest

from train import devices
from train.config import Config, Measurement, resolve
from train.errors import UserError


def test_processes_agree_on_all_that_changes_numbers(monkeypatch):
    def told(count=1, data=None, **fields):
        told = []
        gather = lambda digest: told.append(digest.tobytes()) or digest[None]  # noqa: E731
        monkeypatch.setattr(devices.multihost_utils, "process_allgather", gather)
        devices._agree(resolve(Config(**fields)), count, data)
        return told[0]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    free = {"out": Path("y"), "checkpoint_steps": 3, "distributed": True}
    assert told() == told(**free)
    others = [told(2), told(data={"pixels": "a"}), told(seed=1), told(resume=Path("run")), told(epochs=3)]
    others.append(told(measurement=Measurement(bin=1.0)))
    assert len({told(), *others}) == 7
    monkeypatch.setattr(devices.multihost_utils, "process_allgather", lambda digest: np.stack([digest, digest + 1]))
    with pytest.raises(UserError, match="--distributed: the processes were started with different"):
        devices.make_mesh(resolve(Config()))


def test_a_process_out_of_memory_says_so_and_is_not_taken_for_another_lost(monkeypatch, capsys):
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\n[tf-allocator]")
    with pytest.raises(
        UserError, match=r"--batch-size: out of memory \(RESOURCE_EXHAUSTED: .* 9 bytes\.\); take fewer"
    ):
        devices.explain(full)
    devices.explain(jax.errors.JaxRuntimeError("INTERNAL: a defect"))
    ended = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(devices.os, "_exit", ended.append)
    with pytest.raises(UserError):  # here, where _exit returns
        devices.explain(full)
    lost = jax.errors.JaxRuntimeError("UNAVAILABLE: heartbeat")
    lost.add_note("go on with: python -m train --resume run")
    lost.add_note("JAX has removed its internal frames")
    devices.explain(lost)
    assert ended == [1, 1]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: --batch-size: out of memory (")
    assert second == "error: lost another process (UNAVAILABLE: heartbeat); go on with: python -m train --resume run"
