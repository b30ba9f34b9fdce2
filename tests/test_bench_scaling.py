"""Exponents of time, and the part of the command that fits them."""

import json

import numpy as np
import pytest
from scipy.stats import linregress

from bench import scaling, speed, timing


def test_exponents_are_those_of_scipys_regression(rng):
    sizes = np.array([2.0, 3.0, 5.0, 8.0, 21.0])
    rounds = 0.1 * sizes**1.3 * np.exp(0.2 * rng.standard_normal((7, 5)))
    expected = [linregress(np.log(sizes), np.log(each)).slope for each in rounds]
    np.testing.assert_allclose(scaling.exponents(sizes, rounds), expected)


def test_cores_are_powers_of_two_and_all():
    assert [scaling.powers_of_two(most) for most in (1, 2, 6)] == [[1], [1, 2], [1, 2, 4, 6]]


class PowerLaws:
    """Workers whose times are 1e-3 · batch · channels^1.8 · √map, on one core twice that."""

    cores = (0, 1)

    def __init__(self, *_, **__):
        self.sizes, self.limits = {}, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def dismiss(self, worker):
        pass

    def ask(self, worker, do, label=None, size=None, name=None, **_):
        if do == "set_up" and name == "static_jax" and size["batch"] == 8:
            return {"unavailable": "out of memory"}
        if do == "set_up":
            self.sizes[label] = size
            error = 0.5 if name == "train_continuous" and size["map"] == 4 else 1e-6
            return {"error": error, "first_call_s": 0.0, "notes": {}}
        if do == "turn" and label == "compile_predict @ depth 3":
            return {"unavailable": "gone"}
        if do == "turn":
            size = self.sizes[label]
            seconds = 1e-3 * size["batch"] * size["channels"] ** 1.8 * size["map"] ** 0.5
            return {"times_s": [seconds * (2.0 if self.limits.get(worker) == 1 else 1.0)], "cpu_s": 0.0}
        return {}


def test_the_command_finds_the_exponents_and_draws_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "Crew", PowerLaws)
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # as it was, afterwards
    assert speed.run(speed.Speed(parts=("scaling",), rounds=2, output=tmp_path)) == 0
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert {"command", "date", "machine", "versions", "revision", "rounds"} <= set(result)
    expected = {"batch": 1.0, "width": 1.8, "depth": 0.0, "image size": 0.5, "cores": -1.0}
    assert list(result["quantities"]) == list(expected)
    for quantity, found in result["quantities"].items():
        fit = found["contenders"]["train_ode"]
        assert fit["exponent"] == pytest.approx(expected[quantity], abs=1e-9)
        assert np.shape(fit["rounds_s"]) == (2, len(found["values"]))
        assert len(fit["median_s"]) == len(found["sizes"])
    # What could not be had at one size is left out of that sweep, with the reason, and of no other.
    for name, quantity in (("static_jax", "batch"), ("train_continuous", "image size"), ("compile_predict", "depth")):
        assert [q for q, found in result["quantities"].items() if name not in found["contenders"]] == [quantity]
    reasons = sorted(why.split(":")[0] for why in result["left_out"].values())
    assert reasons == ["computes something else", "its process ended while it was measured", "out of memory"]
    assert "| channels of every layer | 1.8 (1.8 to 1.8) |" in capsys.readouterr().out
    svg = (tmp_path / "scaling.svg").read_text()
    for word in ("channels of every layer", "time, ms", "training step, continuous"):
        assert word in svg
    assert (tmp_path / "scaling.png").stat().st_size > 5000
