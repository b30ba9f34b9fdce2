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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.data.decode import decode
from train.data.packages import missing
from train.data.split import Dataset, Skipped, Split, held_out
from train.data.walk import NO_IMAGE, composed, is_image, is_run, walk_images
from train.errors import UserError

OUTSIDE = "in no class folder"
# What a test split may be called, first choice first.
TEST_NAMES = ("test", "validation", "val", "valid")


def load(folder: Path, image_size: int | None, validation_share: float) -> Dataset:
    """Find, check and decode every image. One that cannot be read is left out and named in ``skipped``.

    Args:
        folder: as above.
        image_size: scale every image to a square of this side; ``None`` if all have one size already.
        validation_share: the part of each class that becomes the test split, where that has no folder.

    Raises:
        UserError: Pillow is missing; fewer than two classes; a class without images to train on; test images of
            unknown classes; images of several sizes without ``image_size``; or more than half of them unreadable.
    """
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing("pillow", str(folder)) from error
    classes, parts, loose = _find(folder, validation_share)
    (train, test), skipped = decode(str(folder), parts, image_size)
    skipped += loose
    _check_every_class(str(folder), classes, train, skipped)
    return Dataset(train, test, classes, tuple(skipped))


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


def _find(folder: Path, validation_share: float) -> tuple[tuple[str, ...], tuple[_Files, _Files], list[Skipped]]:
    """The classes, the files of the train and the test split, and what is passed over."""
    if not folder.is_dir():
        raise UserError(f"--data {folder}: is a file, expected a folder of class folders of images; unpack an archive")
    skipped: list[Skipped] = []
    inside = _folders(folder)
    splits = _splits(folder, inside)
    train = splits.get("train")
    test = next((splits[name] for name in TEST_NAMES if name in splits and _folders(splits[name])), None)
    # A folder called train may also be a class among others: it then holds images, beside no test folder.
    if train is None or not _folders(train) or (test is None and any(_is_outside(skip) for skip in _loose(train))):
        train, test = folder, None
    elif test is not None:
        beside = [path for path in inside.values() if path not in (train, test)]
        skipped += [Skipped(str(path), f"beside {train.name} and {test.name}, not read") for path in beside]

    classes = _classes(train)
    files = _files(_folders(train, skipped), classes, skipped)
    skipped += _loose(train)
    if test is None:
        aside = held_out(files.labels, validation_share)
        return classes, (files.take(~aside), files.take(aside)), skipped
    strange = sorted(set(_folders(test)) - set(classes))
    if strange:
        raise UserError(
            f"--data {folder}: {test} has {len(strange)} class folders that {train} does not have "
            f"({', '.join(strange[:3])}{', …' if len(strange) > 3 else ''}), expected the same classes. "
            f"To train on the classes of {train.name} and hold a part of their images out: --data {train}. To train on "
            "all of them: put the class folders into one folder"
        )
    held = _files(_folders(test, skipped), classes, skipped)
    return classes, (files, held), [*skipped, *_loose(test)]


def _splits(folder: Path, inside: dict[str, Path]) -> dict[str, Path]:
    """The folders that may be splits by their names in small letters."""
    found: dict[str, Path] = {}
    for name, path in inside.items():
        if name.casefold() in ("train", *TEST_NAMES) and found.setdefault(name.casefold(), path) != path:
            raise _twice(folder, found[name.casefold()], path, "split")
    return found


def _twice(folder: Path, one: Path, other: Path, what: str) -> UserError:
    return UserError(
        f"--data {folder}: has both {one.name} and {other.name}, which may be one {what}'s images in two folders or "
        "two versions of them; put them into one folder, or move one away"
    )


def _classes(folder: Path) -> tuple[str, ...]:
    classes = tuple(_folders(folder))
    if len(classes) >= 2:
        return classes
    loose = sum(map(_is_outside, _loose(folder)))
    raise UserError(
        f"--data {folder}: holds {f'one class folder ({classes[0]})' if classes else 'no class folders'}"
        f"{f' and {loose} images outside of one' if loose else ''}, expected at least two folders, one a class, with "
        f"the class's images in it: {folder}/cat/1.jpg, {folder}/dog/1.jpg, …"
    )


def _files(folders: dict[str, Path], classes: tuple[str, ...], skipped: list[Skipped]) -> _Files:
    def passed(path: str, reason: str) -> None:
        skipped.append(Skipped(path, reason))

    paths, labels = [], []
    for label, name in enumerate(classes):
        of_class = [Path(found) for found in walk_images(folders[name], passed)] if name in folders else []
        paths += of_class
        labels += [label] * len(of_class)
    return _Files(paths, np.array(labels, np.int32))


def _folders(folder: Path, skipped: list[Skipped] | None = None) -> dict[str, Path]:
    """The folders in a folder by name, sorted, but for those of runs; links to folders are folders."""
    found: dict[str, Path] = {}
    for path in _entries(folder):
        if not path.is_dir():
            continue
        if _of_runs(path):
            if skipped is not None:
                skipped.append(Skipped(str(path), "of runs, no class"))
        elif found.setdefault(composed(path.name), path) != path:
            raise _twice(folder, found[composed(path.name)], path, "class")
    return dict(sorted(found.items()))


def _of_runs(folder: Path) -> bool:
    """Whether a folder is a run's, or one of runs, by its first entries: there may be a million."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        return is_run(folder) or any(is_run(entry.path) for entry in itertools.islice(entries, 64) if entry.is_dir())
    return False


def _loose(folder: Path) -> list[Skipped]:
    """The files beside the class folders."""
    beside = [path for path in _entries(folder) if not path.is_dir()]
    return [Skipped(str(path), OUTSIDE if is_image(path) else NO_IMAGE) for path in beside]


def _is_outside(skip: Skipped) -> bool:
    return skip.reason == OUTSIDE


def _entries(folder: Path) -> list[Path]:
    """What is in a folder and not hidden, sorted."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(
            f"--data {folder}: cannot be listed ({error.strerror}), expected a folder of folders"
        ) from error


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
