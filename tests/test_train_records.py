"""The files of a run, read in any state."""

import json
import os
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from train.errors import UserError
from train.runs.reading import number, open_folder, read_json, read_metrics
from train.terminal import printable


def metrics(epoch: int) -> dict:
    return {
        "epoch": epoch,
        "step": 45 * epoch,
        "train_loss": 2.0 / epoch,
        "train_accuracy": 1 - 0.5 / epoch,
        "test_loss": 2.5 / epoch,
        "test_accuracy": 1 - 0.75 / epoch,
        "seconds": 1.5,
    }


def test_an_epoch_that_was_done_again_counts_as_it_was_last(tmp_path):
    lines = [*map(metrics, (1, 2, 3, 4)), metrics(3) | {"test_loss": 9.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in found.lines] == [1, 2, 3, 4]
    assert found.lines[2]["test_loss"] == 9.0


def test_damaged_json_is_refused(tmp_path):
    path = tmp_path / "summary.json"
    for content, message in [
        (b"", "not JSON"),
        (b"[]", "expected a JSON object, got an array"),
        (b"null", "got null"),
        (b'{"a": ' * 100_000, "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_json(path)
    with open(path, "wb") as file:
        file.truncate(2**40)  # a hole: nothing on the disk
    with pytest.raises(UserError, match="larger than"):
        read_json(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match="not a regular file"):
        read_json(path)
    with pytest.raises(UserError, match="not a regular file"):
        read_json(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_json(Path("a\0b"))


def test_numbers_are_read_as_numbers_alone():
    record = {"a": {"b": 3}, "c": "3", "d": True, "e": 10**400, "f": float("nan"), "g": [1]}
    assert number(record, "a", "b") == 3.0
    for keys in (("a",), ("c",), ("d",), ("e",), ("f",), ("g",), ("h",), ("c", "b"), ("g", "b")):
        assert number(record, *keys) is None


@hypothesis.given(st.text())
def test_printable_text_is_printable(text):
    shown = printable(text)
    assert shown.isprintable()
    shown.encode()
    assert shown == text or not text.isprintable()


def test_damaged_lines_are_numbered_and_the_rest_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = [json.dumps(metrics(epoch)) for epoch in (1, 2, 3)]
    bad = {
        "{": "Expecting property name",
        "[1]": "expected a JSON object, got an array",
        json.dumps(metrics(2) | {"epoch": "2"}): "epoch is 2",
        json.dumps(metrics(2) | {"epoch": 2.5}): "epoch is 2.5",
        json.dumps(metrics(2) | {"epoch": True}): "epoch is True",
        json.dumps(metrics(2) | {"test_accuracy": 1.5}): "test_accuracy is 1.5",
        json.dumps(metrics(2) | {"seconds": -1}): "seconds is -1",
        json.dumps(metrics(2) | {"test_loss": float("inf")}): "test_loss is inf",
        json.dumps(metrics(2) | {"step": 10**400}): "step is 1000",
        json.dumps({"epoch": 2}): "step is missing",
        "[" * 200_000: "nested too deeply",
        good[1][: len(good[1]) // 2]: "",
    }
    lines = [good[0], "", *bad, good[2], json.dumps(metrics(4) | {"train_loss": None}), good[0]]
    path.write_text("\n".join(lines))
    found = read_metrics(path)
    assert [line["epoch"] for line in found.lines] == [1, 3, 4]
    assert np.isnan(found.lines[-1]["train_loss"])
    assert [place for place, _ in found.damaged] == list(range(3, 3 + len(bad)))
    for (_, why), expected in zip(found.damaged, bad.values(), strict=True):
        assert why.startswith(expected)
    path.write_text("no JSON\n" * 2000)
    with pytest.raises(UserError, match="1000 damaged lines"):
        read_metrics(path)


def test_a_folder_that_cannot_be_a_runs_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    assert open_folder(tmp_path) == tmp_path
    for folder, message in [("absent", "does not exist"), ("file", "is no folder"), ("x" * 300, "expected the folder")]:
        with pytest.raises(UserError, match=message):
            open_folder(tmp_path / folder)
