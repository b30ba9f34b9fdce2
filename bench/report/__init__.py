"""``python -m bench report``: all of bench/results/ as one page, bench/REPORT.md."""

import dataclasses
import sys
from pathlib import Path

from bench import results_file
from bench.report import page
from bench.report.results import Results


@dataclasses.dataclass(frozen=True)
class Report:
    """Render bench/results/ into bench/REPORT.md."""

    results: Path = results_file.FOLDER
    """Folder of the result files."""
    output: Path | None = None
    """Markdown to write; none: REPORT.md beside the folder of the results."""
    check: bool = False
    """Write nothing; tell whether the file is what would be written, apart from the lines on age."""


def run(options: Report) -> int:
    """Render. 0; with ``check`` 1 if the file is not what would be written; 2 without a folder of results."""
    folder = options.results.absolute()
    if not folder.is_dir():
        print(f"error: --results: got {options.results}, which is not a folder", file=sys.stderr)
        return 2
    output = options.output or folder.with_name("REPORT.md")
    text = page.render(Results(folder))
    if options.check:
        found = output.read_text(encoding="utf-8") if output.exists() else ""
        if page.without_ages(found) == page.without_ages(text):
            return 0
        print(f"error: {output.name} is not what the results say; python -m bench report writes it", file=sys.stderr)
        return 1
    output.write_text(text, encoding="utf-8")
    older = text.count("**OLDER than its code**")
    print(f"written: {output}" + (f"; {older} results are older than their code" if older else ""))
    return 0
