"""The report: what it says is what the files hold, and what cannot be read or is old is said."""

import json
import re
import shutil
import statistics
from pathlib import Path

import numpy as np
import pytest

from bench import power_law, report, results_file, sweep
from bench.report import measures, origin, page
from bench.report.results import AGE, Results
from bench.report.words import ENGLISH, JAPANESE, LANGUAGES, mib, number

ROOT = Path(__file__).resolve().parent.parent
COMMITTED = results_file.FOLDER


LANGUAGE = pytest.mark.parametrize("say", LANGUAGES, ids=lambda say: say.code)


def render(folder=COMMITTED, age=lambda revision, paths: "age unknown: a test", say=ENGLISH):
    return page.render(Results(folder, age, say))


def section(text: str, title: str) -> str:
    _, found, rest = text.partition(f"\n## {title}\n")
    assert found, f"no section {title}"
    return rest.partition("\n## ")[0]


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(COMMITTED, tmp_path / "bench" / "results")


def change(path: Path, edit) -> None:
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


# The committed page.


@LANGUAGE
def test_the_committed_report_is_what_the_committed_results_say(say):
    committed = report.paths(COMMITTED, say)[0].read_text(encoding="utf-8")
    assert page.without_ages(committed) == page.without_ages(render(say=say)), "python -m bench report writes it anew"


@LANGUAGE
def test_only_the_lines_on_age_depend_on_the_time(say):
    young, old = (render(age=lambda *_, told=told: told, say=say) for told in ("not older", "**OLDER than its code**"))
    assert young != old
    assert page.without_ages(young) == page.without_ages(old)
    assert say(AGE) not in page.without_ages(young)


@LANGUAGE
def test_every_committed_file_is_rendered_and_its_age_can_be_known(say):
    text = render(say=say)
    for path in COMMITTED.glob("*.json"):
        assert f"[{path.name}](results/{path.name})" in text, path.name
        assert measures.paths_of(path.name), path.name
    assert say("Not rendered") not in text
    for line in text.splitlines():
        assert not line.startswith(say("**Not shown**: {problem}.", problem="")[:6]), line


def test_both_languages_have_the_same_numbers_in_the_same_places():
    english, japanese = (page.without_ages(render(say=say)).splitlines() for say in LANGUAGES)
    assert len([line for line in english if line.startswith("|")]) > 100
    for one, other in zip(
        *([line for line in text if line.startswith("|")] for text in (english, japanese)), strict=True
    ):
        # Words for numbers ("two measurements") and their order differ from language to language.
        assert one.count("|") == other.count("|")
        cells = [re.findall(r"\d[\d,.]*%", line) for line in (one, other)]
        assert sorted(cells[0]) == sorted(cells[1])


def test_every_path_that_a_file_measures_exists():
    for paths in measures.MEASURES.values():
        for path in paths:
            assert (ROOT / path.removeprefix(":(exclude)")).exists(), path


def test_a_number_that_changes_is_noticed(folder, capsys):
    output, front = folder.with_name("REPORT.md"), folder.parent.parent / "README.ja.md"
    front.write_text("# A\n\n<!-- results: memory -->\n<!-- end -->\n\nB\n")
    assert report.run(report.Report(results=folder)) == 0
    assert report.run(report.Report(results=folder, check=True)) == 0
    output.write_text(output.read_text().replace(AGE, f"{AGE}long ago "))
    assert report.run(report.Report(results=folder, check=True)) == 0
    change(folder / "memory.json", lambda data: data["contenders"]["train_exact"].update(xla_bytes=123 * 2**20))
    assert report.run(report.Report(results=folder, check=True)) == 1
    told = capsys.readouterr().err
    for name in ("REPORT.md", "REPORT.ja.md", "README.ja.md"):
        assert f"{name} is not what the results say" in told
    assert report.run(report.Report(results=folder)) == 0
    assert "| 123.0 |" in output.read_text()
    assert "| 123.0 |" in output.with_name("REPORT.ja.md").read_text()
    assert "| 123.0 |" in front.read_text()
    assert front.read_text().startswith("# A\n")
    assert front.read_text().endswith("\nB\n")
    output.unlink()
    assert report.run(report.Report(results=folder, check=True)) == 1


