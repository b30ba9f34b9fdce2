"""Tests of ``python -m bench speed puppetize``."""

import functools
import json

import numpy as np
import pytest

from bench import nets, puppetize, speed, timing


def test_measures_speed_and_parameters(tmp_path, monkeypatch):
    tiny = functools.partial(nets.ResNet, 2, width=8, blocks=0)  # a convolution, a normalisation, a head
    monkeypatch.setattr(puppetize, "NETS", {"Tiny": tiny})
    monkeypatch.setattr(puppetize, "BUDGET_S", 0.0)
    monkeypatch.setattr(timing, "PAUSE_S", 0.0)
    assert speed.run(speed.Speed(parts=("puppetize",), rounds=2, output=tmp_path)) == 0
    result = json.loads((tmp_path / "puppetize.json").read_text())
    lines = {(line["part"], line["batch_norm"], line["depth"]): line for line in result["speed"]}
    predicted = {("predict", *each) for each in (("running", "full"), ("group", "full"), ("running", "complexity"))}
    assert set(lines) == {("train", "group", "full"), *predicted}
    for line in lines.values():
        quotients = np.divide(line["seconds"], line["original_seconds"])
        assert line["over_original"]["median"] == pytest.approx(np.median(quotients))
    most = {"train": 1.0, "predict": 1.3}
    reached = [row["median"] <= most[row["what"].partition(",")[0]] for row in result["rows"]]
    assert [row["reached"] for row in result["rows"]] == reached
    assert len(reached) == 3
    counts = result["parameters"]["Tiny"]
    assert (counts["static_kernels"], counts["static_twin"]) == (3 * 9 * 8, 3 * 9 * 8 + 16 + 18)
