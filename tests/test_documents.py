"""README and documentation: Python runs, commands and cluster files are understood, links lead somewhere.

What MkDocs checks when it builds the pages (navigation, links and anchors in docs/) is left to it: see .ci/run.
"""

import functools
import http.server
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import threading

import pytest
import yaml
from PIL import Image

import bench.__main__ as bench_main
import puppet_jax as pj
from bench import report
from train import __main__ as train_main
from train import config

ROOT = pathlib.Path(__file__).parent.parent
PATHS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PATHS)}
RESULTS = ("docs/results.md", "docs/results.ja.md", "CHANGELOG.md")  # name commands of the revisions they tell of
BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or ""
LARGE = "bench/figures/kernels.png"
STANDS_FOR = {"N": "2", "…": ""}


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.S | re.M)


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)


def commands() -> list[tuple[str, str, str]]:
    """(page, program, arguments) of each command of ours, in shell blocks, cluster files and text."""
    found = []
    for page, text in TEXTS.items():
        code = [*blocks("bash", text), *blocks("yaml", text), *re.findall(r"^ {4}(\S.*)$", prose(text), flags=re.M)]
        lines = [line for block in code for line in block.replace("\\\n", " ").splitlines()]
        inline = [each.replace("\n", " ") for each in re.findall(r"`([^`]*)`", prose(text))]
        for line in [*lines, *inline] if page not in RESULTS else []:
            match = re.search(r"python -m (train|bench)\b(.*)$", line)
            if match and not line.lstrip().startswith("#") and (match[2] or match[1] == "train"):
                found.append((page, match[1], match[2].strip()))
    return list(dict.fromkeys(found))


def arguments(line: str) -> list[str]:
    """As the shell would hand them over: without comments, variables filled in by something that they may be."""
    line = line.rstrip("'")
    line = re.sub(r"\$\w+", "0", line + "'" * (line.count("'") % 2))
    return [each for word in shlex.split(line, comments=True) if (each := STANDS_FOR.get(word, word))]


@pytest.fixture
def understand(monkeypatch):
    """A function that reads a command line as its program does, and returns the options that would have been run."""
    took = []
    runs = {name: (options, took.append) for name, (options, _) in bench_main._BENCHMARKS.items()}
    monkeypatch.setattr(bench_main, "_BENCHMARKS", runs)
    monkeypatch.setattr(bench_main.signal, "signal", lambda *_: None)
    for module in ("evaluate", "predict", "release", "export"):
        monkeypatch.setattr(f"train.commands.{module}.run", took.append)

    def read(program, line):
        given = arguments(line)
        if program == "bench":
            bench_main.main(given)
        elif given and not given[0].startswith("-"):
            train_main._run(given)
        else:
            took.append(config.parse(given, config.Config()))
        return took

    return read


@pytest.mark.parametrize(
    "page", [page for page, text in TEXTS.items() if blocks("python", text) and not page.startswith("README")]
)
def test_python_runs(page, tmp_path, monkeypatch):
    """A page's blocks, one after the other in one namespace; the README's: see test_readme.py."""
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": page}
    for block in blocks("python", TEXTS[page]):
        exec(compile(block, page, "exec"), scope)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("page", "program", "line"), commands())
def test_commands_are_understood(page, program, line, understand):
    if "--help" in line:
        with pytest.raises(SystemExit, match=r"^0$"):
            understand(program, line)
    else:
        assert len(understand(program, line)) == 1


def test_cluster_files_can_be_read():
    (block,) = [block for text in TEXTS.values() for block in blocks("yaml", text)]
    service, job = yaml.safe_load_all(block)
    assert (service["kind"], job["kind"]) == ("Service", "Job")
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]


@pytest.mark.parametrize("page", [page for page in TEXTS if "/" not in page or page in RESULTS])
def test_links_lead_somewhere_and_images_say_what_they_show(page):
    for alternative, target in re.findall(r"!?\[([^\]]*)\]\(([^)\s]+)\)", prose(TEXTS[page])):
        assert alternative, target
        if not target.startswith("https://"):
            assert ((ROOT / page).parent / target.partition("#")[0]).exists(), target


def test_the_reference_is_complete():
    names = [name for text in TEXTS.values() for name in re.findall(r"^::: ([\w.]+)$", text, re.M)]
    assert len(set(names)) == len(names)
    assert {name.rpartition(".")[2] for name in names} >= set(pj.__all__)


def test_no_measured_number_stands_outside_of_the_results():
    measured = re.compile(
        r"\d[\d.,]*\s*(?:%(?!})|％|times\b|倍|m?s\b|seconds\b|秒|[KMGk]i?B\b|points?\b|ポイント|images/s)"
    )
    templates = {path.name: path.read_text(encoding="utf-8") for path in report.TEMPLATES.glob("*.j2")}
    pages = {page: text for page, text in TEXTS.items() if page.startswith("docs/") and page not in RESULTS}
    for page, text in (pages | templates).items():
        assert not measured.findall(re.sub(r"`[^`]*`", "", prose(text))), page


def test_the_citation_can_be_read():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "message", "type", "version", "license", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (pj.__version__, "Apache-2.0")
    assert any("2411.12876" in each["value"] for each in citation["preferred-citation"]["identifiers"])


@pytest.mark.skipif(not BROWSER, reason="found no chromium")
@pytest.mark.skipif(
    not (ROOT / "site/demo/ort.js").exists(), reason="mkdocs build has not made the page, or had no npm"
)
def test_a_model_in_the_browser_answers_as_compile_predict(tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=ROOT / "site")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # Nothing is fetched from elsewhere; what the page logs goes to stderr.
        options = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr"]
        page = f"http://127.0.0.1:{server.server_port}/demo/?picture=../{LARGE}"
        command = [BROWSER, "--headless", "--no-sandbox", f"--user-data-dir={tmp_path}", *options, page]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as browser:
            end = threading.Timer(60, browser.kill)
            end.start()
            told = next(line for line in browser.stderr if "probabilities" in line)
            end.cancel()
            browser.kill()
        server.shutdown()
    found = json.loads(told[told.index("{") : told.rindex("}") + 1])
    predict = pj.compile_predict(pj.load_pretrained("puppet_s_cifar10_int8"))
    seen = predict.predict_images([Image.open(ROOT / f"docs/demo/{name}.png") for name in predict.classes])
    assert found["answers"] == [[name, best] for name, ((best, _),) in zip(predict.classes, seen.top(), strict=True)]
    large = predict.predict_images(Image.open(ROOT / LARGE))
    assert found["complexity"] == pytest.approx(float(large.complexity))
    assert found["probabilities"] == pytest.approx(large.probabilities.tolist(), abs=0.01)
