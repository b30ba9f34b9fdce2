"""``python -m bench report``: all of bench/results/ as pages, and as the measured parts of the READMEs."""

import dataclasses
import sys
from pathlib import Path

from bench import results_file
from bench.report import page, readme
from bench.report.results import Results
from bench.report.words import LANGUAGES, Language


@dataclasses.dataclass(frozen=True)
class Report:
    """Render bench/results/ into bench/REPORT.md, REPORT.ja.md and the regions of README.md, README.ja.md."""

    results: Path = results_file.FOLDER
    """Folder of the result files. The reports stand beside it, the READMEs, where there are any, one folder up."""
    check: bool = False
    """Write nothing; tell whether the files are what would be written, apart from the lines on age."""


def run(options: Report) -> int:
    """Render. 0; with ``check`` 1 if a file is not what would be written; 2 without results or for a wrong README."""
    folder = options.results.absolute()
    if not folder.is_dir():
        print(f"error: --results: got {options.results}, which is not a folder", file=sys.stderr)
        return 2
    written = {}
    for say in LANGUAGES:
        report, front = paths(folder, say)
        results = Results(folder, say=say)
        written[report] = page.render(results)
        try:
            if front.exists():
                written[front] = readme.render(front.read_text(encoding="utf-8"), results)
        except ValueError as error:
            print(f"error: {front.name}: {error}", file=sys.stderr)
            return 2
    if options.check:
        return _check(written)
    for path, text in written.items():
        path.write_text(text, encoding="utf-8")
    older = next(iter(written.values())).count("**OLDER than its code**")
    names = ", ".join(path.name for path in written)
    print(f"written: {names}" + (f"; {older} results are older than their code" if older else ""))
    return 0


def paths(folder: Path, say: Language) -> tuple[Path, Path]:
    """The report and the README of a language, for a folder of results."""
    end = ".md" if say.code == "en" else f".{say.code}.md"
    return folder.parent / f"REPORT{end}", folder.parent.parent / f"README{end}"


def _check(written: dict[Path, str]) -> int:
    code = 0
    for path, text in written.items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if page.without_ages(found) != page.without_ages(text):
            print(f"error: {path.name} is not what the results say; python -m bench report writes it", file=sys.stderr)
            code = 1
    return code
