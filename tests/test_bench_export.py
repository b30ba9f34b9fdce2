"""Tests of ``python -m bench export``; the export itself is tested in test_export.py."""

import json

from bench import export

RESULT = {
    "model": "m",
    "rounds": 3,
    "bytes": 12345,
    "program_bytes": 678,
    "seconds": {stage: [1.0, 3.0, 2.5] for stage in export.STAGES},
    "same_bytes": True,
    "puppeteer": {"bytes": 432, "seconds": [2.0, 4.0, 3.5]},
    "target": {"seconds": 3.0, "reached": True},
    "batches": [
        {
            "batch": 64,
            "native_s": [0.05, 0.06, 0.07],
            "exported_s": [0.09, 0.09, 0.08],
            "ratio": {"median": 1.5, "low": 1.25, "high": 1.75, "rounds": [1.8, 1.5, 1.14]},
            "error_of_batch": 4.2e-7,
        }
    ],
}


def test_stages_of_a_fresh_process_add_up(tmp_path, monkeypatch):
    told = {"seconds": {"import": 0.25, "load": 0.125, "compile": 0.5, "run": 0.0625}, "sha256": "a", "alone": True}
    monkeypatch.setattr(export, "_SCRIPT", f"print('answered', flush=True); print({json.dumps(told)!r})")
    found = export.first_answer(tmp_path / "a", tmp_path / "b", "c")
    assert found["sha256"] == "a"
    seconds = found["seconds"]
    assert set(seconds) == set(export.STAGES)
    parts = seconds["start"] + sum(told["seconds"].values())
    assert abs(parts - seconds["all"]) < 1e-9
    assert seconds["processor"] > 0


def test_a_fresh_process_that_fails_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "_SCRIPT", "raise SystemExit(3)")
    assert export.first_answer(tmp_path / "a", tmp_path / "b", "c") is None
    assert "code 3" in capsys.readouterr().err


def test_an_unknown_model_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(export.os, "environ", dict(export.os.environ))
    assert export.run(export.Export(model="none")) == 2
    assert "unknown model 'none'" in capsys.readouterr().err


def test_the_result_is_shown():
    text = export.report(RESULT)
    assert "12,345 bytes" in text