@pytest.mark.parametrize("text", ["<!-- results: nothing -->\n<!-- end -->\n", "<!-- results: memory -->\n"])
def test_a_readme_with_a_wrong_region_is_an_error(folder, text, capsys):
    front = folder.parent.parent / "README.md"
    front.write_text(text)
    assert report.run(report.Report(results=folder)) == 2
    assert "README.md: " in capsys.readouterr().err
    assert front.read_text() == text
    assert not folder.with_name("REPORT.md").exists()


# Missing and damaged files.


def test_an_empty_folder_is_a_report_of_what_is_missing_in_japanese(tmp_path):
    text = render(tmp_path, say=JAPANESE)
    for each in page.SECTIONS:
        assert f"**`results/{each.pattern}` がない**" in section(text, JAPANESE(each.title))


def test_an_empty_folder_is_a_report_of_what_is_missing(tmp_path):
    text = render(tmp_path)
    for each in page.SECTIONS:
        assert f"**`results/{each.pattern}` is missing**: `{each.command}` writes it." in section(text, each.title)
    assert text.count("not measured: `results/memory.json` is missing") == 1


def test_no_folder_is_an_error(tmp_path, capsys):
    assert report.run(report.Report(results=tmp_path / "nowhere")) == 2
    assert "nowhere, which is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"size": "128, 64', "`results/memory.json` is damaged, measure it again: "),
        ("", "`results/memory.json` is damaged, measure it again: "),
        ("[1, 2]", "`results/memory.json` is damaged, measure it again: expected an object, got an array"),
        ('{"size": "128"}', "`results/memory.json` lacks 'contenders', measure it again"),
        ('{"contenders": 3, "left_out": {}, "rows": []}', "`results/memory.json` does not hold what is read here"),
    ],
)
def test_a_damaged_file_is_said_and_the_rest_is_rendered(folder, content, says):
    (folder / "memory.json").write_text(content)
    text = render(folder)
    assert f"**Not shown**: {says}" in section(text, "Memory of a training step")
    assert f"not measured: {says}" in section(text, "What the sources claim")
    assert section(text, "Trainer") == section(render(), "Trainer")


def test_a_file_that_no_section_reads_is_named(folder):
    (folder / "surprise.json").write_text("{}")
    assert "No section reads these files: surprise.json." in render(folder)


# What is said, against values worked out here.


def test_speed_is_conventional_beside_ours_beside_static():
    data = json.loads((COMMITTED / "speed.json").read_text())
    text = section(render(), "Speed on the CPU")
    found = data["measurements"]["predict 64, 64, 16×16"]["contenders"]
    over, under = ([np.median(calls) for calls in found[name]["calls_s"]] for name in ("torch_batched", "static_jax"))
    ours = [np.median(calls) for calls in found["compile_predict"]["calls_s"]]
    for whose, by, times in (
        ("conventional (ODE)", "PyTorch, batched", over),
        ("static", "JAX twin, all layers", under),
    ):
        low, middle, high = np.percentile(np.divide(times, ours), [25, 50, 75])
        cell = f"{number(middle)} ({number(low)} to {number(high)})"
        assert f"| {whose} | {by} | {cell} |" in text
    assert "| continuous, interpolated | kernels at nodes in H |" in text


def test_memory_of_each_adjoint_is_told_in_mebibytes():
    data = json.loads((COMMITTED / "memory.json").read_text())["contenders"]
    text = section(render(), "Memory of a training step")
    direct = data["train_exact_direct"]["xla_bytes"]
    for name, told in (
        ("train_exact_direct", "DirectAdjoint"),
        ("train_exact", "RecursiveCheckpointAdjoint"),
        ("train_exact_backsolve", "BacksolveAdjoint"),
    ):
        bytes_ = data[name]["xla_bytes"]
        assert f"| {told} | {bytes_ / 1048576:,.1f} | {number(bytes_ / direct)} |" in text


