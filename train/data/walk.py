"""Image files in folders, found one by one in the order of their paths."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from train.data.images import looks_like_an_image

# Files of these names are images, damaged ones too; any other is one if its content is.
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".avif"}
)
NO_IMAGE, A_RUN, A_LINK = "no image", "the folder of a run", "a link to a folder, not followed"

Passed = Callable[[str, str], None]
"""Told of each file or folder that is passed over, and why."""


def walk_images(path: str | Path, passed: Passed = lambda path, reason: None) -> Iterator[str]:
    """The images at a path: itself, or if it is a folder all below it, sorted by the parts of their paths.

    What is not hidden is either among the paths or told to ``passed``: files that are no image by name or content,
    folders of runs (whose figures are no data), and links to folders. What is named like an image and cannot be one (a
    folder ``x.png``, a broken link), and a folder that may not be listed, are among the paths, so that
    :func:`train.data.images.read_image` tells the reason. Held in memory are the names in one folder and in those above
    it.
    """
    if not os.path.isdir(path):
        yield str(path)
        return
    open_folders = [_entries("" if str(path) == os.curdir else str(path), passed)]
    while open_folders:
        for found, to_enter in open_folders[-1]:
            if to_enter:
                open_folders.append(_entries(found, passed))
                break
            yield found
        else:
            open_folders.pop()


def find_images(path: Path, passed: Passed = lambda path, reason: None) -> list[Path]:
    """All of :func:`walk_images`."""
    return [Path(found) for found in walk_images(path, passed)]


def is_image(path: str) -> bool:
    """Whether a file is taken for an image: by its suffix, else by its content."""
    return os.path.splitext(path)[1].lower() in SUFFIXES or looks_like_an_image(path)


def is_run(folder: str | Path) -> bool:
    """Whether a folder is a run's."""
    has = lambda name: os.path.exists(os.path.join(folder, name))  # noqa: E731
    return has("config.json") and (has("lock") or has("metrics.jsonl"))


def _entries(folder: str, passed: Passed) -> Iterator[tuple[str, bool]]:
    """The entries of a folder that are taken, sorted, and whether each is a folder to enter."""
    names, folders = [], set()
    try:
        with os.scandir(folder or os.curdir) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = os.path.join(folder, entry.name)
                named = os.path.splitext(entry.name)[1].lower() in SUFFIXES
                if not named and entry.is_dir(follow_symlinks=False):
                    if is_run(path):
                        passed(path, A_RUN)
                    else:
                        folders.add(entry.name)
                elif not named and entry.is_dir():
                    passed(path, A_LINK)
                elif is_image(path):
                    names.append(entry.name)
                else:
                    passed(path, NO_IMAGE)
    except OSError:
        yield folder or os.curdir, False
        return
    for name in sorted([*names, *folders]):
        yield os.path.join(folder, name), name in folders
