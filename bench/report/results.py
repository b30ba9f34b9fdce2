"""The result files as a report reads them: what is missing or damaged is said, and stops nothing."""

import fnmatch
import functools
import json
from collections.abc import Callable
from pathlib import Path

from bench.report import origin
from bench.report.age import age as known_age
from bench.report.measures import paths_of
from bench.report.words import ENGLISH, LANGUAGES, Language

AGE = "- Age: "
AGES = tuple(say(AGE) for say in LANGUAGES)
"""What a line on the age of a result begins with. These lines alone depend on more than the result files."""


class Unreadable(Exception):
    """A result file is missing or is not what its name says; the message names it and the way out."""


class Results:
    """A folder of result files.

    Args:
        folder: of the files.
        age: what to say of a revision and the paths that were measured; none: ``bench.report.age.age``.
        say: the language in which what is read is told.
    """

    def __init__(
        self, folder: Path, age: Callable[[str | None, tuple[str, ...]], str] | None = None, say: Language = ENGLISH
    ):
        self.folder, self.say = folder, say
        self._age = functools.partial(known_age, say=say) if age is None else age

    def names(self, pattern: str = "*.json") -> list[str]:
        """Files whose names match, sorted."""
        return sorted(path.name for path in self.folder.glob("*.json") if fnmatch.fnmatchcase(path.name, pattern))

    def read(self, name: str) -> dict:
        """The file of this name. Raises ``Unreadable``."""
        try:
            data = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise Unreadable(self.say("`results/{name}` is missing", name=name)) from None
        except (OSError, ValueError) as error:
            raise Unreadable(self._damaged(name, error)) from None
        if not isinstance(data, dict):
            raise Unreadable(self._damaged(name, f"expected an object, got {_kind(data)}"))
        return data

    def told(self, name: str, render: Callable[[dict, Language], str]) -> str:
        """What ``render`` makes of a file, in the language. Raises ``Unreadable``."""
        data, say = self.read(name), self.say
        try:
            return render(data, say)
        except KeyError as error:
            told = say("`results/{name}` lacks {what}, measure it again", name=name, what=error)
            raise Unreadable(told) from None
        except (TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
            told = "`results/{name}` does not hold what is read here, measure it again: {error}"
            raise Unreadable(say(told, name=name, error=error)) from None

    def part(self, name: str, render: Callable[[dict, Language], str]) -> str:
        """What ``render`` makes of a file, and where the file comes from."""
        try:
            text = self.told(name, render)
            about = self.told(name, lambda data, say: "\n".join(origin.lines(name, data, say) + self._ages(name, data)))
        except Unreadable as problem:
            return self.say("**Not shown**: {problem}.", problem=problem)
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
            self.say(AGE)
            + self.say(
                "{name} at revision {revision}: {age}.",
                name=name,
                revision=origin.short(revision, self.say),
                age=self._age(revision, paths_of(name)),
            )
            for revision in revisions
        ]

    def _damaged(self, name: str, error) -> str:
        return self.say("`results/{name}` is damaged, measure it again: {error}", name=name, error=error)


def _kind(data) -> str:
    return {list: "an array", str: "a string", type(None): "null"}.get(type(data), "a number")
