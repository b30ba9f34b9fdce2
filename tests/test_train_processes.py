"""Training in processes: two as one, also when cut; one that dies is noticed; kills that change no number."""

import json
import math
import multiprocessing
import multiprocessing.forkserver
import os
import random
import re
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from trained_runs import metrics, same_parameters

from train.devices import HEARTBEAT_SECONDS
from train.runs import model_file

# A low rate: Adam enlarges differences of rounding in time.
FLAGS = ["--puppeteer=stored", "--width=8", "--batch-size=64", "--max-steps=40", "--ema=0.9", "--learning-rate=1e-3"]

KILLS = 20
STEPS = 600
ENDLESS = ["--puppeteer=stored", "--batch-size=64", "--epochs=100", f"--max-steps={STEPS}", "--ema=0.9"]
# The run that is killed saves nearly all the time; that does not change its numbers.
EVERY = 3
OFTEN = f"--checkpoint-steps={EVERY}"


def live(arguments: list[str], log: Path, environment: dict[str, str]) -> None:
    """What such a process does."""
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= environment
    from train.__main__ import main

    os._exit(main(arguments))


@pytest.fixture(scope="module")
def begin():
    """``begin(log, *arguments)`` starts a process. Each is a copy of one that has imported everything and begun
    nothing: many would otherwise spend minutes on getting ready."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.commands.train", "sklearn.datasets", "matplotlib.pyplot"])
    begun = []

    def begin(log: Path, *arguments: str, **environment: str) -> multiprocessing.Process:
        begun.append(context.Process(target=live, args=(list(arguments), log, environment)))
        begun[-1].start()
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
    multiprocessing.forkserver._forkserver._stop()


def newest(folder: Path) -> int:
    """Step of the last completed checkpoint; 0 if there is none."""
    return max((int(path.stem) for path in (folder / "checkpoints").glob("*.safetensors")), default=0)


class Pair:
    """Two processes of one training, of two simulated devices each unless told otherwise."""

    def __init__(self, begin, folder, *arguments, devices=2):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            where = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free.getsockname()[1]}", "JAX_NUM_PROCESSES": "2"}
            where["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        self.logs = [folder.with_name(f"log-{i}") for i in (0, 1)]
        self.processes = [
            begin(log, *arguments, "--distributed", **where, JAX_PROCESS_ID=str(i)) for i, log in enumerate(self.logs)
        ]

    def wait(self, seconds=120) -> list[int]:
        for process in self.processes:
            process.join(seconds)
        return [process.exitcode for process in self.processes]

    def told(self) -> list[str]:
        return [log.read_text() for log in self.logs]

    def wait_for_checkpoint(self, folder, after: int) -> None:
        while newest(folder) <= after:
            assert all(process.is_alive() for process in self.processes), self.told()
            time.sleep(0.01)


def same_to_rounding(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same parameters, metrics and evaluation, but for rounding."""
    (arrays, _), (expected, _) = (model_file.read(folder / "params.safetensors") for folder in (one, other))
    for name in arrays:
        np.testing.assert_allclose(arrays[name], expected[name], atol=1e-4, err_msg=name)
    for line, also in zip(metrics(one), metrics(other), strict=True):
        assert line == pytest.approx(also, rel=1e-3)
    told, also = (json.loads((folder / "summary.json").read_text()) for folder in (one, other))
    for name in ("clipped", "complexity_mean_bits", "test_accuracy", "test_loss"):
        assert told[name] == pytest.approx(also[name], rel=1e-3), name
    for name in ("accuracy_by_depth", "accuracy_by_bin", "test_images", "test_correct"):
        assert told[name] == also[name]
    return True


def test_two_processes_are_interrupted_resume_and_end_as_one(tmp_path, begin):
    folder, alone, log = tmp_path / "run", tmp_path / "alone", tmp_path / "log"
    # A signal to the one that writes nothing ends both, after the same step, which is saved.
    pair = Pair(begin, folder, *FLAGS, "--checkpoint-steps=2", "--out", str(folder))
    pair.wait_for_checkpoint(folder, after=0)
    os.kill(pair.processes[1].pid, signal.SIGTERM)
    assert pair.wait() == [143, 143], pair.told()
    assert f"python -m train --resume {folder}" in pair.told()[0]
    reached = newest(folder)
    assert reached < 40
    assert model_file.read(folder / "params.safetensors")[1].step == reached

    pair = Pair(begin, folder, "--resume", str(folder))
    assert pair.wait() == [0, 0], pair.told()
    assert f"resumed after step {reached} of 40" in pair.told()[0]
    # The first writes and speaks for both.
    assert "test accuracy" in pair.told()[0]
    assert "epoch" not in pair.told()[1]

    process = begin(log, *FLAGS, "--out", str(alone))
    process.join(120)
    assert process.exitcode == 0, log.read_text()
    assert len(metrics(alone)) == 2
    assert metrics(alone)[-1]["train_loss"] < metrics(alone)[0]["train_loss"]
    assert same_to_rounding(folder, alone)


@pytest.mark.soak
def test_a_death_is_noticed_within_the_time_that_is_promised(tmp_path, begin):
    folder = tmp_path / "run"
    # With several devices a process waits for its own in vain, until JAX ends it for the missing heartbeats.
    flags = [*FLAGS[:-3], "--epochs=500", "--checkpoint-steps=3", "--out", str(folder)]
    pair = Pair(begin, folder, *flags, devices=1)
    pair.wait_for_checkpoint(folder, after=0)
    pair.processes[1].kill()
    began = time.monotonic()
    assert pair.wait(HEARTBEAT_SECONDS + 30)[0] not in (0, None), pair.told()
    assert time.monotonic() - began < HEARTBEAT_SECONDS + 15
    assert f"python -m train --resume {folder}" in pair.told()[0]
    assert not (folder / "summary.json").exists()


@pytest.mark.soak
def test_kills_end_as_an_undisturbed_run(tmp_path, begin, time_left):
    undisturbed, killed, log = tmp_path / "undisturbed", tmp_path / "killed", tmp_path / "log"
    process = begin(log, *ENDLESS, "--out", str(undisturbed))
    process.join()
    assert process.exitcode == 0, log.read_text()

    draw, reached = random.Random(4), 0
    command = [*ENDLESS, "--out", str(killed)]
    for kill in range(KILLS):
        if not time_left():
            break
        process = begin(log, *command, OFTEN)
        # One in four early, while it reads, compiles or restores; the others within their first saves.
        saves, patience = draw.randint(1, 4), draw.uniform(0.0, 2.0) if kill % 4 == 3 else math.inf
        began = time.monotonic()
        while time.monotonic() - began < patience and newest(killed) < reached + EVERY * saves:
            assert process.is_alive(), log.read_text()
            time.sleep(0.003)
        time.sleep(draw.uniform(0.0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, log.read_text()
        assert not re.search("error|damaged", log.read_text())
        # Never behind where a life before was, by the completed checkpoints.
        assert reached <= newest(killed) < STEPS
        reached = newest(killed)
        command = ["--resume", str(killed)] if (killed / "config.json").exists() else command
    process = begin(log, *command)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert same_parameters(killed, undisturbed)
    assert metrics(killed) == metrics(undisturbed)
    assert len(metrics(killed)) == math.ceil(STEPS / math.ceil(1442 / 64))
