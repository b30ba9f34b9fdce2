"""TensorBoard event files, read back with a reader of their framing that is written out here."""

import math
import os
import struct
import sys
from pathlib import Path

import pytest

from train.steps import progress
from train.steps.progress import Events


def records(path: Path) -> list[bytes]:
    """The records of a TFRecord file: length, its check sum, content, its check sum."""
    content, found = path.read_bytes(), []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(content[12 : 12 + length])
        content = content[16 + length :]
    return found


def read(folder: Path) -> list:
    """The events of all files of a folder, in TensorBoard's order: of the files' names."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    return [event_pb2.Event.FromString(r) for path in sorted((folder / "events").iterdir()) for r in records(path)]


def curve(found: list, tag: str) -> dict[int, float]:
    """What TensorBoard shows of a tag: a start of a session drops what was recorded at its step and beyond."""
    shown = {}
    for event in found:
        if event.HasField("session_log") and event.session_log.status == event.session_log.START:
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == tag:
                shown[event.step] = value.simple_value
    return shown


def test_scalars_are_read_back_before_a_close_and_after(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "FLUSH", 0.0)
    written = Events(tmp_path / "run", None)
    written.scalars(10, {"loss/train": 2.5, "loss/test": 1.25})
    assert curve(read(tmp_path / "run"), "loss/train") == {10: 2.5}  # as after a kill
    written.scalars(20, {"loss/train": math.nan, "accuracy/test": 0.1})
    written.close()
    written.close()
    written.scalars(30, {"loss/train": 1.0})
    found = read(tmp_path / "run")
    assert found[0].file_version == "brain.Event:2"
    assert curve(found, "loss/train").keys() == {10, 20}
    assert math.isnan(curve(found, "loss/train")[20])
    assert curve(found, "loss/test") == {10: 1.25}
    assert curve(found, "accuracy/test") == {20: pytest.approx(0.1, rel=1e-7)}
    times = [event.wall_time for event in found]
    assert times == sorted(times)
    assert times[0] > 1.6e9


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path):
    first = Events(tmp_path, None)
    for step in (10, 20, 30, 40):
        first.scalars(step, {"loss": float(step)})
    first.close()
    # Resumed at once, so in the same second: it must not write over the first file, nor be read before it.
    for resumed_at, step in ((20, 25), (25, 31)):
        again = Events(tmp_path, resumed_at)
        again.scalars(step, {"loss": -float(step)})
        again.close()
    assert curve(read(tmp_path), "loss") == {10: 10.0, 20: 20.0, 25: -25.0, 31: -31.0}


def no_package(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    return lambda written: None, "pip install tensorboardX"


def file_in_the_way(folder, monkeypatch):
    (folder / "events").write_text("a file is in the way")
    return lambda written: None, "goes on"


def full_disk(folder, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full to play a full disk")
    monkeypatch.setattr(progress, "FLUSH", 0.0)

    def fill(written):
        written._writer._py_recordio_writer._writer = open("/dev/full", "wb")  # noqa: SIM115

    return fill, "No space left"


@pytest.mark.parametrize("trouble", [no_package, file_in_the_way, full_disk])
def test_trouble_is_said_once_and_training_goes_on(tmp_path, monkeypatch, trouble):
    spoil, words = trouble(tmp_path, monkeypatch)
    said = []
    monkeypatch.setattr(progress, "say", said.append)
    written = Events(tmp_path, None)
    spoil(written)
    for step in range(3):
        written.scalars(step, {"loss": 1.0})
    written.close()
    assert len(said) == 1
    assert words in said[0]
