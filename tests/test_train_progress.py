"""What a run tells: a bar on a terminal, lines elsewhere."""

import io
import itertools
import os
import sys
import time

import jax.numpy as jnp
import pytest

from train import telling
from train.config import Config, resolve
from train.steps.progress import Progress, means
from train.steps.step import Sums, Tally, empty_tally


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal


def tally(step):
    seen = 20 * step
    sums = Sums(
        jnp.float32(2.5 * seen), jnp.int32(seen // 4), jnp.int32(seen), jnp.float32(3 * seen), jnp.int32(2 * seen)
    )
    return Tally(sums, jnp.int32(step), jnp.int32(0), jnp.int32(0))


LINE = {"epoch": 2, "step": 80, "train_loss": 1.5, "train_accuracy": 0.5, "test_loss": 1.25, "test_accuracy": 0.625}
LINE |= {"seconds": 4.0, "images_per_second": 1234.5}


@pytest.fixture
def told(monkeypatch):
    """What is shown of a run that looks at steps, ``pace`` seconds each."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def tell(folder, start, stop, pace, terminal, **fields) -> str:
        monkeypatch.setattr(sys, "stderr", Stream(terminal))
        with Progress(folder, resolve(Config(batch_size=10, **fields)), empty_tally(start), 400, 40) as shown:
            for step in range(start + 1, stop + 1):
                now[0] += pace
                shown.look(tally(step))
            shown.epoch(LINE)
        return sys.stderr.getvalue()

    return tell


def test_lines_where_there_is_no_terminal(tmp_path, told):
    # One a minute, not one a step; ten images in a second.
    assert told(tmp_path, 0, 100, 1.0, terminal=False).splitlines() == [
        "epoch 2/10, step 60/400, 05:40 left: loss 2.500, accuracy 25.0%, 10 images/s",
        "epoch 2/10: loss 1.500, accuracy 50.0%; test 1.250, 62.50%; 4.0 s",
    ]
    assert means(tally(4).sums) == {"loss": 2.5, "accuracy": 0.25, "complexity": 3.0, "depth": 2.0}
    assert told(None, 0, 100, 1.0, terminal=False) == ""  # another process than the first


def test_a_bar_on_a_terminal_from_where_the_run_goes_on(tmp_path, told):
    shown = told(tmp_path, 50, 60, 0.2, terminal=True)
    assert " 12%|" in shown  # 50 of 400 are done before the first look
    assert "epoch 2/10  15%|" in shown
    assert "|, 01:08 left, loss 2.500, accuracy 25.0%, 50 images/s" in shown


def test_the_bar_of_a_long_run_fits_80_columns_and_a_step_that_was_passed_is_not_shown_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream(terminal=True))
    monkeypatch.setattr(os, "get_terminal_size", lambda stream: os.terminal_size((80, 24)))
    sys.stderr.fileno = lambda: 2
    now = itertools.count(0, 9)
    monkeypatch.setattr(time, "perf_counter", lambda: next(now))
    with Progress(tmp_path, resolve(Config(batch_size=1)), empty_tally(0), 100_000, 1000) as shown:
        for step in (99_000, 99_003, 99_001, 99_002, 99_004):  # as at an epoch's end
            shown.look(tally(step)._replace(sums=tally(1).sums))
    bars = [line for line in sys.stderr.getvalue().split("\r") if "left" in line]
    assert [line.split("|")[0] for line in bars] == ["epoch 99/100  99%", *["epoch 100/100  99%"] * 2]
    for line in bars:
        assert len(line.rstrip()) <= 80
        assert line.rstrip().endswith(" images/s")


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_compiled_and_for_how_long_is_told_while_it_is(monkeypatch, terminal):
    told, minutes = Stream(terminal), itertools.count(step=60)
    monkeypatch.setattr(sys, "stderr", told)
    monkeypatch.setattr(telling, "PLAIN", 0.01)
    monkeypatch.setattr(time, "monotonic", lambda: next(minutes))
    with telling.compiling("the step"):
        while "compiling the step, 60 s" not in told.getvalue():
            pass
    assert told.getvalue().startswith("\r" * terminal + "compiling the step, ")
    assert told.getvalue().endswith("\r\033[K") == terminal
