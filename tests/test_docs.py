"""The documentation: its Python runs, its commands and cluster files are understood, its links and navigation lead
somewhere."""

import importlib.util
import pathlib
import re
import shlex

import jax
import pytest
import yaml
from test_documents import understand  # noqa: F401

import puppet_jax as pj

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
MADE = ("notebook.md",)  # by docs/hooks.py
RESULTS = ("results.md", "results.ja.md")  # name the commands of the revisions that made them
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.S | re.M)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def commands() -> list[tuple[str, str, str]]:
    """(page, program, arguments) of each command of ours, in shell blocks, cluster files and text."""
    found = []
    for page, text in PAGES.items():
        if page in RESULTS:
            continue
        code = [*blocks("bash", text), *blocks("yaml", text)]
        lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
        inline = [each.replace("\n", " ") for each in re.findall(r"`([^`]*)`", prose(text))]
        for line in [*lines, *inline]:
            match = re.search(r"python -m (train|bench)\b(.*)$", line)
            if match and not line.lstrip().startswith("#"):
                found.append((page, match[1], match[2].strip()))
    return list(dict.fromkeys(found))


def arguments(line: str) -> list[str]:
    """As the shell would hand them over: without comments, variables filled in by something that they may be."""
    line = re.sub(r"\$group\b", "--coordinator node0:1 --process-id 1 --process-count 2", line.rstrip("'"))
    line = re.sub(r"\$\w+", "0", line) if line.count("'") % 2 == 0 else re.sub(r"\$\w+", "0", line + "'")
    stands_for = {"N": "2", "I": "0", "HOST:PORT": "node0:1", "…": None}
    return [stands_for.get(each, each) for each in shlex.split(line, comments=True) if stands_for.get(each, each)]


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks("python", text)])
def test_python_runs(page, tmp_path, monkeypatch):
    """A page's blocks, one after the other in one namespace. Most of their time is XLA's, whose optimisations are left
    out: what is asked is whether they run."""
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_disable_most_optimizations", True)
    scope = {"__name__": page}
    try:
        for block in blocks("python", PAGES[page]):
            exec(compile(block, page, "exec"), scope)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("page", "program", "line"), commands())
def test_commands_are_understood(page, program, line, understand):  # noqa: F811
    given = arguments(line)
    if program == "bench" and not given:
        return  # the program is meant
    if "--help" in given:
        with pytest.raises(SystemExit, match=r"^0$"):
            understand(program, given)
    else:
        assert len(understand(program, given)) == 1


@pytest.mark.parametrize("line", ["--epoch-count 3", "eval", "--process-id first", "export RUN", "--bin wide"])
def test_a_command_that_is_none_would_be_noticed(line, understand):  # noqa: F811
    with pytest.raises(SystemExit, match=r"^2$"):
        understand("train", arguments(line))


def test_commands_were_found():
    found = commands()
    assert {page for page, _, _ in found} >= {"training.md", "devices.md", "deploying.md"}
    ways = " ".join(line for page, _, line in found if page == "devices.md")
    assert all(flag in ways for flag in ("--distributed", "--coordinator", "--process-id", "--process-count"))


def test_cluster_files_can_be_read():
    for text in PAGES.values():
        for block in blocks("yaml", text):
            service, job = yaml.safe_load_all(block)
            assert (service["kind"], job["kind"]) == ("Service", "Job")
            pods = job["spec"]["template"]["spec"]
            assert pods["subdomain"] == service["metadata"]["name"]
            (script,) = pods["containers"][0]["args"]
            name = f"{job['metadata']['name']}-0.{service['metadata']['name']}:"
            assert f"--coordinator {name}" in script
            assert f"--process-count {job['spec']['completions']}" in script
    assert blocks("yaml", PAGES["devices.md"])


def test_navigation_names_every_page_once():
    def names(entry):
        if isinstance(entry, str):
            return [entry]
        return [name for each in (entry.values() if isinstance(entry, dict) else entry) for name in names(each)]

    found = names(SITE["nav"])
    assert sorted(found) == sorted([*PAGES, *MADE])
    files = [*SITE["hooks"], *(f"docs/{each}" for each in SITE["extra_css"])]
    assert all((ROOT / each).is_file() for each in files)


def anchors(text: str) -> set[str]:
    """What MkDocs calls a page's headings, and mkdocstrings the objects on it."""
    named = {heading.replace("`", "").strip().lower() for heading in re.findall(r"^#{1,6} (.*)$", prose(text), re.M)}
    slugs = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", each.encode("ascii", "ignore").decode())) for each in named}
    return slugs | set(re.findall(r"^::: ([\w.]+)$", text, re.M))


def links() -> list[tuple[str, str]]:
    found = [(page, target) for page, text in PAGES.items() for target in re.findall(r"\]\(([^)\s]+)\)", prose(text))]
    return [pair for pair in dict.fromkeys(found) if not pair[1].startswith("https://")]


@pytest.mark.parametrize(("page", "target"), links())
def test_links_lead_somewhere(page, target):
    path, _, anchor = target.partition("#")
    file = ((DOCS / page).parent / path).resolve() if path else DOCS / page
    if file.name in MADE:
        return
    assert file.is_file()
    if anchor:
        assert anchor in anchors(file.read_text(encoding="utf-8"))


def documented() -> list[str]:
    return [name for text in PAGES.values() for name in re.findall(r"^::: ([\w.]+)$", text, re.M)]


def resolve(path: str):
    """The object of a dotted path, where a package's function may bear the name of its module."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise ImportError(path)


def test_the_reference_is_complete_and_its_links_lead_to_it():
    names = documented()
    assert len(set(names)) == len(names)
    assert all(resolve(name) is not None for name in names)
    assert {name.rpartition(".")[2] for name in names} >= set(pj.__all__)
    for page, text in PAGES.items():
        for target in re.findall(r"\]\[(puppet_jax[\w.]*)\]", text):
            assert target in names or target.rpartition(".")[0] in names, (page, target)


def test_no_measured_number_stands_outside_of_the_results():
    measured = re.compile(r"\d[\d.,]*\s*(?:%|times\b|ms\b|[KMG]i?B\b|points?\b|images/s)")
    for page, text in PAGES.items():
        if page not in RESULTS:
            assert not measured.findall(re.sub(r"`[^`]*`", "", prose(text))), page


@pytest.fixture
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_notebook_becomes_a_page(hooks):
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "$H$"]},
        {
            "cell_type": "code",
            "source": ["x = 1\n", "\n", "x"],
            "outputs": [
                {"output_type": "display_data", "data": {"image/png": "AAEC", "text/plain": "a figure"}},
                {"output_type": "display_data", "data": {"text/markdown": ["| a |\n"], "text/plain": "a table"}},
            ],
        },
    ]
    page, pictures = hooks.notebook_page({"cells": cells})
    assert pictures == {"notebook_0.png": b"\x00\x01\x02"}
    for part in ("# Title\n$H$", "```python\nx = 1\n\nx\n```", "![](notebook_0.png)", "| a |"):
        assert part in page


def test_pictures_of_results_are_those_beside_the_docs(hooks):
    for page in RESULTS:
        text = hooks.on_page_markdown(PAGES[page])
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
            assert target.startswith("bench/")
            assert (ROOT / target).is_file()
