"""What a run tells: a bar on a terminal, lines elsewhere, events; nothing from a process that is not the first."""

import io
import sys
import time

import jax.numpy as jnp
import pytest

from train.config import Config, resolve
from train.runs import events
from train.steps import progress
from train.steps.progress import Progress, means
from train.steps.step import Sums, Tally, empty_tally


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Recorded:
    """In place of event files."""

    def __init__(self, folder, resumed_at, say):
        self.resumed_at, self.told, self.closed = resumed_at, [], False
        Recorded.last = self

    def scalars(self, step, values):
        self.told.append((step, dict(values)))

    def close(self):
        self.closed = True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(events, "Events", Recorded)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def tally(step):
    seen = 20 * step
    sums = Sums(
        jnp.float32(2.5 * seen), jnp.int32(seen // 4), jnp.int32(seen), jnp.float32(3 * seen), jnp.int32(2 * seen)
    )
    return Tally(sums, jnp.int32(step), jnp.int32(0), jnp.int32(0))


LINE = {
    "epoch": 2,
    "step": 80,
    "train_loss": 1.5,
    "train_accuracy": 0.5,
    "test_loss": 1.25,
    "test_accuracy": 0.625,
    "seconds": 4.0,
    "images_per_second": 1234.5,
}


def test_means():
    assert means(tally(4).sums) == {"loss": 2.5, "accuracy": 0.25, "complexity": 3.0, "depth": 2.0}


def test_lines_where_there_is_no_terminal(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress(tmp_path, resolve(Config(batch_size=10)), empty_tally(), 400, 40) as told:
        for step in range(1, 101):
            clock[0] += 1.0
            told.look(tally(step))
        told.epoch(LINE)
    lines = sys.stderr.getvalue().splitlines()
    # One a minute, not one a step; ten images in a second.
    assert lines[0] == (
        "step 60/400, epoch 2/10: loss 2.500, accuracy 25.0%, H 3.00 bits, depth 2.00, 10 images/s, 05:40 left"
    )
    assert lines[1] == (
        "epoch 2/10: train loss 1.5000, accuracy 50.00%; test loss 1.2500, accuracy 62.50%; 4.0 s, 1,234 images/s"
    )
    assert len(lines) == 2
    assert Recorded.last.told[0] == (100, {f"running/{name}": value for name, value in means(tally(1).sums).items()})
    assert Recorded.last.told[1] == (80, {k: v for k, v in LINE.items() if k not in ("epoch", "step")})
    assert Recorded.last.closed
    assert Recorded.last.resumed_at is None


def test_a_bar_on_a_terminal_from_where_the_run_goes_on(tmp_path, monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    config = resolve(Config(batch_size=10, resume=tmp_path))
    with Progress(tmp_path, config, empty_tally(50), 400, 40) as told:
        for step in range(51, 61):
            clock[0] += 0.2
            told.look(tally(step))
    shown = sys.stderr.getvalue()
    assert "12%" in shown  # 50 of 400 are done before the first look
    assert "60/400" in shown
    assert "epoch 2/10" in shown
    assert "loss 2.500, accuracy 25.0%, H 3.00 bits, depth 2.00, 50 images/s, 01:08 left" in shown
    assert Recorded.last.resumed_at == 50


def test_another_process_tells_nothing(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    Recorded.last = None
    with Progress(None, resolve(Config()), empty_tally(), 400, 40) as told:
        clock[0] += 100
        told.look(tally(100))
        told.epoch(LINE)
    assert sys.stderr.getvalue() == ""
    assert Recorded.last is None
    assert progress.PLAIN > progress.REFRESH
