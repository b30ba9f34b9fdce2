"""A run that is cut and resumed: the same numbers to the bit; what is refused or told; a loss that diverges."""

import dataclasses
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trained_runs import metrics, same_parameters, small_digits

from train import data
from train.__main__ import main
from train.commands import train as train_command
from train.config import Config, resolve
from train.plots import run_figures
from train.runs import model_file, resume, run_folder
from train.steps import loop

# 14 batches an epoch, 28 steps; with all that a checkpoint has to hold.
FLAGS = ["--puppeteer=stored", "--width=8", "--batch-size=10", "--epochs=2", "--ema=0.9", "--label-smoothing=0.1"]


def set_up(patch) -> None:
    """Small data, and figures that fail, which ends no run: drawing them would take as long as all the steps."""
    patch.setattr(data, "load", lambda *_, **__: small_digits())
    patch.delattr(run_figures, "draw")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    set_up(monkeypatch)
    # A shell's background jobs begin with SIGINT ignored, which the trainer respects; these tests may be one.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def cut(monkeypatch, step: int, signum=signal.SIGTERM, *, seconds=0.0) -> None:
    """From now on runs are asked to end while they take batch ``step`` (from 1), after ``seconds``."""
    whole = data.train_batches

    def batches(*arguments, start_step, **options):
        for index, batch in enumerate(whole(*arguments, start_step=start_step, **options), start_step + 1):
            if index == step:
                time.sleep(seconds)
                signal.raise_signal(signum)
            yield batch

    monkeypatch.setattr(data, "train_batches", batches)


