"""Data-parallel training: the same numbers on one device and on four simulated ones; what cannot be divided."""

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
import json, sys
import jax, numpy as np
from flax import nnx
from train import data, devices
from train.build import build
from train.config import Config, resolve
from train.steps.evaluation import evaluate, measure
from train.steps.optimiser import make_optimiser
from train.steps.step import empty_tally, make_eval_step, make_train_step, start
from trained_runs import small_digits

digits = small_digits()
found = {}
for name, fields in json.loads(sys.argv[1]).items():
    config = resolve(Config(width=8, batch_size=16, **fields))
    mesh = devices.make_mesh(config)
    graphdef, params, rest = nnx.split(build(config, num_classes=10, in_channels=1), nnx.Param, ...)
    optimiser = make_optimiser(config, 20)
    step = make_train_step(graphdef, optimiser, config, mesh)
    state, tally, rest = devices.shared(mesh, (start(params, optimiser, config), empty_tally(), rest))
    # Each device signs with another number: the greatest is to be seen by all.
    signs = devices.rows(mesh, np.arange(mesh.size, dtype=np.int32))
    curve, before = [], 0.0
    for images, labels in data.train_batches(digits.train, config.batch_size, seed=0, stop_step=12):
        state, tally = step(state, tally, rest, devices.rows(mesh, images), devices.rows(mesh, labels), signs)
        curve.append(float(tally.sums.loss) - before)
        before = float(tally.sums.loss)
    sums = [float(value) for value in tally.sums[1:]]
    evaluated = []
    if config.puppeteer == "continuous":
        evaluated = evaluate(make_eval_step(graphdef, mesh), state.params, rest, digits.test, config.batch_size, mesh)
        measured = measure(nnx.merge(graphdef, state.params, rest), digits.test, config.batch_size, mesh)
        evaluated = [x.astype(float).tolist() for x in (*evaluated, *measured.values())]
    held = {len(leaf.addressable_shards) for leaf in jax.tree.leaves(state)}
    copies = [[np.asarray(shard.data) for shard in leaf.addressable_shards] for leaf in jax.tree.leaves(state.params)]
    found[name] = {
        "curve": curve, "sums": sums, "evaluated": evaluated, "held": list(held), "stop": int(tally.stop),
        "alike": all((one == copy).all() for one, *others in copies for copy in others),
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    # Few steps of a low learning rate: training itself enlarges any difference of rounding, in time, because Adam makes
    # the same step of a gradient that is nearly nothing as of a large one.
    same = {"learning_rate": 1e-3, "ema": 0.9}
    runs = {
        "one": same | {"devices": 1},
        "four": same,
        "ode": same | {"puppeteer": "ode"},  # its solver's loops are differentiated within a mesh
    }
    here = __file__.rpartition("/")[0]
    program = f"import sys; sys.path.append({here!r})\n{PROGRAM}"
    done = python("-c", program, json.dumps(runs), devices=4)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_loss_curve_does_not_depend_on_the_devices(found):
    one, other = found["one"], found["four"]
    np.testing.assert_allclose(other["curve"], one["curve"], rtol=1e-5)
    assert all(run["curve"][-1] < run["curve"][0] for run in found.values())
    assert other["sums"] == pytest.approx(one["sums"], rel=1e-6)


def test_evaluation_does_not_depend_on_the_devices(found):
    assert len(found["one"]["evaluated"]) == 5
    for one, other in zip(found["one"]["evaluated"], found["four"]["evaluated"], strict=True):
        assert len(one) >= 30
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-6)


def test_all_devices_take_part_and_hold_the_same_parameters(found):
    assert {name: run["held"] for name, run in found.items()} == {"one": [1], "four": [4], "ode": [4]}
    assert all(run["alike"] for run in found.values())
    assert found["four"]["stop"] == 3
    assert found["one"]["stop"] == 0


def test_what_cannot_be_divided_is_refused():
    with pytest.raises(UserError, match=r"--batch-size: got 32, expected a multiple of 5 \(1 devices times --accumul"):
        devices.make_mesh(resolve(Config(accumulate=5, devices=1)))
    with pytest.raises(UserError, match="--devices: got 99, expected at most the"):
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
