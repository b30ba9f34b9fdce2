"""Splits, batches, and what is said when a data set is not there."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from train import data
from train.data.split import held_out
from train.errors import UserError


def test_digits_split_is_stratified_disjoint_and_whole():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digits = data.load("digits", None, "test")
    assert digits.train.images.shape[1:] == (8, 8, 1)
    assert digits.train.images.dtype == np.uint8
    assert len(digits.train) + len(digits.test) == len(bunch.target)
    whole = np.bincount(bunch.target)
    np.testing.assert_allclose(np.bincount(digits.test.labels) / whole, 0.2, atol=0.01)
    # Every image is in one of the two, with its label, and 0..16 maps to 0..255 in order.
    key = lambda levels, label: (levels.tobytes(), int(label))  # noqa: E731
    expected = [
        key(np.round(i / 16 * 255).astype(np.uint8), t) for i, t in zip(bunch.images, bunch.target, strict=True)
    ]
    both = (digits.train, digits.test)
    got = [key(i, t) for split in both for i, t in zip(split.images, split.labels, strict=True)]
    assert sorted(got) == sorted(expected)


def test_validation_is_a_tenth_of_train_and_never_a_test_image():
    test = data.load("digits", None, "test")
    held = data.load("digits", None, "validation")
    assert len(held.train) + len(held.test) == len(test.train)
    assert 0.08 < len(held.test) / len(test.train) < 0.1
    known = {image.tobytes() for image in test.train.images}
    assert all(image.tobytes() in known for image in held.test.images)


def test_digits_have_ten_classes_and_can_be_enlarged():
    digits = data.load("digits", None, "test", image_size=16)
    assert digits.class_names == tuple("0123456789")
    assert digits.num_classes == 10
    assert digits.train.images.shape[1:] == (16, 16, 1)
    small = data.load("digits", None, "test")
    np.testing.assert_array_equal(digits.train.labels, small.train.labels)
    # Enlarged and not another: pixels of four make about the pixel that they came from.
    means = digits.train.images.reshape(-1, 8, 2, 8, 2, 1).mean((2, 4))
    assert np.corrcoef(means.ravel(), small.train.images.ravel())[0, 1] > 0.97


def test_every_nth_takes_the_nth_of_each_class():
    labels = np.array([0, 1, 0, 0, 1, 0, 0, 0, 1], np.int32)
    split = data.Split(np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1), labels)
    kept, aside = data.every_nth(split, 3)
    assert aside.images.ravel().tolist() == [3, 7, 8]  # the third and sixth 0, the third 1
    assert kept.images.ravel().tolist() == [0, 1, 2, 4, 5, 6]
    assert aside.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.25, 0.3, 0.07, 0.29, 1 / 3, 0.5, 0.9])
def test_any_share_is_held_out_to_the_image_and_evenly(share):
    labels = np.repeat(np.arange(3, dtype=np.int32), [100, 37, 1])
    aside = held_out(labels, share)
    for label, count in enumerate((100, 37, 1)):
        of_class = aside[labels == label]
        due = [math.floor(k * share + 1e-9) for k in range(count + 1)]
        assert np.cumsum(of_class).tolist() == due[1:]


def test_an_epoch_visits_each_image_at_most_once_in_an_order_of_seed_and_epoch():
    split = data.Split(np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1), np.arange(50, dtype=np.int32))
    orders = {}
    for seed, epoch in [(0, 1), (0, 2), (1, 1)]:
        batches = list(data.batches(split, 8, seed=seed, epoch=epoch))
        assert len(batches) == 6
        for images, labels in batches:
            np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
        orders[seed, epoch] = np.concatenate([labels for _, labels in batches])
        assert len(set(orders[seed, epoch])) == 48
        again = np.concatenate([labels for _, labels in data.batches(split, 8, seed=seed, epoch=epoch)])
        np.testing.assert_array_equal(orders[seed, epoch], again)
    assert len({tuple(order) for order in orders.values()}) == 3


@pytest.mark.parametrize(("n", "size"), [(10, 4), (8, 4), (3, 4), (1, 1)])
def test_padded_batches_hold_every_row_in_order(n, size):
    rows = np.arange(n * 2).reshape(n, 2)
    batches = list(data.padded_batches(rows, size))
    assert all(batch.shape == (size, 2) for batch in batches)
    np.testing.assert_array_equal(np.concatenate(batches)[:n], rows)


def test_cifar10_absent_says_where_it_looked_and_how_to_prepare_it(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "from_environment"))
    with pytest.raises(UserError) as error:
        data.load("cifar10", None, "test")
    message = str(error.value)
    assert str(tmp_path / "from_environment") in message
    for part in ("--data-dir", "TFDS_DATA_DIR", "download_and_prepare()", "file_format='array_record'", "python -c"):
        assert part in message
    with pytest.raises(UserError, match="from_flag"):
        data.load("cifar10", tmp_path / "from_flag", "test")
    assert not any(tmp_path.iterdir()), "looking must not create or download anything"


def test_cifar10_broken_says_so(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    broken = tmp_path / "cifar10" / "3.0.2"
    broken.mkdir(parents=True)
    (broken / "dataset_info.json").write_text("{not json")
    with pytest.raises(UserError, match=r"cannot be read.*prepare it again"):
        data.load("cifar10", tmp_path, "test")


@pytest.mark.parametrize(
    ("module", "name", "package"),
    [("tensorflow_datasets", "cifar100", "tensorflow-datasets"), ("sklearn.datasets", "digits", "scikit-learn")],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, module, name, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError) as error:
        data.load(name, None, "test")
    assert package in str(error.value)
    assert 'pip install ".[train]"' in str(error.value)


def test_heavy_packages_are_imported_only_where_used():
    heavy = ("tensorflow_datasets", "matplotlib", "sklearn")
    code = f"import sys, train.__main__; print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root)}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert out.stdout.strip() == "[]"
    code = (
        f"import sys, train.data; print([m for m in {(*heavy, 'grain', 'PIL', 'psutil', 'jax')} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert out.stdout.strip() == "[]"


def test_cifar10_is_read_whole():
    directory = os.environ.get("TFDS_DATA_DIR")
    if not directory or not any(Path(directory).glob("cifar10/*/dataset_info.json")):
        pytest.skip("no prepared cifar10: TFDS_DATA_DIR does not point to one")
    tfds = pytest.importorskip("tensorflow_datasets")
    cifar = data.load("cifar10", None, "test")
    assert cifar.class_names[:3] == ("airplane", "automobile", "bird")
    assert cifar.skipped == ()
    assert cifar.train.images.shape == (50_000, 32, 32, 3)
    assert cifar.test.images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(cifar.train.labels), np.full(10, 5000))
    source = tfds.data_source("cifar10", split="train", download=False)
    for i in (0, 999, 1000, 49_999):
        np.testing.assert_array_equal(cifar.train.images[i], source[i]["image"])
        assert cifar.train.labels[i] == source[i]["label"]
