"""The result files as a report reads them: what is missing or damaged is said, and stops nothing."""

import fnmatch
import json
from collections.abc import Callable
from pathlib import Path

from bench.report import origin
from bench.report.age import age
from bench.report.measures import paths_of

AGE = "- Age: "
"""What a line on the age of a result begins with. These lines alone depend on more than the result files."""


class Unreadable(Exception):
    """A result file is missing or is not what its name says; the message names it and the way out."""


class Results:
    """A folder of result files.

    Args:
        folder: of the files.
        age: what to say of a revision and the paths that were measured, as ``bench.report.age.age``.
    """

    def __init__(self, folder: Path, age: Callable[[str | None, tuple[str, ...]], str] = age):
        self.folder, self._age = folder, age

    def names(self, pattern: str = "*.json") -> list[str]:
        """Files whose names match, sorted."""
        return sorted(path.name for path in self.folder.glob("*.json") if fnmatch.fnmatchcase(path.name, pattern))

    def read(self, name: str) -> dict:
        """The file of this name. Raises ``Unreadable``."""
        try:
            data = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Unreadable(f"`results/{name}` is missing") from None
        except (OSError, ValueError) as error:
            raise Unreadable(f"`results/{name}` is damaged, measure it again: {error}") from None
        if not isinstance(data, dict):
            raise Unreadable(f"`results/{name}` is damaged, measure it again: expected an object, got {_kind(data)}")
        return data

    def part(self, name: str, render: Callable[[dict], str]) -> str:
        """What ``render`` makes of a file, and where the file comes from."""
        try:
            data = self.read(name)
            text = filled(name, render, data)
            about = filled(name, lambda data: "\n".join([*origin.lines(name, data), *self._ages(name, data)]), data)
        except Unreadable as problem:
            return f"**Not shown**: {problem}."
        return "\n\n".join([text, *self._figures(name), about])

    def _figures(self, name: str) -> list[str]:
        """Figures of a file: named as it is, or so with more behind an underscore, where that is no other file's."""
        stem = name.removesuffix(".json")
        found = sorted(path.stem for path in self.folder.glob(f"{stem}*.svg"))
        return [
            f"![{each}](results/{each}.svg)"
            for each in found
            if each == stem or (each.startswith(f"{stem}_") and not (self.folder / f"{each}.json").exists())
        ]

    def _ages(self, name: str, data: dict) -> list[str]:
        revisions = dict.fromkeys(each.revision for each in origin.origins(data))
        return [
            f"{AGE}{name} at revision {origin.short(revision)}: {self._age(revision, paths_of(name))}."
            for revision in revisions
        ]


def filled(name: str, render: Callable[[dict], str], data: dict) -> str:
    """``render(data)``; ``Unreadable`` if the file of this name lacks what it reads."""
    try:
        return render(data)
    except KeyError as error:
        raise Unreadable(f"`results/{name}` lacks {error}, measure it again") from None
    except (TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise Unreadable(f"`results/{name}` does not hold what is read here, measure it again: {error}") from None


def _kind(data) -> str:
    return {list: "an array", str: "a string", type(None): "null"}.get(type(data), "a number")
