"""TensorBoard event files, read back with a reader of their framing that is written out here."""

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from train.runs import events
from train.runs.events import Events

ROOT = Path(__file__).parents[1]


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, a bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> list[bytes]:
    """The records of a TFRecord file: length, its check sum, content, its check sum."""
    content, found = path.read_bytes(), []
    while content:
        (length, sum_of_length) = struct.unpack("<QI", content[:12])
        assert sum_of_length == masked(content[:8])
        record, (sum_of_record,) = content[12 : 12 + length], struct.unpack("<I", content[12 + length : 16 + length])
        assert len(record) == length
        assert sum_of_record == masked(record)
        found.append(record)
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


def test_the_check_sum_is_castagnolis():
    assert crc32c(b"123456789") == 0xE3069283  # the value that catalogues of CRCs give


def test_scalars_are_read_back(tmp_path):
    with Events(tmp_path / "run", None) as written:
        written.scalars(10, {"loss/train": 2.5, "loss/test": 1.25})
        written.scalars(20, {"loss/train": math.nan, "accuracy/test": 0.1})
    found = read(tmp_path / "run")
    assert found[0].file_version == "brain.Event:2"
    assert curve(found, "loss/train").keys() == {10, 20}
    assert curve(found, "loss/train")[10] == 2.5
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
    assert len(list((tmp_path / "events").iterdir())) == 3
    assert curve(read(tmp_path), "loss") == {10: 10.0, 20: 20.0, 25: -25.0, 31: -31.0}


def test_a_file_from_the_future_and_foreign_files_do_not_disturb_the_order(tmp_path):
    folder = tmp_path / "events"
    folder.mkdir()
    (folder / "events.out.tfevents.9000000000.host.1").write_bytes(b"")
    for foreign in ("events.out.tfevents.x", "events.out.tfevents.", "events.out.tfevents." + "9" * 50, "notes.txt"):
        (folder / foreign).write_bytes(b"")
    before = set(folder.iterdir())
    Events(tmp_path, 5).close()
    (made,) = set(folder.iterdir()) - before
    assert made.name.startswith("events.out.tfevents.9000000001.")


def test_what_was_recorded_before_a_kill_is_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "FLUSH", 0.0)
    written = Events(tmp_path, None)
    written.scalars(3, {"loss": 1.0})
    assert curve(read(tmp_path), "loss") == {3: 1.0}  # not closed yet
    written.close()
    written.close()
    written.scalars(4, {"loss": 1.0})
    assert curve(read(tmp_path), "loss") == {3: 1.0}


def test_without_the_package_it_says_so_once_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    said = []
    written = Events(tmp_path, None, said.append)
    written.scalars(1, {"loss": 1.0})
    written.scalars(2, {"loss": 1.0})
    written.close()
    (text,) = said
    assert "pip install tensorboardX" in text
    assert not (tmp_path / "events").exists()


def test_a_folder_that_cannot_be_made_is_said_once(tmp_path):
    (tmp_path / "events").write_text("a file is in the way")
    said = []
    written = Events(tmp_path, None, said.append)
    written.scalars(1, {"loss": 1.0})
    written.close()
    assert len(said) == 1
    assert "goes on" in said[0]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full: the full disk cannot be played")
def test_a_full_disk_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "FLUSH", 0.0)
    said = []
    written = Events(tmp_path, None, said.append)
    written._writer._writer.close()
    written._writer._writer = open("/dev/full", "wb")  # noqa: SIM115
    for step in range(3):
        written.scalars(step, {"loss": 1.0})
    written.close()
    assert len(said) == 1
    assert "No space left" in said[0]


def test_the_package_is_imported_only_where_used():
    names = "('tensorboardX', 'jax')"
    code = f"import sys, json, train.runs.events; print(json.dumps([m for m in {names} if m in sys.modules]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert json.loads(out.stdout) == []
