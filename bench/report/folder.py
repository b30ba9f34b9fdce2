"""Predicting a folder of images: ``predict_*.json``."""

import statistics

from bench.report.words import Language, mib
from bench.table import markdown

_RATES = (("memory", "the network alone, images in memory"), ("folder", "a folder of files to a file of predictions"))


def render(data: dict, say: Language) -> str:
    rows = [
        (
            say.term(row["what"]),
            say.spread(row["median"], row["low"], row["high"]),
            f"≥ {row['target']:g}",
            say.verdict(row["reached"]),
        )
        for row in data["rows"]
    ]
    rates = [(say(what), f"{statistics.median(r[key] for r in data['rounds']):,.0f}") for key, what in _RATES]
    costs = [(say(what), f"{cost:,.0f}") for what, cost in data["microseconds_an_image"].items()]
    peaks = [(f"{each['images']:,}", mib(each["peak_bytes"]), f"{each['seconds']:.1f}") for each in data["peaks"]]
    heads = (
        ("what", "median (quartiles)", "target", ""),
        ("", "images/s"),
        ("processor time", "µs an image, all cores"),
        ("images", "peak memory of the whole command, MiB", "seconds"),
    )
    count, what = len(data["rounds"]), say.term(data["what"])
    told = say("{what}; 1 round.", what=what) if count == 1 else say("{what}; {n} rounds.", what=what, n=count)
    tables = zip(heads, (rows, rates, costs, peaks), strict=True)
    return "\n\n".join([told, *(markdown([say(each) for each in head], lines) for head, lines in tables)])