def study(folder, part: str, accuracies: dict[int, float], revisions=("a" * 40,)) -> None:
    """Let the study hold runs of one continuous row, an accuracy for each seed, beside a static twin."""

    def edit(data):
        model = {**data["runs"][0], "part": part, "row": "it", "what": "a continuous row", "puppeteer": "continuous"}
        model |= {"width": 32, "epochs": 2}
        data["runs"] = [
            {**model, "seed": seed, "command": f"train {seed}", "accuracy": accuracy, "revision": revisions[0]}
            for seed, accuracy in accuracies.items()
        ]
        for run, revision in zip(data["runs"], revisions, strict=False):
            run["revision"] = revision
        twin = {**model["parameters"], "generator": 56160, "total": 56938}
        static = {"row": "static", "what": "stored", "puppeteer": "stored", "command": "static", "parameters": twin}
        data["runs"].append({**model, **static, "accuracy": 0.8, "revision": revisions[0]})

    change(folder / "accuracy_cifar10.json", edit)


@pytest.mark.parametrize("part", ["main", "ablation", "design"])
def test_accuracy_gives_seeds_spread_and_what_the_data_is(folder, part):
    accuracies = {0: 0.611, 2: 0.642, 1: 0.598}
    study(folder, part, accuracies)
    text = section(render(folder), "Accuracy on CIFAR-10")
    mean = statistics.mean(accuracies.values())
    line = next(line for line in text.splitlines() if line.startswith("| a continuous row |"))
    assert f"| {mean:.1%} | 59.8% to 64.2% | 0, 1, 2 |" in line
    assert "| 80.0% | one run | 0 |" in text
    for each in ("main", "ablation", "design"):
        body = text.partition(f"#### {each}")[2].partition("####")[0]
        assert "JPEG-recoded copy" in body
        assert ("No runs of this part yet" in body) == (each != part)


def test_runs_have_an_age_each_revision(folder):
    study(folder, "main", {0: 0.6, 1: 0.6, 2: 0.6}, revisions=("a" * 40, "b" * 40, "b" * 40 + "+changes"))
    asked = []

    def told(revision, paths):
        asked.append(revision)
        return f"told of {revision[0]}"

    text = section(render(folder, told), "Accuracy on CIFAR-10")
    assert [line for line in text.splitlines() if line.startswith(AGE)] == [
        "- Age: accuracy_cifar10.json at revision aaaaaaaa: told of a.",
        "- Age: accuracy_cifar10.json at revision bbbbbbbb: told of b.",
        "- Age: accuracy_cifar10.json at revision bbbbbbbb+: told of b.",
    ]
    assert "revision aaaaaaaa (2 runs)." in text
    assert "train/steps/step.py" in measures.paths_of("accuracy_cifar10.json")


def test_claims_stand_beside_what_was_measured(folder):
    study(folder, "main", {0: 0.5, 1: 0.7})
    text = section(render(folder), "What the sources claim")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines()}
    run = json.loads((folder / "accuracy_cifar10.json").read_text())["runs"][0]["parameters"]
    share = run["total"] / run["static_twin"]
    assert (
        f"static twin 80.0% accurate; a continuous row −{1 - share:.1%} parameters, 60.0%"
        in (rows["98 % fewer trainable parameters"])
    )
    smaller = rows["the model is more than 10 times smaller"]
    assert f"a continuous row {number(1 / share)} times smaller, 60.0%" in smaller
    digits = [run for run in json.loads((folder / "digits.json").read_text())["runs"] if run["puppeteer"] == "ode"]
    factor = digits[0]["parameters"]["static_twin"] / digits[0]["parameters"]["total"]
    mean = statistics.mean(run["test_accuracy"] for run in digits)
    assert f"ode {number(factor)} times smaller, {mean:.1%}" in smaller
    assert "a continuous row 60.0% (width 32, 2 epochs)" in rows["top-1 accuracy of 72.5 %"]
    memory = json.loads((folder / "memory.json").read_text())["contenders"]
    adjoint = next(line for claim, line in rows.items() if claim.startswith("backward needs less memory"))
    assert f"BacksolveAdjoint {mib(memory['train_exact_backsolve']['xla_bytes'])} MiB" in adjoint
    speed = json.loads((folder / "speed.json").read_text())["measurements"]
    part = speed["generate 64, 64, 16×16"]["contenders"]["torch_generate"]["median_s"]
    whole = speed["predict 64, 64, 16×16"]["contenders"]["torch_batched"]["median_s"]
    assert f"{part / whole:.0%} of PyTorch's conventional prediction" in rows["generating the kernels is slow"]


