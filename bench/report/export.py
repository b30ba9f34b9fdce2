"""An exported model: its first answer in a fresh process, and its speed beside the predictor's: ``export.json``."""

import statistics

from bench.export import STAGES
from bench.report.words import Language
from bench.table import markdown, milliseconds


def render(data: dict, say: Language) -> str:
    stages = [
        (
            say(what),
            say.spread(statistics.median(seconds), min(seconds), max(seconds)),
        )
        for what, seconds in ((STAGES[stage], data["seconds"][stage]) for stage in STAGES)
    ]
    batches = [
        (
            line["batch"],
            *(milliseconds(statistics.median(line[name])) for name in ("native_s", "exported_s")),
            say.spread(line["ratio"]["median"], line["ratio"]["low"], line["ratio"]["high"]),
            f"{line['error_of_batch']:.1e}",
        )
        for line in data["batches"]
    ]
    told = say(
        "{model}, {size} bytes. Target of the first answer: ≤ {target} s, {verdict} (median of {rounds} fresh "
        "processes).",
        model=data["model"],
        size=f"{data['bytes']:,}",
        target=f"{data['target']['seconds']:g}",
        verdict=say.verdict(data["target"]["reached"]),
        rounds=data["rounds"],
    )
    same = (
        say("Fresh processes answered with the same bytes as the one that exported.")
        if data["same_bytes"]
        else say("Fresh processes did **not** answer with the same bytes as the one that exported.")
    )
    parts = [told, same]
    if small := data.get("puppeteer"):
        seconds = small["seconds"]
        parts.append(
            say(
                'With the puppeteer for its kernels (`store="puppeteer"`): {size} bytes, first answer after {s} s.',
                size=f"{small['bytes']:,}",
                s=say.spread(statistics.median(seconds), min(seconds), max(seconds)),
            )
        )
    head = (
        "batch",
        "ms, `compile_predict`",
        "ms, exported",
        "time over `compile_predict`'s (quartiles)",
        "error of the logits",
    )
    until = ("until the first answer", "s, median (least to greatest)")
    tables = [markdown([say(each) for each in until], stages), markdown([say(each) for each in head], batches)]
    return "\n\n".join([say.together(parts), *tables])
