"""Accuracy over seeds: ``accuracy_*.json`` by part, ``digits.json``, ``cifar10_one_epoch.json``."""

import statistics

from bench.accuracy import rows_of
from bench.report.words import mib, number, percent
from bench.table import markdown

PARTS = {
    "main": "what is reported, on test images that chose nothing",
    "ablation": "one thing changed, on validation images",
    "design": "how to build each generator at equal stored parameters, on validation images",
}


def study(data: dict) -> str:
    """The parts of the study that have runs, best first in each; those that have none are named."""
    done = {run["command"]: run for run in data["runs"]}
    others = dict.fromkeys(run["part"] for run in data["runs"] if run["part"] not in PARTS)
    parts = []
    for part in (*PARTS, *others):
        lines = sorted(rows_of(done, part), key=lambda line: -line["accuracy"])
        heading = f"#### {part}" + (f": {PARTS[part]}" if part in PARTS else "")
        body = (
            _table(lines)
            if lines
            else f"No runs of this part yet: `python -m bench accuracy --rows {part}` makes them."
        )
        parts += [heading, f"Data: {data['data']}.", body]
    return "\n\n".join(parts)


def _table(lines: list[dict]) -> str:
    head = (
        "kernels from",
        "width",
        "epochs",
        "kernel parameters",
        "fewer",
        "all parameters",
        "fewer",
        "accuracy, mean",
    )
    rows = [
        (
            line["what"],
            line["width"],
            line["epochs"],
            f"{line['generator']:,}",
            f"{number(line['kernel_compression'])}×",
            f"{line['total']:,}",
            f"{number(line['compression'])}×",
            percent(line["accuracy"]),
            _spread(line),
            ", ".join(map(str, sorted(line["seeds"]))),
            line["evaluated_on"],
        )
        for line in lines
    ]
    return markdown((*head, "least to greatest", "seeds", "on"), rows)


def _spread(line: dict) -> str:
    if len(line["seeds"]) == 1:
        return "one run"
    return f"{percent(line['least'])} to {percent(line['greatest'])}"


def digits(data: dict) -> str:
    """Each puppeteer's accuracy, from the runs."""
    rows = []
    for name in dict.fromkeys(run["puppeteer"] for run in data["runs"]):
        runs = [run for run in data["runs"] if run["puppeteer"] == name]
        accuracies, parameters = [run["test_accuracy"] for run in runs], runs[0]["parameters"]
        rows.append(
            (
                name,
                f"{parameters['generator']:,}",
                f"{parameters['total']:,}",
                f"{number(parameters['static_twin'] / parameters['total'])}×",
                percent(statistics.mean(accuracies)),
                f"{percent(min(accuracies))} to {percent(max(accuracies))}",
                ", ".join(str(run["seed"]) for run in runs),
                f"{statistics.mean(run['train_seconds'] for run in runs):.1f}",
            )
        )
    head = ("puppeteer", "kernel parameters", "all parameters", "fewer", "accuracy, mean", "least to greatest", "seeds")
    return f"{data['what']}.\n\n{markdown((*head, 's of training'), rows)}"


def one_epoch(data: dict) -> str:
    found = data["summary"]
    rows = [
        ("test accuracy", percent(found["test_accuracy"])),
        ("seconds of training", f"{found['train_seconds']:.1f}"),
        ("memory at most, MiB", mib(found["peak_memory_bytes"])),
        ("all parameters", f"{found['parameters']['total']:,}"),
        ("fewer than the static twin's", f"{number(found['compression'])}×"),
    ]
    return f"{data['what']}. One run.\n\n{markdown(('', ''), rows)}"
