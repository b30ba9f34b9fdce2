"""The trainer and its surroundings: ``trainer_*.json``, ``precision_*.json``, ``huge_pages.json``."""

import statistics

from bench.report.words import Language
from bench.table import markdown

_SENSE = {">=": "≥", "<=": "≤"}
_PRECISION = ("compute type", "accuracy", "another class than the exact model", "error, all images")
_PRECISION += ("error of an image: median", "greatest")
_ERRORS = ("error_of_batch", "error_of_image_median", "error_of_image_greatest")


def trainer(data: dict, say: Language) -> str:
    return f"{told_rounds(data, say)}\n\n{targets(data, 'median (least to greatest)', say)}"


def told_rounds(data: dict, say: Language) -> str:
    """What was measured, and in how many rounds."""
    count, what = len(data["rounds"]), say.term(data["what"])
    return say("{what}; 1 round.", what=what) if count == 1 else say("{what}; {n} rounds.", what=what, n=count)


def targets(data: dict, spread: str, say: Language) -> str:
    """A table of figures beside their targets, ``spread`` over the figures' column."""
    rows = [
        (
            say.term(row["what"]),
            say.spread(row["median"], row["low"], row["high"]),
            f"{_SENSE[row['sense']]} {row['target']:g}",
            say.verdict(row["reached"]),
        )
        for row in data["rows"]
    ]
    return markdown([say(each) for each in ("what", spread, "target", "")], rows)


def precision_table(data: dict, say: Language) -> str:
    target = data["target"]
    exact = f"{data['accuracy_exact']:.2%}"
    rows = [
        (
            row["dtype"],
            say("{accuracy} (exact {exact})", accuracy=f"{row['accuracy']:.2%}", exact=exact),
            f"{row['other_class']:.2%}",
            *(f"{row[key]:.1e}" for key in _ERRORS),
        )
        for row in data["rows"]
    ]
    about = say("{what}, {n} images", what=say.term(data["what"]), n=f"{data['images']:,}")
    told = say(
        "Target of float32's error over all images: ≤ {target}, {verdict}.",
        target=f"{target['error_of_batch']:.0e}",
        verdict=say.verdict(target["reached"]),
    )
    return f"{about}\n\n{markdown([say(each) for each in _PRECISION], rows)}\n\n{told}"


def huge_pages(data: dict, say: Language) -> str:
    rows = [
        (
            line["width"],
            *(f"{statistics.median(line['seconds'][name]):.1f}" for name in ("without", "with")),
            say.spread(line["faster"]["median"], line["faster"]["low"], line["faster"]["high"]),
        )
        for line in data["widths"]
    ]
    about = {"steps": data["steps"], "data": data["data"], "rounds": data["rounds"]}
    told = say("{steps} steps on {data}, {rounds} rounds.", **about)
    head = ("width", "s without", "s with", "times as fast (quartiles)")
    return f"{told}\n\n{markdown([say(each) for each in head], rows)}"