def test_the_figures_of_a_file_are_shown(folder):
    (folder / "accuracy_cifar10_pareto.svg").write_text("<svg/>")
    (folder / "speed_one_core.svg").write_text("<svg/>")
    text = render(folder)
    assert "![accuracy_cifar10_pareto](results/accuracy_cifar10_pareto.svg)" in section(text, "Accuracy on CIFAR-10")
    assert text.count("(results/speed_one_core.svg)") == 1


def test_scaling_shows_its_exponents(folder):
    fit = power_law.fit([8, 64], [[0.008, 0.064], [0.009, 0.072]])
    contender = {"what": "x", "median_s": [0.0085, 0.068], **vars(fit)}
    batch = {"axis": "images", "arithmetic": 1.0, "values": [8, 64], "contenders": {"compile_predict": contender}}
    about = {"about": sweep.ABOUT, "rounds": 2, "left_out": {"a": "gone"}, "revision": "c" * 40}
    (folder / "scaling.json").write_text(json.dumps({**about, "quantities": {"batch": batch}}))
    text = section(render(folder), "Scaling")
    assert "| prediction, ours | 1.00 (1.00 to 1.00) |" in text
    assert "| prediction, ours | 8.50 / 68.0 |" in text
    assert "Left out: a: gone." in text
    assert "machine not recorded" in text


def test_a_gpus_figures_are_shown_with_their_device(folder):
    row = {"size": [64, 32, 32], "kind": "predict", "contender": "compile_predict", "ms": 1.25, "over_static": 0.5}
    row |= {"quartiles": [0.4, 0.6], "first_call_s": 3.0}
    lines = [{"what": "complexity", "ok": True}, {"what": "logits", "ok": False}]
    data = {"device": "A card", "machine": "x86_64", "jax": "0.10.2", "correct": lines, "speed": [row]}
    (folder / "gpu_card.json").write_text(json.dumps(data))
    text = section(render(folder), "Speed on a GPU")
    assert "1 of 2 comparisons with the CPU agree within their limits; these do not: logits." in text
    assert "| predict | 64, 32, 32 | ours | compile_predict | 1.25 | 0.500 (0.400 to 0.600) | 3.0 |" in text
    assert "A card, x86_64; jax 0.10.2" in text


def test_huge_pages_are_shown(folder):
    line = {"width": 32, "seconds": {"without": [3.0, 5.0, 4.0], "with": [2.0, 2.0, 2.0]}}
    line["faster"] = {"median": 2.0, "low": 1.75, "high": 2.25}
    data = {"steps": 150, "data": "cifar10", "rounds": 3, "widths": [line]}
    (folder / "huge_pages.json").write_text(json.dumps(data))
    assert "| 32 | 4.0 | 2.0 | 2.00 (1.75 to 2.25) |" in section(render(folder), "Huge pages")


def test_where_a_run_lay_on_the_machine_is_not_told():
    data = {"command": "python -m bench pages --data-dir /home/someone/sets --output=/tmp/x.json", "date": "today"}
    (found,) = origin.origins(data)
    assert found.command == "python -m bench pages --data-dir …/sets --output=…/x.json"


@pytest.mark.parametrize(
    ("value", "told"),
    [(1234.5, "1,234"), (99.96, "100"), (12.0, "12.0"), (1.0, "1.00"), (0.9, "0.900"), (-0.0706, "-0.0706")],
)
def test_numbers_have_three_digits(value, told):
    assert number(value) == told


# Age, by git.
