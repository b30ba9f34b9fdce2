"""Data-parallel training on simulated devices; what cannot be divided, and processes that do not agree."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from trained_runs import python

from train import devices
from train.config import Config, Measurement, resolve
from train.errors import UserError

PROGRAM = """
import json
import jax, numpy as np, optax
from flax import nnx
from train import data, devices
from train.build import build
from train.config import Config, resolve
from train.steps.optimiser import make_optimiser
from train.steps.step import empty_tally, make_train_step, start
from trained_runs import small_digits

config = resolve(Config(width=8, batch_size=16, puppeteer="ode", augment="none"))
digits, model, mesh = small_digits(), build(config, num_classes=10, in_channels=1), devices.make_mesh(config)
batches = list(data.train_batches(digits.train, config.batch_size, seed=0, stop_step=4))
losses = optax.softmax_cross_entropy_with_integer_labels(jax.jit(model)(batches[0][0]), batches[0][1])
graphdef, params, rest = nnx.split(model, nnx.Param, ...)
optimiser = make_optimiser(config, 20)
step = make_train_step(graphdef, optimiser, config, mesh)
state, tally, rest = devices.shared(mesh, (start(params, optimiser, config), empty_tally(), rest))
# Each device signs with another number: the greatest is to be seen by all.
signs = devices.rows(mesh, np.arange(mesh.size, dtype=np.int32))
told = []
for images, labels in batches:
    state, tally = step(state, tally, rest, devices.rows(mesh, images), devices.rows(mesh, labels), signs)
    told.append(float(tally.sums.loss))
copies = [[np.asarray(shard.data) for shard in leaf.addressable_shards] for leaf in jax.tree.leaves(state)]
print(json.dumps({
    "alone": float(losses.sum()), "told": told, "stop": int(tally.stop), "held": [len(each) for each in copies],
    "alike": all((one == copy).all() for one, *others in copies for copy in others),
}))
"""


def test_four_devices_take_part_and_hold_the_same():
    """By the ODE, whose solver's loops are differentiated within a mesh. That several devices train as one does: see
    test_train_processes.py."""
    done = python("-c", f"import sys; sys.path.append({__file__.rpartition('/')[0]!r})\n{PROGRAM}", devices=4)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["told"][0] == pytest.approx(found["alone"], rel=1e-5)
    assert found["told"][-1] < 4 * found["told"][0]
    assert set(found["held"]) == {4}
    assert found["alike"]
    assert found["stop"] == 3


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match=r"--batch-size: got 32, expected a multiple of 5 \(1 devices times --accumul"):
        devices.make_mesh(resolve(Config(accumulate=5, devices=1)))
    with pytest.raises(UserError, match="--devices: got 99, expected 1 to the"):
        devices.make_mesh(resolve(Config(devices=99)))


def test_processes_agree_on_all_that_changes_numbers(monkeypatch):
    def told(count=1, data=None, **fields):
        told = []
        gather = lambda digest: told.append(digest.tobytes()) or digest[None]  # noqa: E731
        monkeypatch.setattr(devices.multihost_utils, "process_allgather", gather)
        devices._agree(resolve(Config(**fields)), count, data)
        return told[0]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    free = {"data_dir": Path("x"), "out": Path("y"), "checkpoint_steps": 3, "distributed": True}
    assert told() == told(**free)
    others = [told(2), told(data={"pixels": "a"}), told(seed=1), told(resume=Path("run")), told(epochs=3)]
    others.append(told(measurement=Measurement(bin=1.0)))
    assert len({told(), *others}) == 7
    monkeypatch.setattr(devices.multihost_utils, "process_allgather", lambda digest: np.stack([digest, digest + 1]))
    with pytest.raises(UserError, match="--distributed: the processes were started with different"):
        devices._agree(resolve(Config()), 1, None)


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
