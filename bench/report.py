"""``python -m bench report``: README and the results page, in English and Japanese, from the files in bench/results.

Prose is written in the templates (``bench/templates``), both languages of the results page in one; numbers and tables
are filled in. A result that is not there yet is said to be missing by the template itself.
"""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench import results_file
from bench.target import markdown

ROOT = Path(__file__).resolve().parent.parent
TEMPLATES = Path(__file__).with_name("templates")
# Page: its template.
PAGES = {
    "README.md": "README.md.j2",
    "README.ja.md": "README.ja.md.j2",
    "docs/results.md": "results.md.j2",
    "docs/results.ja.md": "results.md.j2",
}

# What the templates read.
RESULTS = ("accuracy_cifar10", "digits", "generators_cifar10", "onnx")
RESULTS += ("gpu", "memory", "pretrained", "puppetize", "sizes", "speed")


@dataclasses.dataclass(frozen=True)
class Report:
    """Render README and docs/results from bench/results, in English and Japanese."""

    check: bool = False
    """Write nothing; say which pages are older than the results, and end with 1 if there are any."""
    folder: Path = ROOT
    """Where the pages are written."""


def run(options: Report) -> int:
    """Render, or check. 0; 1 if pages are stale; 2 if a template or a result cannot be read."""
    try:
        pages = render(results_file.FOLDER)
    except Exception as error:  # whatever is wrong with a template or a file, its name is in the message
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    paths = {options.folder / name: text for name, text in pages.items()}
    stale = [path for path, text in paths.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if options.check and stale:
        print(f"older than the results: {', '.join(map(str, stale))}; run python -m bench report", file=sys.stderr)
        return 1
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(paths[path], encoding="utf-8")
    return 0


def render(folder: Path) -> dict[str, str]:
    """Every page by its path, from the results in a folder."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS
    environment.tests["match"] = str.startswith
    environment.globals |= {"table": markdown, "origin": origin, "times": times}
    results, pages = read(folder), {}
    for page, name in PAGES.items():
        ja = page.endswith(".ja.md")
        said = {"ja": ja, "t": lambda english, japanese, ja=ja: japanese if ja else english}
        pages[page] = environment.get_template(name).render(results=results, **said)
    return pages


def read(folder: Path) -> SimpleNamespace:
    """Each result by its file's name, ``None`` where there is none.

    Raises:
        ValueError: a file that is no JSON.
    """
    found: dict[str, Any] = dict.fromkeys(RESULTS)
    for path in sorted(folder.glob("*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path.name}: damaged, measure it again ({error})") from error
    return SimpleNamespace(**found)


def origin(result: dict) -> str:
    """Where a result is from: revision, date, machine, command. The same words in every language."""
    machine, cores = result["machine"], result["machine"].get("cores_used", result["machine"]["cores"])
    return (
        f"`{result['command']}`, {result['date'][:10]}, {(result['revision'] or '?')[:8]}, {machine['processor']} "
        f"× {cores}, jax {result['versions']['jax']}"
    )


def times(speed: dict, kind: str) -> list[list[str]]:
    """Of the measurements of a kind: a row for each contender, its milliseconds in each of them; sizes come first."""
    chosen = {name: m for name, m in speed["measurements"].items() if name.startswith(f"{kind} ")}
    whats = {label: c["what"] for m in chosen.values() for label, c in m["contenders"].items()}
    rows = [["", *(name.removeprefix(f"{kind} ") for name in chosen)]]
    for label, what in whats.items():
        cells = (m["contenders"].get(label) for m in chosen.values())
        rows.append([what, *(milliseconds(cell) if cell else "–" for cell in cells)])
    return rows


def milliseconds(cell: dict) -> str:
    """Median and quartiles of a contender."""
    return f"{three(1e3 * cell['median_s'])} ({three(1e3 * cell['low_s'])} to {three(1e3 * cell['high_s'])})"


def three(value: float) -> str:
    """Three digits, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def size(measurement: str) -> str:
    """Of a measurement's name, which begins with its kind."""
    return measurement.partition(" ")[2]


def goal(row: dict) -> str:
    """The target of a row, empty where there is none."""
    return "" if row["target"] is None else f"{'≥' if row['sense'] == '>=' else '≤'} {row['target']}"


FILTERS = {
    "size": size,
    "goal": goal,
    "goals": lambda rows: ", ".join(dict.fromkeys(map(goal, rows))),
    "three": three,
    "thousands": lambda value: f"{value:,}",
    "percent": lambda value, digits=1: f"{100 * value:.{digits}f} %",
    "mebibytes": lambda value: f"{value / 2**20:,.0f} MiB",
    "spread": lambda row: f"{three(row['median'])} ({three(row['low'])} to {three(row['high'])})",
    "of_seeds": lambda line: (
        f"{100 * line['accuracy']:.1f} %"
        + (f" ({100 * line['least']:.1f} to {100 * line['greatest']:.1f})" if len(line["seeds"]) > 1 else "")
    ),
}
