"""Predicting a folder of images: ``predict_*.json``."""

import statistics

from bench.report.training import targets, told_rounds
from bench.report.words import Language, mib
from bench.table import markdown

_RATES = (("memory", "the network alone, images in memory"), ("folder", "a folder of files to a file of predictions"))


def render(data: dict, say: Language) -> str:
    rates = [(say(what), f"{statistics.median(r[key] for r in data['rounds']):,.0f}") for key, what in _RATES]
    costs = [(say(what), f"{cost:,.0f}") for what, cost in data["microseconds_an_image"].items()]
    peaks = [(f"{each['images']:,}", mib(each["peak_bytes"]), f"{each['seconds']:.1f}") for each in data["peaks"]]
    heads = (
        ("", "images/s"),
        ("processor time", "µs an image, all cores"),
        ("images", "peak memory of the whole command, MiB", "seconds"),
    )
    tables = [
        markdown([say(each) for each in head], lines) for head, lines in zip(heads, (rates, costs, peaks), strict=True)
    ]
    return "\n\n".join([told_rounds(data, say), targets(data, "median (quartiles)", say), *tables])
