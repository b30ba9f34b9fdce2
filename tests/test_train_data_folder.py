"""A folder of class folders: which images make which split, and every way in which people get it wrong."""

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_train_data_images import spoilt

from train import data
from train.data import store
from train.errors import UserError


def fill(folder: Path, classes: dict[str, int], size=(6, 5), mode="RGB", ending="png"):
    """Flat images, each of a level of its own: 10 times the class's place in the alphabet plus the image's number."""
    for place, name in enumerate(sorted(classes)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(classes[name]):
            level = 10 * place + number
            colour = level if mode == "L" else (level, 0, 255)
            Image.new(mode, size, colour).save(folder / name / f"{number:02}.{ending}")
    return folder


def levels(split):
    return split.images[:, 0, 0, 0].tolist()


def test_class_folders_alone_are_divided_every_tenth_of_each_class(tmp_path):
    fill(tmp_path, {"dog": 10, "cat": 10, "emu": 5})
    got = data.load(str(tmp_path), "test")
    assert got.class_names == ("cat", "dog", "emu")
    assert got.num_classes == 3
    assert got.skipped == ()
    assert "3 of 25 images, a tenth of each class, are set aside and called test" in got.note
    # The tenth of cat and dog, the last of emu: their levels say so.
    assert levels(got.test) == [9, 19, 24]
    assert levels(got.train) == [n for n in range(25) if n not in (9, 19, 24)]
    assert got.test.labels.tolist() == [0, 1, 2]
    assert got.train.images.shape == (22, 5, 6, 3)
    assert got.train.images.dtype == np.uint8
    assert got.train.labels.dtype == np.int32


@pytest.mark.parametrize("test", ["test", "validation", "val", "valid", "Test"])
def test_folders_train_and_test(tmp_path, test):
    fill(tmp_path / "train", {"a": 10, "b": 9})
    fill(tmp_path / test, {"b": 2})
    (tmp_path / "annotations").mkdir()
    got = data.load(str(tmp_path), "test")
    assert [skip.path for skip in got.skipped] == [str(tmp_path / "annotations")]
    assert got.class_names == ("a", "b")
    assert levels(got.train) == [*range(10), *range(10, 19)]
    assert levels(got.test) == [0, 1]
    assert got.note == ""
    assert got.test.labels.tolist() == [1, 1]
    # Validation is a part of train, and the test images are left alone.
    held = data.load(str(tmp_path), "validation")
    assert levels(held.test) == [9, 18]
    assert sorted(levels(held.train) + levels(held.test)) == levels(got.train)


def test_the_test_folder_goes_before_the_validation_folder_and_unlabelled_ones_are_passed_over(tmp_path):
    fill(tmp_path / "train", {"a": 3, "b": 3})
    fill(tmp_path / "val", {"a": 2})
    fill(tmp_path / "test", {"": 4})
    assert len(data.load(str(tmp_path), "test").test) == 2
    fill(tmp_path / "test", {"b": 1})
    got = data.load(str(tmp_path), "test")
    assert len(got.test) == 1
    assert [skip.reason for skip in got.skipped] == ["beside train and test, not read", *["in no class folder"] * 4]


def test_images_deeper_in_a_class_folder_links_to_class_folders_and_a_class_called_train(tmp_path):
    fill(tmp_path / "traffic", {"bus": 4, "train": 4})
    assert data.load(str(tmp_path / "traffic"), "test").class_names == ("bus", "train")
    fill(tmp_path / "store", {"x": 3})
    fill(tmp_path / "set" / "n01", {"images": 3})
    (tmp_path / "set" / "n02").symlink_to(tmp_path / "store" / "x")
    got = data.load(str(tmp_path / "set"), "test")
    assert got.class_names == ("n01", "n02")
    assert np.bincount(np.concatenate([got.train.labels, got.test.labels])).tolist() == [3, 3]


def test_grey_images_have_one_channel_unless_one_is_coloured(tmp_path):
    fill(tmp_path, {"a": 3, "b": 3}, mode="L")
    grey = data.load(str(tmp_path), "test")
    assert grey.train.images.shape[3] == 1
    assert levels(grey.test) == [2, 12]
    Image.new("RGB", (6, 5), (1, 2, 3)).save(tmp_path / "b" / "colour.png")
    mixed = data.load(str(tmp_path), "test")
    assert mixed.train.images.shape[3] == 3


def test_images_of_several_sizes_or_large_ones_are_scaled_which_is_told(tmp_path):
    fill(tmp_path, {"a": 4}, size=(6, 5))
    fill(tmp_path, {"a": 4, "b": 4}, size=(9, 5), ending="bmp")
    got = data.load(str(tmp_path), "test")
    assert got.train.images.shape[1:] == (32, 32, 3)
    for part in ("--image-size", "6x5", "9x5", "32x32", "2 of 12 images"):
        assert part in got.note
    got = data.load(str(tmp_path), "test", image_size=8)
    assert got.train.images.shape[1:] == (8, 8, 3)
    assert Counter(levels(got.train) + levels(got.test)) == Counter([0, 1, 2, 3, 0, 1, 2, 3, 10, 11, 12, 13])
    for side, expected in ((64, 64), (65, 32)):
        fill(tmp_path / str(side), {"a": 2, "b": 2}, size=(side, 5))
        got = data.load(str(tmp_path / str(side)), "test")
        assert (got.train.images.shape[2], "scaled" in got.note) == (expected, side == 65)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_mixture_of_all_bad_kinds_loads_with_the_right_counts_and_names(tmp_path, monkeypatch, mapped):
    if mapped:  # into a file, where memory is short
        monkeypatch.setattr(store, "available_memory", lambda: 0)
    fill(tmp_path, {"a": 10, "b": 10})
    reasons = spoilt(tmp_path / "a")
    # Formats that differ from their names, or are converted, are no reason to leave an image out.
    Image.new("RGBA", (6, 5), (20, 0, 255, 255)).save(tmp_path / "b" / "alpha.png")
    Image.new("CMYK", (6, 5)).save(tmp_path / "b" / "print.jpg")
    Image.new("P", (6, 5)).save(tmp_path / "b" / "palette.gif")
    Image.new("L", (6, 5), 30).save(tmp_path / "b" / "misnamed.gif", "PNG")
    (tmp_path / "b" / "notes.txt").write_text("not looked at")
    Image.new("RGB", (6, 5)).save(tmp_path / "loose.png")
    got = data.load(str(tmp_path), "test", image_size=5)

    assert isinstance(got.train.images, np.memmap) == isinstance(got.test.images, np.memmap) == mapped
    both = np.concatenate([got.train.labels, got.test.labels])
    assert np.bincount(both).tolist() == [10, 14]
    # Rows moved up over the gaps keep their labels.
    for split in (got.train, got.test):
        of_a = [level for level, label in zip(levels(split), split.labels, strict=True) if label == 0]
        assert of_a == sorted(of_a)
        assert set(of_a) <= set(range(10))
    found = {Path(skip.path).name: skip.reason for skip in got.skipped}
    assert set(found) == {*reasons, "loose.png", "notes.txt"}
    assert len(got.skipped) == len(reasons) + 2
    for name, reason in reasons.items():
        assert reason in found[name]
    json.dumps([vars(skip) for skip in got.skipped])


def test_runs_are_no_class(tmp_path):
    fill(tmp_path / "set", {"a": 4, "b": 4})
    for name in ("config.json", "lock", "figure.png"):
        (tmp_path / "set" / "runs" / "first").mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / "runs" / "first" / name).write_text("{}")
    got = data.load(str(tmp_path / "set"), "test")
    assert got.class_names == ("a", "b")
    assert len(got.train) + len(got.test) == 8
    assert [(Path(skip.path).name, skip.reason) for skip in got.skipped] == [("runs", "of runs, no class")]


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    fill(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "a" / "secret").mkdir()
    scandir = os.scandir

    def refuse(folder):  # chmod does not keep a superuser out
        if Path(folder).name == "secret":
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    got = data.load(str(tmp_path), "test")
    assert [(skip.path, skip.reason) for skip in got.skipped] == [
        (str(tmp_path / "a" / "secret"), "a folder that cannot be listed, or is called as an image")
    ]