def same_end(one: Path, other: Path) -> bool:
    assert same_parameters(one, other)
    assert metrics(one) == metrics(other)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    for summary in summaries:
        for name in [name for name in summary if name.endswith("_seconds")] + ["peak_memory_bytes"]:
            del summary[name]
    assert summaries[0] == summaries[1]
    return True


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The run that nothing came in the way of; and one that was ended with its first epoch, with checkpoints every 4
    steps and where it was ended."""
    uncut, ended = (tmp_path_factory.mktemp("runs") / name for name in ("uncut", "ended"))
    with pytest.MonkeyPatch.context() as patch:
        set_up(patch)
        assert main([*FLAGS, "--out", str(uncut)]) == 0
        cut(patch, 14)
        assert main([*FLAGS, "--checkpoint-steps=4", "--out", str(ended)]) == 143
    return uncut, ended


@pytest.fixture
def uncut(made):
    return made[0]


@pytest.fixture
def half_done(tmp_path, made):
    """A copy of the run that was ended."""
    return Path(shutil.copytree(made[1], tmp_path / "run"))


def saved(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in (folder / "checkpoints").iterdir())


def test_cut_again_within_an_epoch_and_in_its_last_step_it_ends_the_same_to_the_bit(
    half_done, monkeypatch, capsys, uncut
):
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    folder = half_done.rename(half_done.with_name("a run"))
    assert 14 <= saved(folder)[-1] <= 14 + loop.AHEAD
    for step, reached in ((20, 20 + loop.AHEAD), (28, 28)):
        with monkeypatch.context() as patch:
            cut(patch, step, signal.SIGINT, seconds=0.5)
            assert main(["--resume", str(folder)]) == 130
        assert f"interrupted; go on with: python -m train --resume '{folder}'" in capsys.readouterr().err
        assert saved(folder)[-1] == reached
        assert not (folder / "summary.json").exists()
    assert main(["--resume", str(folder)]) == 0
    assert same_end(folder, uncut)
    # The time before a cut counts too, of epochs and within one.
    seconds = [json.loads(line)["seconds"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert seconds[1] > 1.0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["train_seconds"] == pytest.approx(sum(seconds), abs=0.01)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_finished_run_is_left_alone_and_missing_files_are_made_again(tmp_path, capsys, uncut, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(uncut, folder)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(data, "load", None)  # not even the data is read
        assert main(["--resume", str(folder)]) == 0
    told = capsys.readouterr()
    assert "is finished" in told.err
    assert "test accuracy" in told.out
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (folder / "summary.json").write_text("{}")
    assert main(["--resume", str(folder)]) == 2
    assert "summary.json: damaged or of another version (Object missing required field" in capsys.readouterr().err
    monkeypatch.setattr(data, "train_batches", lambda *_, **__: (batch for batch in ()))
    for name in ("summary.json", "params.safetensors", "metrics.jsonl"):
        (folder / name).unlink()
    assert main(["--resume", str(folder)]) == 0
    assert run_folder.finished(folder)
    assert same_end(folder, uncut)


def test_what_is_damaged_or_past_the_checkpoint_is_dropped(half_done, uncut, capsys):
    with open(half_done / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "step": 28, "train_loss": 9.9}\n{"epoch": 3, "st')
    (half_done / "config.json.tmp").write_text('{"config": {"da')
    (half_done / "params.safetensors.tmp").write_bytes(b"\x00\x01")
    (half_done / "params.safetensors").unlink()
    *_, before, last = saved(half_done)
    os.truncate(half_done / "checkpoints" / f"{last}.safetensors", 1000)
    assert main(["--resume", str(half_done)]) == 0
    told = capsys.readouterr().err
    assert f"the checkpoint at step {last} is damaged" in told
    assert f"resumed after step {before} of 28" in told
    assert same_end(half_done, uncut)


def test_without_a_good_checkpoint_nothing_is_touched_and_a_run_cut_before_any_starts_again(half_done, uncut, capsys):
    before = (half_done / "params.safetensors").read_bytes()
    for step in saved(half_done):
        os.truncate(half_done / "checkpoints" / f"{step}.safetensors", 0)
    files = lambda: sorted(path.name for path in (half_done / "checkpoints").iterdir())  # noqa: E731
    there, unread = files(), ".*".join(f"at step {step} is damaged" for step in saved(half_done)[::-1])
    for words in (f"no checkpoint can be read .*{unread}", "there is none, though metrics.jsonl tells"):
        assert main(["--resume", str(half_done)]) == 2
        assert re.search(f"{words}.*--start-from", capsys.readouterr().err)
        assert files() == there  # nothing is begun or moved
        assert (half_done / "params.safetensors").read_bytes() == before
        assert len(metrics(half_done)) == 1
        shutil.rmtree(half_done / "checkpoints")
        (half_done / "checkpoints").mkdir()
        there = []
    for name in ("params.safetensors", "metrics.jsonl"):
        (half_done / name).unlink()
    assert main(["--resume", str(half_done)]) == 0
    assert "starting from step 0" in capsys.readouterr().err
    assert same_end(half_done, uncut)


def test_flags_that_contradict_the_run_are_refused_all_by_name(half_done, capsys):
    free = ["--devices", "1", "--checkpoint-steps", "40"]
    assert main(["--resume", str(half_done), "--seed=5", "--batch-size=12", "--measurement.bin=None", *free]) == 2
    error = capsys.readouterr().err
    assert "--batch-size is 10 in the run, got 12; --seed is 0 in the run, got 5; " in error
    assert "--measurement.bin is 0.25 in the run, got None." in error
    assert not any(flag in error for flag in free[::2])
    # What the run has may be said again, and the rest may change.
    same = ["--seed", "0", "--batch-size", "10", "--checkpoint-steps", "40"]
    assert train_command.parse(["--resume", str(half_done), *same]).checkpoint_steps == 40
    assert main(["--resume", str(half_done), "--out", "elsewhere"]) == 2
    assert "no --out or --config with it" in capsys.readouterr().err


def test_a_changed_version_or_data_set_is_refused(half_done, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(resume, "FORMAT", "another")
        assert main(["--resume", str(half_done)]) == 2
    assert "of another version of this program (format puppet-jax model 5" in capsys.readouterr().err

    small = small_digits()
    labels = small.train.labels.copy()
    labels[3] += 1
    other = dataclasses.replace(small, train=data.Split(small.train.images, labels))
    monkeypatch.setattr(data, "load", lambda *_, **__: other)
    assert main(["--resume", str(half_done)]) == 2
    assert "--data digits: not the images that the run began with (all_labels " in capsys.readouterr().err


def test_a_folder_that_is_no_run_of_this_version_is_refused_and_one_cut_early_used_again(tmp_path, capsys):
    damaged = (None, "", "{}", '{"config": {"momentum": 1}}', "[1]", "\x00\xff")
    for content in damaged:
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        assert main(["--resume", str(tmp_path)]) == 2
        assert "config.json" in capsys.readouterr().err
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json.tmp").write_text('{"con')
    with run_folder.created(resolve(Config(out=tmp_path)), {}):
        assert {path.name for path in tmp_path.iterdir()} == {run_folder.LOCK, "config.json"}


def test_two_processes_do_not_train_in_one_folder(half_done, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with run_folder.created(resolve(Config()), {"of": 1}) as one, run_folder.created(resolve(Config()), {}) as other:
        assert one != other
    with run_folder.locked(half_done):
        assert main(["--resume", str(half_done)]) == 2
        assert "another process trains" in capsys.readouterr().err


def test_ctrl_c_before_the_first_step_ends_with_130(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "measure", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    assert main([*FLAGS, "--out", str(tmp_path / "run")]) == 143
    assert "--resume" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_counted_and_some_are_named(tmp_path, monkeypatch, capsys):
    bad = tuple(data.Skipped(f"cats/{i}.png", "truncated") for i in range(7))
    monkeypatch.setattr(data, "load", lambda *_, **__: dataclasses.replace(small_digits(), skipped=bad))
    config, dataset = train_command.prepare(resolve(Config(out=tmp_path / "run")))
    told = capsys.readouterr().err
    assert "left out 7, of which no image was read:\n  cats/0.png: truncated\n" in told
    assert told.endswith("  cats/4.png: truncated\n  and 2 more\n")
    assert run_folder.describe(config, dataset, {})["skipped_images"] == 7


def test_a_loss_that_is_no_number_ends_with_code_1_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, capsys):
    whole = loop.make_optimiser

    def breaks_at_step_7(config, steps):
        # A learning rate that jumps: the parameters are lost in step 7, so that the loss of step 8 is no number.
        jump = optax.scale_by_schedule(lambda k: jnp.where(k == 6, jnp.inf, 1.0))
        return optax.chain(whole(config, steps), jump)

    monkeypatch.setattr(loop, "make_optimiser", breaks_at_step_7)
    folder = tmp_path / "run"
    # Resumed, it comes to the same end.
    for command in ([*FLAGS[:-2], "--checkpoint-steps=2", "--out", str(folder)], ["--resume", str(folder)]):
        assert main(command) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "not finite at step 8; the last good checkpoint, of step 6, is kept" in error
        assert "--learning-rate" in error
        assert not (folder / "summary.json").exists()
        assert saved(folder)[-2:] == [4, 6]
    arrays, about = model_file.read(folder / "params.safetensors")
    assert about.step == 6
    assert all(np.isfinite(array).all() for array in arrays.values())
