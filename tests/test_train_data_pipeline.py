"""The batches of a run: the same whoever asks, from wherever, and no thread left behind."""

import itertools
import sys
import threading
import time

import numpy as np
import pytest

from train import data
from train.errors import UserError

SEED, BATCH = 3, 8


@pytest.fixture
def split():
    """29 images, so that 5 are left over in an epoch of 3 batches of 8; each image is its own label."""
    return data.Split(np.arange(29, dtype=np.uint8).reshape(29, 1, 1, 1), np.arange(29, dtype=np.int32))


def labels(batches):
    return [batch_labels.tolist() for _, batch_labels in batches]


def run(split, start, stop, **options):
    return labels(data.train_batches(split, BATCH, seed=SEED, start_step=start, stop_step=stop, **options))


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain")]


def wait_for_no_threads():
    until = time.monotonic() + 5
    while threads() and time.monotonic() < until:
        time.sleep(0.01)
    return not threads()


def test_a_run_is_its_epochs_one_after_the_other(split):
    expected = [batch for epoch in (1, 2, 3, 4) for batch in labels(data.batches(split, BATCH, seed=SEED, epoch=epoch))]
    assert run(split, 0, 12) == expected
    assert len({tuple(batch) for batch in expected}) == 12, "every epoch has an order of its own"
    for images, of_batch in data.train_batches(split, BATCH, seed=SEED, stop_step=12):
        assert images.shape == (BATCH, 1, 1, 1)
        assert images.dtype == np.uint8
        assert of_batch.dtype == np.int32
        np.testing.assert_array_equal(images.ravel(), of_batch)


@pytest.mark.parametrize("start", range(8))
def test_resumed_at_any_step_the_rest_is_the_same(split, start):
    assert run(split, start, 8) == run(split, 0, 8)[start:]


def test_seed_decides(split):
    other = labels(data.train_batches(split, BATCH, seed=SEED + 1, stop_step=3))
    assert run(split, 0, 3) != other


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_a_batch_in_pieces(split, count):
    parts = [run(split, 2, 7, process_index=index, process_count=count) for index in range(count)]
    joined = [list(itertools.chain(*pieces)) for pieces in zip(*parts, strict=True)]
    assert joined == run(split, 2, 7)


def test_no_steps_no_batches(split):
    assert run(split, 5, 5) == []
    assert run(split, 6, 5) == []


def test_threads_end_with_the_run_and_with_a_loop_left_early(split):
    for _ in data.train_batches(split, BATCH, seed=SEED, stop_step=40):
        assert threads(), "batches are made by a thread"
    assert wait_for_no_threads()

    batches = data.train_batches(split, BATCH, seed=SEED, stop_step=10**9)
    next(batches)
    assert threads()
    batches.close()
    assert wait_for_no_threads()
    assert list(batches) == []

    for _ in data.train_batches(split, BATCH, seed=SEED, stop_step=10**9):
        break
    assert wait_for_no_threads()

    def interrupted():
        for _ in data.train_batches(split, BATCH, seed=SEED, stop_step=10**9):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert wait_for_no_threads()


def test_batches_are_made_ahead_but_not_without_end(split):
    asked = []

    class Watched(np.ndarray):
        def __getitem__(self, rows):
            asked.append(rows)
            return np.asarray(self)[rows]

    watched = data.Split(split.images.view(Watched), split.labels)
    batches = data.train_batches(watched, BATCH, seed=SEED, stop_step=1000)
    next(batches)
    until = time.monotonic() + 5
    while len(asked) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.1)
    batches.close()
    assert 3 <= len(asked) <= 20


def test_an_error_while_a_batch_is_made_reaches_the_loop(split):
    short = data.Split(split.images[:9], split.labels)
    with pytest.raises(IndexError):
        list(data.train_batches(short, BATCH, seed=SEED, stop_step=6))
    assert wait_for_no_threads()


@pytest.mark.parametrize(("size", "count", "expected"), [(30, 1, "29 training"), (0, 1, "29"), (9, 2, "2 processes")])
def test_batch_sizes_that_cannot_be(split, size, count, expected):
    with pytest.raises(UserError, match=rf"--batch-size: got {size}, expected .*{expected}"):
        data.train_batches(split, size, seed=0, stop_step=1, process_count=count)


def test_grain_missing(split, monkeypatch):
    monkeypatch.setitem(sys.modules, "grain", None)
    with pytest.raises(UserError, match=r"grain.*\[train\]"):
        data.train_batches(split, BATCH, seed=0, stop_step=1)
