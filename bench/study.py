"""What ``python -m bench accuracy`` compares: studies, as data in bench/studies/*.toml.

A study has parts, a part has rows, a row is runs of ``python -m train`` that differ in their seed alone. Flags and a
puppeteer's options of a row stand over those of its part, and those over the study's.
"""

import dataclasses
import json
import tomllib
from pathlib import Path

FOLDER = Path(__file__).with_name("studies")
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))
# A run is known by its command line, so flags have an order of their own; others follow.
_ORDER = ("data", "preset", "batch-size", "width", "puppeteer", "epochs", "optimiser", "learning-rate")
_ORDER += ("puppeteer-options", "evaluate-on", "augment")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        what: where the kernels come from, for a reader.
        arguments: of ``python -m train``, without seed and folder; the puppeteer's among them.
    """

    name: str
    part: str
    what: str
    puppeteer: str
    arguments: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Study:
    """Rows that one result holds: ``output`` is its file, ``note`` what it was measured on."""

    output: str
    note: str
    rows: tuple[Row, ...]


def read(path: Path) -> Study:
    """The study of a file."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    rows = tuple(_row(data, name, part, row) for name, part in data["parts"].items() for row in part["rows"])
    return Study(data["output"], data["note"], rows)


def _row(data: dict, part_name: str, part: dict, row: dict) -> Row:
    without = part.get("without", ())
    shared = {name: value for name, value in data.get("flags", {}).items() if name not in without}
    puppeteer = row.get("puppeteer", "continuous")
    base = row.get("base", part.get("base"))
    options = {**(data["options"][base] if base else {}), **row.get("options", {})}
    flags = {**shared, **part.get("flags", {}), "puppeteer": puppeteer, **row.get("flags", {})}
    if options:
        flags["puppeteer-options"] = json.dumps(options)
    ordered = sorted(flags, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    arguments = tuple(f"--{name}={flags[name]}" for name in ordered)
    seeds = tuple(row.get("seeds", part.get("seeds", (0,))))
    return Row(row["name"], part_name, row["what"], puppeteer, arguments, seeds)