def test_classes_without_images_and_folders_without_classes(tmp_path):
    fill(tmp_path / "set", {"a": 4, "b": 4, "c": 0})
    for spoilt_file, message in [
        (None, r"image to train on in 1 of 3 class folders \(c\)"),
        ("x.png", r"x\.png: empty"),
    ]:
        if spoilt_file:
            (tmp_path / "set" / "c" / spoilt_file).write_text("")
        with pytest.raises(UserError, match=message):
            data.load(str(tmp_path / "set"), "test")
    for number in range(20):
        (tmp_path / "set" / "b" / f"x{number}.png").write_text("no image")
    with pytest.raises(UserError, match=r"(?s)of \d+ images cannot be read.*x\d+.png: not an image"):
        data.load(str(tmp_path / "set"), "test")
    shutil.rmtree(tmp_path / "set")
    with pytest.raises(UserError, match=r"holds no class folders, expected at least two.*cat/1\.jpg"):
        data.load(str(tmp_path), "test")
    Image.new("RGB", (6, 5)).save(tmp_path / "loose.png")
    with pytest.raises(UserError, match="no class folders and 1 images outside"):
        data.load(str(tmp_path), "test")
    fill(tmp_path, {"only": 4})
    with pytest.raises(UserError, match=r"one class folder \(only\)"):
        data.load(str(tmp_path), "test")
    fill(tmp_path / "single", {"a": 1, "b": 1})
    with pytest.raises(UserError, match=r"2 images to train on and 0 to evaluate on.*one in ten is set aside"):
        data.load(str(tmp_path / "single"), "test")
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"is a file, expected a folder.*unpack"):
        data.load(str(tmp_path / "images.zip"), "test")


def test_few_shot_splits_have_classes_of_their_own(tmp_path):
    fill(tmp_path / "train", {"a": 10, "b": 10})
    fill(tmp_path / "test", {"c": 10, "d": 10})
    with pytest.raises(UserError, match=r"2 class folders that .*train does not have \(c, d\)") as error:
        data.load(str(tmp_path), "test")
    assert f"--data {tmp_path / 'train'}" in str(error.value)
    alone = data.load(str(tmp_path / "train"), "test")  # the way out that it names
    assert alone.class_names == ("a", "b")
    assert levels(alone.test) == [9, 19]
