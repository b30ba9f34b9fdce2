"""A folder of class folders of images, the most common form of an image data set.

Either ``FOLDER/class/…/image.jpg``, of which a part of every class becomes the test split; or the same below
``FOLDER/train`` and ``FOLDER/test`` (else ``validation``, ``val`` or ``valid``; capitals do not matter). A class is
named after its folder, and labels follow the order of the names. Images may lie deeper in a class folder. Of several
test folders the first of these names is read; one without class folders, so without labels, is skipped. Hidden files
and folders are passed over; all else that is not read is named in ``skipped``, among it folders of runs.
"""

import contextlib
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from train.data.decode import decode
from train.data.split import Dataset, Skipped, Split, held_out, set_aside
from train.data.walk import NO_IMAGE, is_image, is_run, walk_images
from train.errors import UserError

OUTSIDE = "in no class folder"
# What a test split may be called, first choice first.
TEST_NAMES = ("test", "validation", "val", "valid")


def load(folder: Path, image_size: int | None) -> Dataset:
    """Find, check and decode every image, with the options of :func:`train.data.sets.load`. One that cannot be read is
    left out and named in ``skipped``. Refused are fewer than two classes, a class without images to train on, test
    images of unknown classes, and more than half of them unreadable."""
    classes, parts, loose, note = _find(folder)
    (train, test), skipped, scaled = decode(str(folder), parts, image_size)
    skipped += loose
    _check_every_class(str(folder), classes, train, skipped)
    return Dataset(train, test, classes, tuple(skipped), "\n".join(filter(None, [note, scaled])))


@dataclass(frozen=True)
class _Files:
    """The files of a split, as :class:`train.data.decode.Records`."""

    paths: Sequence[Path]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: range) -> Sequence[tuple[Path, int]]:
        return [(self.paths[row], self.labels[row]) for row in rows]

    def name(self, row: int) -> str:
        return str(self.paths[row])

    def take(self, chosen: np.ndarray) -> "_Files":
        return _Files([self.paths[row] for row in np.flatnonzero(chosen).tolist()], self.labels[chosen])


class _Listing(NamedTuple):
    """What is in a folder and not hidden: the folders by name, and what is no class and why."""

    path: Path
    folders: dict[str, Path]
    others: list[Skipped]

    def loose(self) -> int:
        """How many images lie in the folder itself."""
        return sum(skip.reason == OUTSIDE for skip in self.others)


def _find(folder: Path) -> tuple[tuple[str, ...], tuple[_Files, _Files], list[Skipped], str]:
    """The classes, the files of the train and the test split, what is passed over, and the note."""
    if not folder.is_dir():
        raise UserError(f"--data {folder}: is a file, expected a folder of class folders of images; unpack an archive")
    inside = _list(folder)
    splits: dict[str, Path] = {}
    for name, path in inside.folders.items():
        if name.casefold() in ("train", *TEST_NAMES):
            splits[name.casefold()] = path
    train = _list(splits["train"]) if "train" in splits else inside
    tests = (_list(splits[name]) for name in TEST_NAMES if name in splits)
    test = next((each for each in tests if each.folders), None)
    # A folder called train may also be a class among others: it then holds images, beside no test folder.
    if not train.folders or (test is None and train.loose()):
        train = inside
    if train is inside:
        test = None
    if len(train.folders) < 2:
        holds = f"one class folder ({next(iter(train.folders))})" if train.folders else "no class folders"
        outside = f" and {train.loose()} images outside of one" if train.loose() else ""
        raise UserError(
            f"--data {train.path}: holds {holds}{outside}, expected at least two folders, one a class, with the "
            f"class's images in it: {train.path}/cat/1.jpg, {train.path}/dog/1.jpg, …"
        )
    skipped = list(train.others)
    files = _files(train, train.folders, skipped)
    if test is None:
        aside = held_out(files.labels)
        note = set_aside(int(aside.sum()), len(files))
        return tuple(train.folders), (files.take(~aside), files.take(aside)), skipped, note
    if strange := sorted(set(test.folders) - set(train.folders)):
        raise UserError(
            f"--data {folder}: {test.path} has {len(strange)} class folders that {train.path} does not have "
            f"({', '.join(strange[:3])}{', …' if len(strange) > 3 else ''}), expected the same classes; to train on "
            f"those of {train.path.name} alone: --data {train.path}"
        )
    for path in inside.folders.values():
        if path not in (train.path, test.path):
            skipped.append(Skipped(str(path), f"beside {train.path.name} and {test.path.name}, not read"))
    held = _files(test, train.folders, skipped)
    return tuple(train.folders), (files, held), [*skipped, *test.others], ""


def _list(folder: Path) -> _Listing:
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(
            f"--data {folder}: cannot be listed ({error.strerror}), expected a folder of folders"
        ) from error
    folders: dict[str, Path] = {}
    others = []
    for path in entries:
        if not path.is_dir():
            others.append(Skipped(str(path), OUTSIDE if is_image(path) else NO_IMAGE))
        elif _of_runs(path):
            others.append(Skipped(str(path), "of runs, no class"))
        else:
            folders[path.name] = path
    return _Listing(folder, folders, others)  # links to folders are folders


def _of_runs(folder: Path) -> bool:
    """Whether a folder is a run's, or one of runs, by its first entries: there may be a million."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return is_run(folder) or any(is_run(entry.path) for entry in itertools.islice(entries, 64) if entry.is_dir())
    return False


def _files(listing: _Listing, classes: Iterable[str], skipped: list[Skipped]) -> _Files:
    passed = lambda path, reason: skipped.append(Skipped(path, reason))  # noqa: E731
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = list(walk_images(listing.folders[name], passed)) if name in listing.folders else []
        paths += map(Path, found)
        labels += [label] * len(found)
    return _Files(paths, np.array(labels, np.int32))


def _check_every_class(data: str, classes: tuple[str, ...], train: Split, skipped: list[Skipped]) -> None:
    empty = np.setdiff1d(np.arange(len(classes)), train.labels)
    if len(empty):
        names = ", ".join(classes[label] for label in empty[:5])
        first = f" (first {skipped[0].path}: {skipped[0].reason})" if skipped else ""
        raise UserError(
            f"--data {data}: no readable image to train on in {len(empty)} of {len(classes)} class folders ({names}"
            f"{', …' if len(empty) > 5 else ''}), expected at least one in each; {len(skipped)} images were left "
            f"out{first}. Put images there, or remove the folders"
        )
