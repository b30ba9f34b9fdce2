"""Accuracy over seeds: ``accuracy_*.json`` by part, ``digits.json``, ``cifar10_one_epoch.json``."""

import statistics

from bench.accuracy import rows_of
from bench.report.words import Language, mib, number, percent
from bench.table import markdown

PARTS = {
    "main": "what is reported, on test images that chose nothing",
    "ablation": "one thing changed, on validation images",
    "design": "how to build each generator at equal stored parameters, on validation images",
}


def study(data: dict, say: Language) -> str:
    """The parts of the study that have runs, best first in each; those that have none are named."""
    others = dict.fromkeys(run["part"] for run in data["runs"] if run["part"] not in PARTS)
    parts = []
    for part in (*PARTS, *others):
        lines = sorted(lines_of(data, part), key=lambda line: -line["accuracy"])
        heading = f"#### {part}" + (f": {say(PARTS[part])}" if part in PARTS else "")
        none = say("No runs of this part yet: `python -m bench accuracy --rows {part}` makes them.", part=part)
        parts += [heading, say("Data: {data}.", data=say.term(data["data"])), _table(lines, say) if lines else none]
    return "\n\n".join(parts)


def lines_of(data: dict, part: str) -> list[dict]:
    """A line for each row of a part of the study that has runs."""
    return rows_of({run["command"]: run for run in data["runs"]}, part)


def _table(lines: list[dict], say: Language) -> str:
    head = ("kernels from", "width", "epochs", "kernel parameters", "fewer", "all parameters", "fewer")
    head += ("accuracy, mean", "least to greatest", "seeds", "on")
    rows = [
        (
            say.term(line["what"]),
            line["width"],
            line["epochs"],
            f"{line['generator']:,}",
            f"{number(line['kernel_compression'])}×",
            f"{line['total']:,}",
            f"{number(line['compression'])}×",
            percent(line["accuracy"]),
            _spread(line, say),
            ", ".join(map(str, sorted(line["seeds"]))),
            say.term(line["evaluated_on"]),
        )
        for line in lines
    ]
    return markdown([say(each) for each in head], rows)


def _spread(line: dict, say: Language) -> str:
    if len(line["seeds"]) == 1:
        return say("one run")
    return say("{low} to {high}", low=percent(line["least"]), high=percent(line["greatest"]))


def digits_lines(data: dict) -> list[dict]:
    """A line for each puppeteer on digits, from its runs."""
    lines = []
    for name in dict.fromkeys(run["puppeteer"] for run in data["runs"]):
        runs = [run for run in data["runs"] if run["puppeteer"] == name]
        accuracies = [run["test_accuracy"] for run in runs]
        lines.append(
            {
                "puppeteer": name,
                **runs[0]["parameters"],
                "accuracy": statistics.mean(accuracies),
                "least": min(accuracies),
                "greatest": max(accuracies),
                "seeds": [run["seed"] for run in runs],
                "train_seconds": statistics.mean(run["train_seconds"] for run in runs),
            }
        )
    return lines


def digits(data: dict, say: Language) -> str:
    """Each puppeteer's accuracy, from the runs."""
    rows = [
        (
            line["puppeteer"],
            f"{line['generator']:,}",
            f"{line['total']:,}",
            f"{number(line['static_twin'] / line['total'])}×",
            percent(line["accuracy"]),
            say("{low} to {high}", low=percent(line["least"]), high=percent(line["greatest"])),
            ", ".join(map(str, line["seeds"])),
            f"{line['train_seconds']:.1f}",
        )
        for line in digits_lines(data)
    ]
    head = ("puppeteer", "kernel parameters", "all parameters", "fewer", "accuracy, mean", "least to greatest", "seeds")
    told = say("{told}.", told=say.term(data["what"]))
    return f"{told}\n\n{markdown([say(each) for each in (*head, 's of training')], rows)}"


def one_epoch(data: dict, say: Language) -> str:
    found = data["runs"][0]
    rows = [
        (say("test accuracy"), percent(found["test_accuracy"])),
        (say("seconds of training"), f"{found['train_seconds']:.1f}"),
        (say("memory at most, MiB"), mib(found["peak_memory_bytes"])),
        (say("all parameters"), f"{found['parameters']['total']:,}"),
        (say("fewer than the static twin's"), f"{number(found['compression'])}×"),
    ]
    return say("{what}. One run.", what=say.term(data["what"])) + f"\n\n{markdown(('', ''), rows)}"
