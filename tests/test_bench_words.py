"""The report's Japanese: there are words for all that is said, and they say the same numbers."""

import ast
import json
import re
import string
from collections import Counter
from pathlib import Path

import pytest

from bench import plan, results_file, study
from bench.contenders import CONTENDERS
from bench.report import page, readme
from bench.report.results import Results
from bench.report.words import JAPANESE, Language

CODE = Path(page.__file__).parent
# Names of the code's own stay in Latin letters, whatever the language.
_WORDS = "pj|lax|cifar10|digits|diffrax|vmap|scan|nat|Tsitouras|Muon"
NAMES = re.compile(rf"[a-z_]+(?:[A-Z]\w*|_\w+|\(.*\))|\b(?:{_WORDS})\b")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*(?:e-\d+)?")


def fields(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


def said_in_the_code() -> set[str]:
    """Texts that the code says as they stand."""
    found = set()
    for path in CODE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
                found |= {node.args[0].value} if name in ("say", "self") else set()
    return found


class Listening(Language):
    """Japanese that keeps what it had no words for."""

    def __init__(self):
        super().__init__("ja", JAPANESE.table, JAPANESE.patterns)
        self.without = set()

    def __call__(self, english, **values):
        self.without |= {english} - {""} - set(self.table)
        return super().__call__(english, **values)


def test_all_that_the_code_says_has_words():
    said = said_in_the_code()
    assert len(said) > 100
    assert not said - set(JAPANESE.table)


def test_all_that_the_committed_results_make_it_say_has_words(tmp_path):
    say = Listening()
    for folder in (results_file.FOLDER, tmp_path):
        results = Results(folder, say=say)
        page.render(results)
        for region in readme.REGIONS.values():
            region(results)
    assert not {text for text in say.without if not text.startswith("`")}


def test_words_have_the_same_fields():
    for english, japanese in JAPANESE.table.items():
        assert fields(english) == fields(japanese), english
    for pattern, japanese in JAPANESE.patterns.items():
        assert len(fields(japanese)) == re.compile(pattern).groups, pattern


def test_the_file_holds_each_text_once():
    text = (CODE / "japanese.json").read_text(encoding="utf-8")
    pairs = []
    json.loads(text, object_pairs_hook=lambda found: pairs.append([key for key, _ in found]))
    assert all(len(keys) == len(set(keys)) for keys in pairs)


@pytest.mark.parametrize(
    "text",
    sorted(
        {row.what for row in study.ROWS}
        | {row.what for row in plan.full().rows}
        | {
            CONTENDERS[name][2]
            for name in CONTENDERS
            if re.match("bake|generate|torch_generate|diffrax|scan|preset", name)
        }
    ),
)
def test_rows_of_results_have_words(text):
    told = JAPANESE.term(text)
    assert not re.search(r"[a-z]{3,}", NAMES.sub("", told)), told
    # Japanese has more numbers ("a step" is 一 or 1), never less.
    assert not Counter(NUMBER.findall(text)) - Counter(NUMBER.findall(told)), told


def test_what_it_does_not_know_stays():
    assert JAPANESE.term("a new thing, 32 matrices of rank 2") == "a new thing、ランク 2 の行列 32 個"
    assert (
        JAPANESE.known("python -m bench speed --only 'predict 64, 64'")
        == "python -m bench speed --only 'predict 64, 64'"
    )
