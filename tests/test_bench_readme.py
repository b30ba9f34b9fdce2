"""The README's regions: what they conclude follows the numbers, whatever those are, in either language."""

import json
import re
import shutil

import pytest

from bench import results_file, study
from bench.report import readme, told_design
from bench.report.results import Results
from bench.report.words import ENGLISH, JAPANESE, LANGUAGES

ROWS = {row.name: row for row in study.ROWS}
PARAMETERS = {"normalisation": 448, "head": 330, "static_twin": 56938}


@pytest.fixture
def told(tmp_path):
    """A function of accuracies by row and seed that returns a region of a README with only that study."""

    def render(region, accuracies, say=ENGLISH):
        runs = []
        for name, of_seeds in accuracies.items():
            row = ROWS[name]
            of_row = {"row": name, "part": row.part, "what": row.what, "puppeteer": row.puppeteer, "width": row.width}
            of_row |= {"epochs": row.epochs, "evaluated_on": "test", "train_seconds": 1.0, "revision": "a" * 40}
            stored = {"stored": 56160, "printed": 1376}.get(row.puppeteer, 5616)
            of_row["parameters"] = {**PARAMETERS, "generator": stored, "total": stored + 778}
            for seed, accuracy in enumerate(of_seeds):
                runs.append({**of_row, "seed": seed, "accuracy": accuracy, "command": f"{name} {seed}"})
        data = {"data": "CIFAR-10, a JPEG-recoded copy: not comparable with published figures", "runs": runs}
        (tmp_path / "accuracy_cifar10.json").write_text(json.dumps(data))
        return readme.REGIONS[region](Results(tmp_path, say=say))

    return render


@pytest.mark.parametrize(
    ("continuous", "says"),
    [
        (0.645, "Continuous is 8.8 points below its static twin, more than the two that were aimed at."),
        (0.7202, "Continuous is 1.3 points below its static twin, within the two that were aimed at."),
        (0.75, "Continuous is not below its static twin."),
    ],
)
def test_the_distance_to_the_static_twin_is_judged(told, continuous, says):
    rows = {"static-32": [0.733], "continuous-10x-32": [continuous], "printed-32": [0.248]}
    for region in ("headline", "accuracy"):
        assert says in told(region, rows)
    assert ("more than the two" in told("missed", rows)) == ("more than the two" in says)
    assert "10.0 times fewer parameters" in told("headline", rows)
    assert "with 40.8 times fewer, reaches 24.8%" in told("headline", rows)


def test_seeds_and_spread_are_told(told):
    rows = {"static-32": [0.73, 0.74, 0.72], "continuous-10x-32": [0.60, 0.66, 0.63], "ode-32": [0.61, 0.59, 0.65]}
    text = told("accuracy", rows)
    assert "| 63.0% (60.0% to 66.0%) | −10.0 | 3 | 4 |" in text
    assert "+1.3 points (no difference beyond the spread of seeds)." in text
    rows["ode-32"] = [0.58, 0.59]
    assert "(better, every seed)." in told("accuracy", rows)
    rows["ode-32"] = [0.70, 0.67]
    assert "(worse, every seed)." in told("accuracy", rows)
    rows["ode-32"] = [0.64]
    assert "(no difference that one seed can show)." in told("accuracy", rows)
    assert "3 seeds" in told("headline", rows)


@pytest.mark.parametrize(
    ("without", "says"),
    [
        ([0.50, 0.51, 0.52], "helps; every seed is above every seed without it"),
        ([0.60, 0.62, 0.64], "neither helps nor harms beyond the spread of seeds"),
        ([0.70, 0.71, 0.72], "costs accuracy; every seed is below every seed without it"),
        ([0.50], "not judged, fewer than two seeds of one of them"),
    ],
)
def test_whether_adaptation_helps_is_judged_by_seeds(told, without, says):
    text = told("design", {"ablation-base": [0.60, 0.61, 0.63], "ablation-full-depth": without})
    assert f"Depth by complexity, against all layers for every image: {says}." in text
    assert "Kernels by complexity" not in text


def test_the_search_lists_differences_and_their_absence(told):
    text = told("design", {"design-rank2": [0.481], "design-coordinates": [0.437], "design-rank4": [0.479]})
    assert (
        "- 32 matrices of rank 2 instead of 88 waves in channel coordinates: +4.4 points (48.1% against 43.7%)" in text
    )
    assert "- No difference to be seen, points: 32 matrices of rank 2 instead of 16 of rank 4 (+0.2)." in text
    assert "The ablation has no runs yet." in text


@pytest.mark.parametrize(("what", "instead", "one", "other"), told_design.COMPARISONS)
def test_what_the_search_compares_differs_in_one_thing(what, instead, one, other):
    found = []
    for name in (one, other):
        row = ROWS[f"design-{name}"]
        flags = dict(flag.split("=", 1) for flag in row.flags())
        options = {key: value for key, value in row.options.items() if (key, value) != ("omega", 10.0)}  # the default
        found.append({**flags, "--puppeteer-options": options, "--puppeteer": row.puppeteer})
    differ = {name for name in found[0].keys() | found[1].keys() if found[0].get(name) != found[1].get(name)}
    assert differ
    # An optimiser has a rate of its own.
    alone = {"--puppeteer", "--puppeteer-options"}, {"--optimiser", "--learning-rate"}
    assert any(differ <= each for each in alone) or len(differ) == 1, differ


@pytest.mark.parametrize("say", LANGUAGES, ids=lambda say: say.code)
def test_without_results_every_region_says_so_in_words(tmp_path, say):
    for name, region in readme.REGIONS.items():
        text = region(Results(tmp_path, say=say))
        assert text, name
        assert not re.search(r"\d[\d.,]*\s*(?:%|×|MiB|ms)", text), text


@pytest.mark.parametrize("say", LANGUAGES, ids=lambda say: say.code)
def test_any_part_of_the_study_can_be_told(told, say):
    names = [row.name for row in study.ROWS]
    for some, accuracies in (([], []), (names, [0.5]), (names, [0.5, 0.6]), (names[::3], [0.4])):
        part = dict.fromkeys(some, accuracies)
        for region in ("headline", "accuracy", "design", "missed"):
            assert "does not hold" not in told(region, part, say)
            assert "ここで読む内容がなく" not in told(region, part, say)


def test_missed_targets_are_named(tmp_path):
    shutil.copy(results_file.FOLDER / "memory.json", tmp_path)
    region = readme.REGIONS["missed"]
    assert "memory.json" not in region(Results(tmp_path))
    data = json.loads((tmp_path / "memory.json").read_text())
    data["rows"][0] |= {"ratio": 0.75, "reached": False}
    (tmp_path / "memory.json").write_text(json.dumps(data))
    assert "(XLA's account), target ≤ 0.5: 0.750." in region(Results(tmp_path))
    assert "(目標 ≤ 0.5): 0.750。" in region(Results(tmp_path, say=JAPANESE))


def test_a_gpu_that_was_timed_is_named(tmp_path):
    assert "not been timed on those devices" in readme.REGIONS["gpu"](Results(tmp_path))
    (tmp_path / "gpu_card.json").write_text(json.dumps({"device": "A card"}))
    assert "Timed on a GPU: A card" in readme.REGIONS["gpu"](Results(tmp_path))
