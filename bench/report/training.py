"""The trainer and its surroundings: ``trainer_*.json``, ``precision_*.json``, ``huge_pages.json``."""

import statistics

from bench import precision
from bench.report.words import spread
from bench.table import markdown

_SENSE = {">=": "≥", "<=": "≤"}


def trainer(data: dict) -> str:
    rows = [
        (
            row["what"],
            spread(row["median"], row["low"], row["high"]),
            f"{_SENSE[row['sense']]} {row['target']:g}",
            "reached" if row["reached"] else "missed",
        )
        for row in data["rows"]
    ]
    count = len(data["rounds"])
    told = f"{data['what']}; {count} round{'s' if count != 1 else ''}."
    return f"{told}\n\n{markdown(('what', 'median (least to greatest)', 'target', ''), rows)}"


def precision_table(data: dict) -> str:
    target = data["target"]
    told = f"Target of float32's error over all images: ≤ {target['error_of_batch']:.0e}, "
    return f"{precision.report(data)}\n\n{told}{'reached' if target['reached'] else 'missed'}."


def huge_pages(data: dict) -> str:
    rows = [
        (
            line["width"],
            *(f"{statistics.median(line['seconds'][name]):.1f}" for name in ("without", "with")),
            spread(line["faster"]["median"], line["faster"]["low"], line["faster"]["high"]),
        )
        for line in data["widths"]
    ]
    told = f"{data['steps']} steps on {data['data']}, {data['rounds']} rounds."
    return f"{told}\n\n{markdown(('width', 's without', 's with', 'times as fast (quartiles)'), rows)}"
