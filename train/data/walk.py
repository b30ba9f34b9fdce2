"""Image files in folders, found one by one in the order of their paths."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"}
    | {".pbm", ".pgm", ".ppm", ".pnm", ".avif"}
)
NO_IMAGE, A_RUN, A_LINK = "no image by its ending", "the folder of a run", "a link to a folder, not followed"


def walk_images(path: str | Path, passed: Callable[[str, str], Any] = lambda path, reason: None) -> Iterator[str]:
    """The images at a path: itself, or if it is a folder all below it, sorted by the parts of their paths.

    What is not hidden is either among the paths or told to ``passed``, with the reason: files without an image's
    ending, folders of runs (whose figures are no data), and links to folders. What has an image's ending and cannot be
    one (a folder ``x.png``, a broken link), and a folder that may not be listed, are among the paths, so that
    :func:`train.data.images.read_image` tells the reason.
    """
    if os.path.isdir(path):
        yield from _below("" if str(path) == os.curdir else str(path), passed)
    else:
        yield str(path)


def is_image(path: str | Path) -> bool:
    """Whether a file is taken for an image, by its ending."""
    return os.path.splitext(path)[1].lower() in SUFFIXES


def is_run(folder: str | Path) -> bool:
    """Whether a folder is a run's."""
    found = [os.path.exists(os.path.join(folder, name)) for name in ("config.json", "lock", "metrics.jsonl")]
    return found[0] and any(found[1:])


def _below(folder: str, passed: Callable[[str, str], Any]) -> Iterator[str]:
    names, folders = [], set()
    try:
        with os.scandir(folder or os.curdir) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if entry.name.startswith("."):
                    continue
                if is_image(entry.name):
                    names.append(entry.name)
                elif not entry.is_dir():
                    passed(path, NO_IMAGE)
                elif entry.is_symlink():
                    passed(path, A_LINK)
                elif is_run(path):
                    passed(path, A_RUN)
                else:
                    folders.add(entry.name)
    except OSError:
        yield folder or os.curdir
        return
    for name in sorted([*names, *folders]):
        if name in folders:
            yield from _below(os.path.join(folder, name), passed)
        else:
            yield os.path.join(folder, name)
