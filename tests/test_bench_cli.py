"""``python -m bench`` as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import precision

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def test_speed_quick_runs_end_to_end(tmp_path):
    output = tmp_path / "speed.json"
    # Without those whose compilation takes most of the time.
    without = "vmap", "train_vmap", "train_exact", "train_torch_batched", "generate_bank_gradient", "diffrax_gradient"
    without += "generate_bank_continuous_gradient", "train_ode", "train_continuous", "bake"
    done = run("speed", "--quick", "--output", str(output), "--without", *without, "scan_gradient")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| row | measure |" in done.stdout
    result = json.loads(output.read_text())
    assert {"command", "date", "machine", "versions", "revision", "rounds", "measurements", "rows"} <= set(result)
    names = [name.split()[0] for name in result["measurements"]]
    assert names == ["predict", "train", "generate", "diffrax"]
    found = {label: c for m in result["measurements"].values() for label, c in m["contenders"].items()}
    for label in ("static_jax", "exact", "train_static_jax", "generate_exact", "diffrax", "scan"):
        assert len(found[label]["calls_s"]) == 2
        assert found[label]["first_call_s"] > 0
        assert min(min(calls) for calls in found[label]["calls_s"]) > 0
    for c in found.values():
        assert c["error"] is None or c["error"] < 1e-4
    for row in result["rows"]:
        assert row["low"] <= row["median"] <= row["high"]
        assert len(row["rounds"]) == 2
    assert 11 in {row["number"] for row in result["rows"]}
    left_out = {label: why for m in result["measurements"].values() for label, why in m["left_out"].items()}
    assert left_out["train_vmap"] == "not asked for"


def test_memory_quick_accounts_for_the_step(tmp_path):
    output = tmp_path / "memory.json"
    without = "train_exact", "train_exact_backsolve", "train_torch_batched", "train_ode"
    done = run("memory", "--quick", "--output", str(output), "--without", *without)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(output.read_text())["contenders"]
    for name in ("train_exact_direct", "train_static_jax"):
        assert found[name]["xla_bytes"] >= found[name]["temp_bytes"] > 0
        assert found[name]["rss_peak_bytes"] > 0


@pytest.mark.parametrize("command", ["speed", "memory", "precision", "recipe", "trainer", "scaling"])
def test_help_says_what_there_is(command):
    done = run(command, "--help")
    assert done.returncode == 0
    assert "--output" in done.stdout


def test_recipe_gathers_what_the_runs_say(tmp_path):
    output = tmp_path / "digits.json"
    few = "--puppeteers", "stored", "--seeds", "3", "--max-steps", "2"
    done = run("recipe", *few, "--keep", str(tmp_path), "--output", str(output))
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(output.read_text())
    assert "one seed" in result["what"]
    (found,) = result["runs"]
    summary = json.loads((tmp_path / "digits-stored-seed3" / "summary.json").read_text())
    assert found["seed"] == found["config"]["seed"] == 3
    assert found["test_accuracy"] == summary["test_accuracy"]
    assert found["metrics"][-1]["step"] == 2
    assert str(tmp_path) not in json.dumps(result["runs"])  # where it was kept is of no use elsewhere


def test_recipe_of_another_data_set_is_refused():
    done = run("recipe", "--data", "mnist")
    assert done.returncode == 2
    assert "expected digits or cifar10" in done.stderr


def test_precision_compares_logits():
    exact = np.array([[2.0, 0.0], [0.0, 1.0], [4.0, -1.0]])
    found = exact + np.array([[0.0, 0.1], [1.5, 0.0], [0.0, 0.0]])
    measured = precision.compare(found, exact)
    assert measured["error_of_batch"] == pytest.approx(1.5 / 4.0)
    assert measured["error_of_image_median"] == pytest.approx(0.05)
    assert measured["error_of_image_greatest"] == pytest.approx(1.5)
    assert measured["other_class"] == pytest.approx(1 / 3)


def test_precision_without_a_run_says_so(tmp_path):
    done = run("precision", str(tmp_path))
    assert done.returncode == 2
    assert "no such file" in done.stdout


def test_trainer_compares_runs_with_bare_steps(tmp_path):
    output = tmp_path / "trainer.json"
    short = "--puppeteer", "stored", "--epochs", "1", "--max-steps", "20", "--rounds", "1"
    done = run("trainer", *short, "--output", str(output))
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(output.read_text())
    (measured,) = result["rounds"]
    assert min(measured.values()) > 0
    assert [row["target"] for row in result["rows"]] == [5.0, 0.03, 0.03, 1.1]
    for overhead, peer in zip(result["rows"][1:3], ("silent_s", "bare_s"), strict=True):
        assert overhead["median"] == pytest.approx(measured["whole_s"] / measured[peer] - 1)
        assert overhead["reached"] == (overhead["median"] <= 0.03)
    assert "pipeline alone" in done.stdout
