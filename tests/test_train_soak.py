"""Lives ended by SIGKILL at random moments, of saves too: the end is that of an undisturbed run."""

import math
import random
import signal
import time

import pytest
from lives import lives, metrics, newest, same_parameters

KILLS = 20
STEPS = 600
FLAGS = ["--puppeteer=stored", "--batch-size=64", "--epochs=100", f"--max-steps={STEPS}", "--ema=0.9", "--keep=2"]
# The run that is killed saves nearly all the time; that does not change its numbers.
EVERY = 3
OFTEN = f"--checkpoint-steps={EVERY}"


@pytest.fixture
def begin(tmp_path):
    with lives(tmp_path / "programs") as begin:
        yield begin


@pytest.mark.soak
def test_kills_end_as_an_undisturbed_run(tmp_path, begin, time_left):
    undisturbed, killed, log = tmp_path / "undisturbed", tmp_path / "killed", tmp_path / "log"
    process = begin(log, *FLAGS, "--out", str(undisturbed))
    process.join()
    assert process.exitcode == 0, log.read_text()

    draw = random.Random(4)
    reached = [0]
    for kill in range(KILLS):
        if not time_left():
            break
        made = (killed / "config.json").exists()
        command = ["--resume", str(killed)] if made else [*FLAGS, "--out", str(killed)]
        process = begin(log, *command, OFTEN)
        # One in four early, while it reads, compiles or restores; the others within their first saves.
        saves, patience = draw.randint(1, 4), draw.uniform(0.0, 2.0) if kill % 4 == 3 else math.inf
        began = time.monotonic()
        while time.monotonic() - began < patience and newest(killed) < reached[-1] + EVERY * saves:
            assert process.is_alive(), log.read_text()
            time.sleep(0.003)
        time.sleep(draw.uniform(0.0, 0.1))
        process.kill()
        process.join()
        told = log.read_text()
        assert process.exitcode == -signal.SIGKILL, told
        assert "error" not in told
        assert "damaged" not in told
        # Never behind where a life before was, by the completed checkpoints.
        assert newest(killed) >= reached[-1]
        reached.append(newest(killed))
    assert reached[-1] < STEPS

    command = ["--resume", str(killed)] if reached[-1] else [*FLAGS, "--out", str(killed), "--overwrite"]
    process = begin(log, *command)
    process.join()
    told = log.read_text()
    assert process.exitcode == 0, told
    assert not reached[-1] or f"resumed after step {reached[-1]} of {STEPS}" in told
    assert same_parameters(killed, undisturbed)
    assert metrics(killed) == metrics(undisturbed)
    assert len(metrics(killed)) == math.ceil(STEPS / (1442 // 64))
