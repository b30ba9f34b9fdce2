"""Prepared sets of TensorFlow Datasets, written here record by record, and names that are none."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train import data
from train.data import tensorflow_sets
from train.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")
CLASSES = [f"class {letter}" for letter in "ABCD"]


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """Where prepared sets lie."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))


def png(levels):
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def a_set(rng, *, count=20, size=(5, 6), channels=1, classes=4):
    """Records ``(bytes, label)``: noise, the classes in turn."""
    shape = size if channels == 1 else (*size, channels)
    return [(png(rng.integers(0, 256, shape).astype(np.uint8)), row % classes) for row in range(count)]


def prepare(directory: Path, name: str, splits: dict, *, shape, version="1.0.0", config=None, **features):
    """What ``download_and_prepare`` leaves: records of tf.train.Example and files that describe them."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2

    folder = directory.joinpath(name, *([config] if config else []), version)
    folder.mkdir(parents=True)
    described = []
    for split, records in splits.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for raw, number in records:
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(raw)
            example.features.feature["label"].int64_list.value.append(number)
            writer.write(example.SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        sizes = {"numBytes": str(path.stat().st_size), "shardLengths": [str(len(records))]}
        described.append({"name": split, "filepathTemplate": template, **sizes})
    info = {"fileFormat": "array_record", "name": name, "version": version, "splits": described}
    (folder / "dataset_info.json").write_text(json.dumps(info | ({"configName": config} if config else {})))
    usual = {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(names=CLASSES)}
    tfds.features.FeaturesDict(usual | features).save_config(folder)
    return folder


def decoded(records):
    images = np.stack([np.asarray(Image.open(io.BytesIO(raw))) for raw, _ in records])
    return images if images.ndim == 4 else images[..., None]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_prepared_set_is_read_whole_in_its_own_splits(tmp_path, rng, channels):
    train, test = (a_set(rng, count=n, channels=channels) for n in (300, 7))
    prepare(tmp_path, "fabric", {"test": test, "train": train}, shape=(5, 6, channels))
    got = data.load("fabric", "test")
    assert got.class_names == tuple(CLASSES)
    for split, records in ((got.train, train), (got.test, test)):
        np.testing.assert_array_equal(split.images, decoded(records))
        assert split.labels.tolist() == [label for _, label in records]
    assert got.skipped == ()


def test_validation_stands_in_for_test_and_train_for_both(tmp_path, rng):
    train, held = a_set(rng), a_set(rng, count=6)
    prepare(tmp_path, "fabric", {"train": train, "validation": held}, shape=(5, 6, 1))
    np.testing.assert_array_equal(data.load("fabric", "test").test.images, decoded(held))
    # Test images whose classes are kept secret: -1.
    secret = [(raw, -1) for raw, _ in held]
    prepare(tmp_path, "contest", {"train": train, "validation": held[:3], "test": secret}, shape=(5, 6, 1))
    np.testing.assert_array_equal(data.load("contest", "test").test.images, decoded(held[:3]))
    prepare(tmp_path, "alone", {"train": train}, shape=(5, 6, 1))
    alone = data.load("alone", "test")
    np.testing.assert_array_equal(alone.test.images, decoded(train)[16:])
    np.testing.assert_array_equal(alone.train.images, decoded(train)[:16])
    assert "set aside" in alone.note
    # --evaluate-on validation takes from train, whatever other splits there are.
    got = data.load("fabric", "validation")
    np.testing.assert_array_equal(got.test.images, decoded(train)[16:])


def test_images_of_unstated_size_are_taken_if_all_have_one(tmp_path, rng):
    train, test = a_set(rng, channels=3), a_set(rng, count=4, channels=3)
    prepare(tmp_path, "fabric", {"train": train, "test": test}, shape=(None, None, 3))
    np.testing.assert_array_equal(data.load("fabric", "test").test.images, decoded(test))
    other = a_set(rng, count=1, size=(9, 8), channels=3)
    prepare(tmp_path, "varied", {"train": train, "test": test + other}, shape=(None, None, 3))
    varied = data.load("varied", "test")
    assert varied.test.images.shape == (5, 32, 32, 3)
    assert "from 6x5 to 8x9" in varied.note
    assert data.load("varied", "test", image_size=4).test.images.shape == (5, 4, 4, 3)


def test_a_damaged_record_is_skipped_by_name(tmp_path, rng):
    train = a_set(rng)
    broken = [*train[:6], (train[6][0][:40], 2), *train[7:]]
    prepare(tmp_path, "fabric", {"train": broken, "test": train}, shape=(5, 6, 1))
    got = data.load("fabric", "test")
    assert [skip.path for skip in got.skipped] == ["train[6]"]
    np.testing.assert_array_equal(got.train.images, decoded(train[:6] + train[7:]))
    assert got.train.labels.tolist() == [label for _, label in train[:6] + train[7:]]


def test_versions_configurations_and_sets_of_another_kind(tmp_path, rng):
    for config, count in (("fine", 8), ("coarse", 12)):
        splits = {"train": a_set(rng, count=count), "test": a_set(rng)}
        prepare(tmp_path, "cloth", splits, shape=(5, 6, 1), config=config)
    assert len(data.load("cloth/fine", "test").train) == 8
    with pytest.raises(UserError, match=r"configurations coarse, fine; expected one.*--data cloth/coarse"):
        data.load("cloth", "test")
    floats = tfds.features.Image(shape=(5, 6, 1), dtype=np.float32)
    for name, feature in (("label", tfds.features.Scalar(np.int64)), ("image", floats)):
        splits = {"train": a_set(rng), "test": a_set(rng)}
        prepare(tmp_path, f"other_{name}", splits, shape=(5, 6, 1), **{name: feature})
        with pytest.raises(UserError, match=rf"features .*{name}.*of 8 or 16 bits a channel, and label \(ClassLabel\)"):
            data.load(f"other_{name}", "test")
    for version, count in (("1.9.0", 8), ("1.10.0", 12)):
        splits = {"train": a_set(rng, count=count), "test": a_set(rng)}
        prepare(tmp_path, "fabric", splits, shape=(5, 6, 1), version=version)
    assert len(data.load("fabric", "test").train) == 12


def test_other_features_splits_and_labels_are_named(tmp_path, rng, monkeypatch):
    train = a_set(rng)
    prepare(tmp_path, "secret", {"train": [*train, (train[0][0], -1)], "test": train}, shape=(5, 6, 1))
    with pytest.raises(UserError, match="images without a label in train"):
        data.load("secret", "test")
    folder = prepare(tmp_path, "fabric", {"test": a_set(rng)}, shape=(5, 6, 1))
    with pytest.raises(UserError, match=r"has the splits test, expected one called train"):
        data.load("fabric", "test")
    tfds.features.FeaturesDict({"picture": tfds.features.Image()}).save_config(folder)
    with pytest.raises(UserError, match=r"features .*picture.*expected one image"):
        data.load("fabric", "test")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"tensorflow_datasets is missing.*no folder"):
        data.load("nothing_here", "test")


def test_damaged_files_say_how_to_prepare_the_set_again(tmp_path, rng):
    folder = prepare(tmp_path, "mnist", {"train": a_set(rng), "test": a_set(rng)}, shape=(5, 6, 1))
    (record,) = folder.glob("*train*")
    record.write_bytes(record.read_bytes()[:-70])
    with pytest.raises(UserError, match=r"(?s)cannot be read.*prepare it again.*tfds.builder\('mnist'"):
        data.load("mnist", "test")


@pytest.mark.parametrize("name", ["mnist", "imagenette"])
def test_a_known_set_that_is_not_prepared_says_how(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    with pytest.raises(UserError) as error:
        data.load(name, "test")
    message = str(error.value)
    for part in (f"no prepared {name} in {tmp_path / 'sets'}", f"holds {name}/", f"no folder {tmp_path / name}"):
        assert part in message
    assert f"tfds.builder('{name}', data_dir=r'{tmp_path / 'sets'}'" in message
    assert not any(tmp_path.iterdir()), "looking must not create or download anything"


@pytest.mark.parametrize("name", ["cifar01", "my pictures", "sets/mine", "../there", "~/photos", "no_such_thing"])
def test_a_name_that_is_nothing_is_told_of_both_ways(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        data.load(name, "test")
    for part in (f"--data {name}:", "class folders", "no folder /", "TensorFlow Datasets", tensorflow_sets.CATALOGUE):
        assert part in str(error.value)
    assert ("Did you mean cifar10" in str(error.value)) == (name == "cifar01")


def test_a_prepared_set_goes_before_a_folder_of_its_name(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    for name in ("a", "b"):
        (tmp_path / "fabric" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (3, 3)).save(tmp_path / "fabric" / name / f"{number}.png")
    assert data.load("fabric", "test").class_names == ("a", "b")
    prepare(tmp_path / "sets", "fabric", {"train": a_set(rng), "test": a_set(rng)}, shape=(5, 6, 1))
    assert data.load("fabric", "test").num_classes == 4
    assert data.load("./fabric", "test").class_names == ("a", "b")
