"""Lives ended by SIGKILL at random moments, of saves too: the end is that of an undisturbed run.

Five kills; `SOAK_KILLS=20 python -m pytest tests/test_train_soak.py` for more.
"""

import itertools
import math
import os
import random
import signal
import time

import pytest
from lives import lives, metrics, newest, same_parameters

KILLS, MOST = int(os.environ.get("SOAK_KILLS", "5")), 40
STEPS = 600
FLAGS = ["--puppeteer=stored", "--batch-size=64", "--epochs=100", f"--max-steps={STEPS}", "--ema=0.9", "--keep=2"]
# The run that is killed saves nearly all the time; that does not change its numbers.
EVERY = 3
OFTEN = f"--checkpoint-steps={EVERY}"


@pytest.fixture
def begin(tmp_path):
    with lives(tmp_path / "programs") as begin:
        yield begin


def test_kills_end_as_an_undisturbed_run(tmp_path, begin):
    undisturbed, killed, log = tmp_path / "undisturbed", tmp_path / "killed", tmp_path / "log"
    process = begin(log, *FLAGS, "--out", str(undisturbed))
    process.join()
    assert process.exitcode == 0, log.read_text()

    draw = random.Random(4)
    reached, unfinished = [0], 0
    for kill in range(MOST):
        if kill >= KILLS and unfinished:  # some are to be killed in the middle of a save
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
        unfinished += any((killed / "checkpoints").glob("*.orbax-checkpoint-tmp"))
        # Never behind where a life before was, by the completed checkpoints.
        assert newest(killed) >= reached[-1]
        reached.append(newest(killed))
    assert sum(later > earlier for earlier, later in itertools.pairwise(reached)) >= KILLS // 2
    assert unfinished >= 1
    assert reached[-1] < STEPS

    process = begin(log, "--resume", str(killed))
    process.join()
    told = log.read_text()
    assert process.exitcode == 0, told
    assert f"resumed after step {reached[-1]} of {STEPS}" in told
    assert same_parameters(killed, undisturbed)
    assert metrics(killed) == metrics(undisturbed)
    assert len(metrics(killed)) == math.ceil(STEPS / (1442 // 64))
