"""What the documents point to is there: files, figures, headings, commands, the citation."""

import pathlib
import re
import shlex

import pytest
import yaml

import bench.__main__ as bench_main
import puppet_jax as pj
from train import __main__ as train_main
from train.commands import train as launch

ROOT = pathlib.Path(__file__).parent.parent
# Results name the commands of the revisions that made them. The other pages of docs/ have tests/test_docs.py.
RESULTS = ("docs/results.md", "docs/results.ja.md")
NAMES = ("README.md", "README.ja.md", "CHANGELOG.md", *RESULTS)
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
# What stands for something, and something that it may stand for.
_STANDS_FOR = {"I": "0", "N": "2"}


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text: str) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#{1,6} (.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)}


def links() -> list[tuple[str, str]]:
    """(document, target) of each link and image that stays inside the repository."""
    found = [(name, target) for name, text in TEXTS.items() for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    return [pair for pair in dict.fromkeys(found) if not re.match(r"https?://", pair[1])]


def commands() -> list[tuple[str, str]]:
    """(program, arguments) of each command of ours that a document mentions."""
    found = []
    for text in (text for name, text in TEXTS.items() if name not in RESULTS):
        inline = re.findall(r"`([^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.S))
        lines = [re.split(r" {2,}#| #", line)[0] for line in re.findall(r"^ {4}(\S.*)$", text, flags=re.M)]
        for each in [*inline, *lines]:
            match = re.search(r"python -m (train|bench)\b(.*?)$", each)
            if match and (
                match[2] or match[1] == "train"
            ):  # without a benchmark's name it is the program that is meant
                found.append((match[1], match[2].strip()))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("name", "target"), links())
def test_every_link_leads_somewhere(name, target):
    path, _, anchor = target.partition("#")
    file = (ROOT / name).parent / path if path else ROOT / name
    assert file.exists(), target
    if anchor:
        assert anchor in anchors(file.read_text(encoding="utf-8"))


def test_the_readmes_and_the_reports_lead_to_each_other():
    for folder, stem in (("", "README"), ("docs/", "results")):
        for end, other in ((".md", ".ja.md"), (".ja.md", ".md")):
            top = "\n".join(TEXTS[f"{folder}{stem}{end}"].splitlines()[:4])
            assert f"]({stem}{other})" in top


def test_images_say_what_they_show():
    for name, text in TEXTS.items():
        for alternative, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", text):
            assert alternative, (name, target)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("README")])
def test_blocks_of_python_run(name):
    # Those of the READMEs run in tests/test_readme.py.
    scope = {}
    for block in re.findall(r"```python\n(.*?)```", TEXTS[name], flags=re.S):
        exec(compile(block, name, "exec"), scope)


@pytest.fixture
def understand(monkeypatch):
    """A function that reads a command line as its program does, and returns the options that would have been run."""
    took = []
    runs = {name: (options, took.append) for name, (options, _) in bench_main._BENCHMARKS.items()}
    monkeypatch.setattr(bench_main, "_BENCHMARKS", runs)
    monkeypatch.setattr(bench_main.signal, "signal", lambda *_: None)
    for module in ("evaluate", "predict", "plot", "release", "export"):
        monkeypatch.setattr(f"train.commands.{module}.run", took.append)

    def read(program, arguments):
        if program == "bench":
            bench_main.main(arguments)
        elif arguments and not arguments[0].startswith("-"):
            train_main._run(arguments)
        else:
            took.append(launch._parse(arguments, launch.Config()))
        return took

    return read


@pytest.mark.parametrize(("program", "line"), commands())
def test_commands_are_understood(program, line, understand):
    arguments = [_STANDS_FOR.get(each, each) for each in shlex.split(line)]
    if "--help" in arguments:
        with pytest.raises(SystemExit, match=r"^0$"):
            understand(program, arguments)
    else:
        assert len(understand(program, arguments)) == 1


@pytest.mark.parametrize("line", ["bench speeds", "bench speed --sizes 3", "train --epoch-count 3", "train eval"])
def test_a_command_that_is_none_would_be_noticed(line, understand):
    program, *arguments = line.split()
    with pytest.raises(SystemExit, match=r"^2$"):
        understand(program, arguments)


def test_commands_were_found():
    found = commands()
    assert "report" in {line.split()[0] for program, line in found if program == "bench"}
    assert {"", "--help"} <= {line for program, line in found if program == "train"}


def test_the_citation_can_be_read():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "message", "type", "version", "license", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == pj.__version__
    assert citation["license"] == "Apache-2.0"
    assert all(
        {"name"} <= set(author) or {"family-names", "given-names"} <= set(author) for author in citation["authors"]
    )
    cited = citation["preferred-citation"]
    assert {"type", "title", "authors", "year"} <= set(cited)
    assert any("2411.12876" in each["value"] for each in cited["identifiers"])
