"""The benchmark of predicting a folder: it runs, on few small images, and what it finds can be told."""

import json

import pytest

from bench import predict


def test_it_measures_both_and_its_result_is_told(tmp_path, monkeypatch, capsys):
    counted = []

    def peak(where, count):  # a process of its own each, with JAX's seconds to start
        files = (where / "images" / "few").glob("*.png") if count <= predict.FEW else (where / "images").rglob("*.png")
        counted.append((count, len(list(files))))
        return {"images": count, "peak_bytes": 3 * 2**20, "seconds": 1.5}

    monkeypatch.setattr(predict, "_peak", peak)
    monkeypatch.setattr(predict, "FEW", 8)
    output = tmp_path / "predict_digits.json"
    options = predict.Predict(data="digits", preset="puppet_xs", images=20, rounds=1, output=output)
    assert predict.run(options) == 0
    assert counted == [(8, 8), (20, 20)]
    result = json.loads(output.read_text())
    assert result["what"] == "digits, puppet_xs, 20 png files of 8x8x1"
    [found], [row] = result["rounds"], result["rows"]
    assert row["median"] == pytest.approx(found["folder"] / found["memory"])
    assert row["reached"] == (row["median"] >= 0.9)
    assert "images/s" in capsys.readouterr().out
