"""Exponents of time, and the command that fits them."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import linregress

from bench import power_law, scaling, sweep, timing
from bench.crew import Crew

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("p", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_exponent_of_a_power_law_is_found(p):
    sizes = [4, 8, 16, 64]
    found = power_law.fit(sizes, [[3e-3 * n**p for n in sizes]] * 3)
    assert found.exponent == pytest.approx(p, abs=1e-12)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)
    assert (found.low, found.high, found.last) == pytest.approx((p, p, p), abs=1e-12)


def test_fit_is_scipys_of_the_medians(rng):
    sizes = np.array([2.0, 3.0, 5.0, 8.0, 21.0])
    rounds = 0.1 * sizes**1.3 * np.exp(0.2 * rng.standard_normal((7, 5)))
    expected = linregress(np.log(sizes), np.log(np.median(rounds, axis=0)))
    found = power_law.fit(sizes, rounds)
    assert found.exponent == pytest.approx(expected.slope)
    assert found.standard_error == pytest.approx(expected.stderr)
    assert found.low < found.exponent < found.high
    assert power_law.fit(sizes, rounds) == found  # drawn again from a seed


def test_what_slows_a_whole_round_widens_nothing(rng):
    """Rounds are drawn whole: a slower round is slower at every size, and its exponent is the same."""
    sizes = [1, 2, 4]
    rounds = [[slow * n**1.5 for n in sizes] for slow in 1.0 + 5.0 * rng.random(5)]
    found = power_law.fit(sizes, rounds)
    assert (found.low, found.high) == pytest.approx((1.5, 1.5))


def test_fixed_costs_are_seen_in_the_two_greatest_sizes():
    sizes = [1, 4, 16, 64]
    found = power_law.fit(sizes, [[5.0 + n for n in sizes]])
    assert found.exponent < found.last < 1.0
    assert found.last == pytest.approx(np.log(69 / 21) / np.log(4))


def test_two_sizes_leave_no_residual():
    assert power_law.fit([1, 2], [[1.0, 2.0]]).standard_error is None


@pytest.mark.parametrize(
    ("sizes", "rounds", "match"),
    [
        ([1], [[1.0]], "two at least"),
        ([2, 1], [[1.0, 2.0]], "rising order"),
        ([1, 2], [], "a cost for each size"),
        ([1, 2], [[1.0, 2.0, 3.0]], "a cost for each size"),
        ([1, 2], [[1.0, 0.0]], "positive"),
        ([0, 2], [[1.0, 1.0]], "positive"),
        ([1, 2], [[1.0, np.nan]], "positive"),
    ],
)
def test_what_cannot_be_fitted_is_refused(sizes, rounds, match):
    with pytest.raises(ValueError, match=match):
        power_law.fit(sizes, rounds)


@pytest.mark.parametrize("cores", [1, 2, 6])
def test_a_sweep_varies_one_quantity_around_the_base(cores):
    plan = sweep.full(cores)
    base = sweep.Point(plan[0].points[64].size)
    fields = {"batch": "batch", "width": "channels", "depth": "layers", "image size": "map"}
    assert [one.quantity for one in plan] == [*fields, "cores"][: 4 if cores == 1 else 5]
    for one in plan:
        assert base in one.points.values()
        assert list(one.points) == sorted(one.points)
        for value, point in one.points.items():
            if one.quantity == "cores":
                assert point == dataclasses.replace(base, cores=None if value == cores else value)
            else:
                changed = dataclasses.replace(base.size, **{fields[one.quantity]: value})
                assert point == sweep.Point(changed)
    if cores == 6:
        assert list(plan[-1].points) == [1, 2, 4, 6]


def test_a_worker_gets_the_cores_it_is_limited_to():
    with Crew() as crew:
        crew.limit("one", 1)
        for worker in ("one", "all"):
            assert crew.ask(worker, "drop", label="") == {}
        found = {name: len(os.sched_getaffinity(process.pid)) for name, process in crew._workers.items()}
    assert found == {"one": 1, "all": len(os.sched_getaffinity(0))}


class PowerLaws:
    """Workers whose times are 1e-3 · batch · channels^1.8 · √map, on one core twice that."""

    def __init__(self, *_, **__):
        self.sizes, self.limits, self.running = {}, {}, set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def limit(self, worker, cores):
        self.limits[worker] = cores

    def dismiss(self, worker):
        self.running.discard(worker)

    def ask(self, worker, do, label=None, size=None, name=None, **_):
        self.running.add(worker)
        if do == "set_up" and name == "static_jax" and size["batch"] == 8:
            return {"unavailable": "out of memory"}
        if do == "set_up":
            self.sizes[label] = size
            error = 0.5 if name == "train_continuous" and size["map"] == 4 else 1e-6
            return {"error": error, "first_call_s": 0.0, "notes": {}}
        if do == "turn":
            size = self.sizes[label]
            seconds = 1e-3 * size["batch"] * size["channels"] ** 1.8 * size["map"] ** 0.5
            seconds *= 2.0 if self.limits.get(worker) == 1 else 1.0
            return {"times_s": [seconds], "cpu_before_s": 0.0, "cpu_after_s": 0.0}
        return {}


@pytest.fixture
def power_laws(monkeypatch):
    monkeypatch.setattr(scaling, "Crew", PowerLaws)
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)
    monkeypatch.setattr(scaling.os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # as it was, afterwards


def test_the_command_finds_the_exponents_and_draws_them(power_laws, tmp_path, capsys):
    output = tmp_path / "scaling.json"
    assert scaling.run(scaling.Scaling(rounds=2, output=output)) == 0
    result = json.loads(output.read_text())
    assert {"command", "date", "machine", "versions", "revision", "rounds", "about"} <= set(result)
    expected = {"batch": 1.0, "width": 1.8, "depth": 0.0, "image size": 0.5, "cores": -1.0}
    assert list(result["quantities"]) == list(expected)
    for quantity, found in result["quantities"].items():
        fit = found["contenders"]["train_ode"]
        assert fit["exponent"] == pytest.approx(expected[quantity], abs=1e-9)
        assert len(fit["rounds_s"]) == 2
        assert len(fit["median_s"]) == len(found["values"]) == len(found["sizes"])
    # What could not be had at one size is left out of that sweep, with the reason, and of no other.
    assert "static_jax" not in result["quantities"]["batch"]["contenders"]
    assert "static_jax" in result["quantities"]["width"]["contenders"]
    assert "train_continuous" not in result["quantities"]["image size"]["contenders"]
    assert sorted(why.split(":")[0] for why in result["left_out"].values()) == [
        "computes something else",
        "out of memory",
    ]
    printed = capsys.readouterr().out
    assert "1.80 ± 0.00 (1.80 to 1.80)" in printed
    svg = output.with_suffix(".svg").read_text()
    for word in ("channels of every layer", "time, ms", "training step, continuous", "fitted exponent"):
        assert word in svg
    assert output.with_suffix(".png").stat().st_size > 5000


def test_quantities_that_are_not_asked_for_stay_with_their_own_date(power_laws, tmp_path):
    output = tmp_path / "scaling.json"
    assert scaling.run(scaling.Scaling(rounds=1, only=("batch",), output=output)) == 0
    kept = json.loads(output.read_text())
    kept["quantities"]["batch"]["date"] = "earlier"
    output.write_text(json.dumps(kept))
    assert scaling.run(scaling.Scaling(rounds=1, only=("width",), output=output)) == 0
    result = json.loads(output.read_text())
    assert {name: found["date"] == "earlier" for name, found in result["quantities"].items()} == {
        "batch": True,
        "width": False,
    }


def test_a_contender_whose_process_ends_is_left_out_of_one_sweep(power_laws, tmp_path, monkeypatch):
    ask, ended = PowerLaws.ask, []

    def once(self, worker, do, label=None, **request):
        if do == "turn" and not ended and label.startswith("train_ode @ batch"):
            ended.append(label)
            return {"unavailable": "its process ended"}
        return ask(self, worker, do, label=label, **request)

    monkeypatch.setattr(PowerLaws, "ask", once)
    output = tmp_path / "scaling.json"
    assert scaling.run(scaling.Scaling(rounds=1, output=output)) == 0
    result = json.loads(output.read_text())
    assert "train_ode" not in result["quantities"]["batch"]["contenders"]
    assert "train_ode" in result["quantities"]["width"]["contenders"]
    assert result["left_out"][ended[0]] == "its process ended while it was measured"


@pytest.mark.parametrize("more", [{"only": ("height",)}, {"without": ("nobody",)}, {"rounds": 0}])
def test_bad_options_end_with_code_2(more, capsys):
    assert scaling.run(scaling.Scaling(quick=True, **more)) == 2
    assert f"--{next(iter(more))}: got" in capsys.readouterr().err


def test_quick_runs_end_to_end(tmp_path):
    output = tmp_path / "scaling.json"
    # Without those whose compilation takes most of the time.
    without = [name for name in sweep.CONTENDERS if name != "train_static_jax"]
    command = [sys.executable, "-m", "bench", "speed", "scaling", "--quick", "--only", "batch", "--output", str(output)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [*command, "--without", *without], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = json.loads(output.read_text())["quantities"].values()
    assert found["values"] == [2, 4]
    (contender,) = found["contenders"].values()
    assert np.asarray(contender["rounds_s"]).shape == (2, 2)
    assert np.all(np.asarray(contender["rounds_s"]) > 0)
    assert "| batch | training step, static twin in JAX |" in done.stdout
