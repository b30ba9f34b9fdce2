"""Two processes on loopback: they train, save, are interrupted and resume as one; one that dies is noticed."""

import os
import signal
import socket
import time

import pytest
from lives import lives, metrics, newest, same_parameters

from train.devices import HEARTBEAT_SECONDS
from train.runs import parameters

FLAGS = ["--puppeteer=stored", "--width=8", "--batch-size=64", "--max-steps=40", "--ema=0.9"]


class Pair:
    """Two processes of one training."""

    def __init__(self, begin, folder, *arguments, second=()):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            where = ["--coordinator", f"localhost:{free.getsockname()[1]}", "--process-count=2"]
        self.logs = [folder.with_name(f"log-{i}") for i in (0, 1)]
        self.processes = [
            begin(log, *arguments, *where, f"--process-id={i}", *(second if i else ()))
            for i, log in enumerate(self.logs)
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


@pytest.fixture
def begin(tmp_path):
    with lives(tmp_path / "programs") as begin:
        yield begin


def test_two_processes_train_are_interrupted_and_resume(tmp_path, begin):
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "run"
    pair = Pair(begin, undisturbed, *FLAGS, "--out", str(undisturbed))
    assert pair.wait() == [0, 0], pair.told()
    assert len(metrics(undisturbed)) == 2
    assert metrics(undisturbed)[-1]["train_loss"] < metrics(undisturbed)[0]["train_loss"]
    # The first writes and speaks for both.
    assert "test accuracy" in pair.told()[0]
    assert "epoch" not in pair.told()[1]

    # A signal to the one that writes nothing ends both, after the same step, which is saved.
    pair = Pair(begin, folder, *FLAGS, "--checkpoint-steps=2", "--out", str(folder))
    pair.wait_for_checkpoint(folder, after=0)
    os.kill(pair.processes[1].pid, signal.SIGTERM)
    assert pair.wait() == [143, 143], pair.told()
    assert f"python -m train --resume {folder}" in pair.told()[0]
    reached = newest(folder)
    assert reached < 40
    assert parameters.load(folder / "params.safetensors")[1]["step"] == reached

    pair = Pair(begin, folder, "--resume", str(folder))
    assert pair.wait() == [0, 0], pair.told()
    assert f"resumed after step {reached} of 40" in pair.told()[0]
    assert same_parameters(folder, undisturbed)
    assert metrics(folder) == metrics(undisturbed)

    # Processes that would compute different things do not begin.
    other = tmp_path / "other"
    pair = Pair(begin, other, *FLAGS, "--out", str(other), second=["--seed=1"])
    codes = pair.wait()
    assert 2 in codes, pair.told()
    assert 0 not in codes
    assert "different configurations" in "".join(pair.told())


@pytest.mark.soak
def test_a_death_is_noticed_within_the_time_that_is_promised(tmp_path, begin):
    folder = tmp_path / "run"
    pair = Pair(begin, folder, *FLAGS[:-2], "--epochs=500", "--checkpoint-steps=3", "--out", str(folder))
    pair.wait_for_checkpoint(folder, after=0)
    pair.processes[1].kill()
    began = time.monotonic()
    assert pair.wait(HEARTBEAT_SECONDS + 30)[0] not in (0, None), pair.told()
    assert time.monotonic() - began < HEARTBEAT_SECONDS + 15
    assert f"python -m train --resume {folder}" in pair.told()[0]
    assert not (folder / "summary.json").exists()
