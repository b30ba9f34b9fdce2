"""Image files in folders, found one by one in the order of their paths."""

import os
from collections.abc import Iterator
from pathlib import Path

# Only to find files: the format is decided by the content, when a file is read (:mod:`train.data.images`).
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"}
    | {".pbm", ".pgm", ".ppm", ".pnm"}
)


def walk_images(path: str | Path) -> Iterator[str]:
    """The images at a path: itself, or if it is a folder all below it that are named like an image, sorted by the
    parts of their paths.

    Hidden files and folders are passed over, and links to folders are not followed. What is named like an image and
    cannot be one (a folder ``x.png``, a broken link), and a folder that may not be listed, are among the paths, so
    that :func:`train.data.images.read_image` tells the reason. Held in memory are the names in one folder and in those
    above it.
    """
    if not os.path.isdir(path):
        yield str(path)
        return
    open_folders = [_entries("" if str(path) == os.curdir else str(path))]
    while open_folders:
        for found, to_enter in open_folders[-1]:
            if to_enter:
                open_folders.append(_entries(found))
                break
            yield found
        else:
            open_folders.pop()


def find_images(path: Path) -> list[Path]:
    """All of :func:`walk_images`."""
    return [Path(found) for found in walk_images(path)]


def named_like_an_image(name: str) -> bool:
    """Whether a file of that name is taken: by its suffix, and not if it is hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def _entries(folder: str) -> Iterator[tuple[str, bool]]:
    """The entries of a folder that are taken, sorted, and whether each is a folder to enter."""
    names, folders = [], set()
    try:
        with os.scandir(folder or os.curdir) as entries:
            for entry in entries:
                if named_like_an_image(entry.name):
                    names.append(entry.name)
                elif not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    folders.add(entry.name)
    except OSError:
        yield folder or os.curdir, False
        return
    for name in sorted([*names, *folders]):
        yield os.path.join(folder, name), name in folders
