"""Splits, the order of batches, where decoded images are kept, and what is said when a data set is not there."""

import itertools
import json
import os
import re
import sys
import tempfile
import threading

import numpy as np
import pytest

from train import data
from train.__main__ import main
from train.data import store
from train.data.split import held_out
from train.errors import UserError

SEED, BATCH = 3, 8


def test_digits_are_whole_and_divided_by_class():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digits, held = data.load("digits", "test"), data.load("digits", "validation")
    assert digits.class_names == tuple("0123456789")
    assert digits.num_classes == 10
    assert digits.train.images.shape[1:] == (8, 8, 1)
    assert digits.train.images.dtype == np.uint8
    np.testing.assert_allclose(np.bincount(digits.test.labels) / np.bincount(bunch.target), 0.2, atol=0.01)
    # Every image is in one of the two, with its label, and 0..16 maps to 0..255 in order.
    levels = np.round(bunch.images / 16 * 255).astype(np.uint8)
    key = lambda image, label: (image.tobytes(), int(label))  # noqa: E731
    both = (digits.train, digits.test)
    got = [key(i, t) for split in both for i, t in zip(split.images, split.labels, strict=True)]
    assert sorted(got) == sorted(map(key, levels, bunch.target))
    # Validation is a tenth of train, and never a test image.
    assert len(held.train) + len(held.test) == len(digits.train)
    assert 0.08 < len(held.test) / len(digits.train) < 0.1
    known = {image.tobytes() for image in digits.train.images}
    assert all(image.tobytes() in known for image in held.test.images)
    # Enlarged and not another: four pixels make about the pixel that they came from.
    large = data.load("digits", "test", image_size=16).train.images
    means = large.reshape(-1, 8, 2, 8, 2, 1).mean((2, 4))
    assert np.corrcoef(means.ravel(), digits.train.images.ravel())[0, 1] > 0.97


def test_a_fingerprint_tells_every_pixel_label_and_order():
    rng = np.random.default_rng(0)

    def dataset():
        parts = [
            (rng.integers(0, 256, (count, 3, 3, 1), np.uint8), rng.integers(0, 4, count)) for count in (5000, 3000)
        ]
        return data.Dataset(*(data.Split(images, labels.astype(np.int32)) for images, labels in parts), tuple("abcd"))

    given = dataset()
    recorded = data.fingerprint(given)
    assert recorded == json.loads(json.dumps(recorded))
    assert data.differences(given, recorded) == []
    for split in (given.train, given.test):
        for array, name in ((split.images, "all_pixels"), (split.labels, "all_labels")):
            before = array.copy()
            array[2717] ^= 1
            assert [each.split()[0] for each in data.differences(given, recorded)] == [name]
            array[:] = before[::-1]
            assert [each.split()[0] for each in data.differences(given, recorded)] == [name]
            array[:] = before
    assert data.differences(given, recorded) == []


@pytest.mark.parametrize("every", [10, 3])
def test_every_nth_of_a_class_is_held_out_and_the_last_of_fewer(every):
    labels = np.repeat(np.arange(4, dtype=np.int32), [100, 37, 1, 2])
    aside = held_out(labels, every)
    for label, count in enumerate((100, 37, 1)):
        assert np.cumsum(aside[labels == label]).tolist() == [k // every for k in range(1, count + 1)]
    assert aside[labels == 3].tolist() == [False, True]


@pytest.fixture
def split():
    """29 images, so that the fourth batch of 8 of an epoch lacks 3; each image is its own label."""
    return data.Split(np.arange(29, dtype=np.uint8).reshape(29, 1, 1, 1), np.arange(29, dtype=np.int32))


def labels(batches):
    return [batch_labels.tolist() for _, batch_labels in batches]


def run(split, start, stop, seed=SEED, **options):
    return labels(data.train_batches(split, BATCH, seed=seed, start_step=start, stop_step=stop, **options))


def test_a_run_visits_its_epochs_one_after_the_other_and_resumes_at_any_step(split):
    orders = [np.random.default_rng((SEED, epoch)).permutation(29) for epoch in (1, 2, 3)]
    expected = np.concatenate([[*order, *order[:3]] for order in orders]).reshape(12, BATCH).tolist()
    assert len({tuple(batch) for batch in expected}) == 12, "every epoch has an order of its own"
    assert run(split, 0, 12) == expected
    assert run(split, 0, 12, seed=SEED + 1) != expected
    for start in range(1, 8):
        assert run(split, start, 8) == expected[start:8]
    assert run(split, 5, 5) == run(split, 6, 5) == []
    (few,) = labels(data.train_batches(data.Split(split.images[:3], split.labels[:3]), BATCH, seed=SEED, stop_step=1))
    assert few == [*few[:3], *few[:3], *few[:2]]
    assert set(few) == {0, 1, 2}
    for images, of_batch in data.train_batches(split, BATCH, seed=SEED, stop_step=12):
        assert images.shape == (BATCH, 1, 1, 1)
        assert images.dtype == np.uint8
        assert of_batch.dtype == np.int32
        np.testing.assert_array_equal(images.ravel(), of_batch)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_a_batch_in_pieces(split, count):
    parts = [run(split, 2, 7, process_index=index, process_count=count) for index in range(count)]
    assert [list(itertools.chain(*pieces)) for pieces in zip(*parts, strict=True)] == run(split, 2, 7)


def threads() -> int:
    return sum(thread.name.startswith("ahead") for thread in threading.enumerate())


def test_threads_end_with_the_run_with_a_loop_left_early_and_with_an_error(split):
    assert len(run(split, 0, 40)) == 40
    assert threads() == 0
    batches = data.train_batches(split, BATCH, seed=SEED, stop_step=10**9)
    next(batches)
    assert threads() == 1
    batches.close()
    assert threads() == 0
    assert list(batches) == []
    with pytest.raises(IndexError):
        run(data.Split(split.images[:9], split.labels), 0, 6)
    assert threads() == 0


@pytest.mark.parametrize(("module", "name"), [("tensorflow_datasets", "cifar100"), ("sklearn.datasets", "digits")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, capsys, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["--data", name]) == 2
    assert re.search(rf'the Python package {module} is missing; .* pip install "\.\[train\]"', capsys.readouterr().err)


def test_the_share_decides_between_memory_and_a_file(tmp_path, monkeypatch):
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**20 < store.available_memory() <= total
    monkeypatch.setattr(store, "available_memory", lambda: 1000)
    assert not isinstance(store.allocate((500,)), np.memmap)
    assert isinstance(store.allocate((501,)), np.memmap)
    with pytest.raises(UserError, match=r"(?s)4096\.0 GiB.*TMPDIR.*--image-size"):  # before the first image
        store.allocate((1 << 42,))
    monkeypatch.setattr(store, "available_memory", lambda: 0)
    assert store.allocate((0, 8, 8, 1)).shape == (0, 8, 8, 1)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert store.scratch() == tmp_path
