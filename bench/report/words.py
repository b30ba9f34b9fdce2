"""What a report says, in a language, and numbers as it writes them.

The code of a report holds its words in English; ``japanese.json`` holds the Japanese ones beside them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path


class Language:
    """Words of one language for the English ones of the code and of the result files.

    Args:
        code: of the language, "en" or "ja"; "en" says everything as it stands.
        table: words for whole texts, with the same ``{names}`` in braces.
        patterns: a regular expression for a text of a result file, and its words with a ``{}`` for each group, which is
            put into the language in its turn.
    """

    def __init__(self, code: str, table: Mapping[str, str], patterns: Mapping[str, str]):
        self.code, self.table, self.patterns = code, table, patterns

    def __call__(self, english: str, **values) -> str:
        """A text of the code, its ``{names}`` filled in."""
        return self.table.get(english, english).format(**values)

    def known(self, text: str) -> str:
        """A text that may be one of the code's or anything else, which then stays as it is."""
        return self.table.get(text, text)

    def term(self, text: str) -> str:
        """A text that a result file holds: whole, else by a pattern, else piece by piece, else as it stands."""
        if text in self.table:
            return self.table[text]
        for pattern, words in self.patterns.items():
            if found := re.fullmatch(pattern, text):
                return words.format(*map(self.term, found.groups()))
        pieces = text.split(", ")
        return self("{a}, {b}", a=self.term(pieces[0]), b=self.term(", ".join(pieces[1:]))) if pieces[1:] else text

    def spread(self, median: float, low: float, high: float) -> str:
        """A median with its quartiles, or a mean with its least and greatest: the table says which."""
        return self("{middle} ({low} to {high})", middle=number(median), low=number(low), high=number(high))

    def verdict(self, reached: bool) -> str:
        return self("reached") if reached else self("missed")

    def several(self, texts: Iterable[str]) -> str:
        """Texts in one sentence."""
        return self("; ").join(texts)

    def together(self, sentences: Iterable[str]) -> str:
        """Sentences in one paragraph."""
        return self(" ").join(sentences)


def _japanese() -> Language:
    words = json.loads(Path(__file__).with_name("japanese.json").read_text(encoding="utf-8"))
    return Language("ja", words["texts"], words["patterns"])


ENGLISH = Language("en", {}, {})
JAPANESE = _japanese()
LANGUAGES = (ENGLISH, JAPANESE)


def number(value: float) -> str:
    """Three significant digits, more before the point; no exponent for what is 0.0001 or more."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def mib(count: float | None) -> str:
    """Bytes in MiB."""
    return "–" if count is None else f"{count / 2**20:,.1f}"


def percent(share: float) -> str:
    return f"{share:.1%}"
