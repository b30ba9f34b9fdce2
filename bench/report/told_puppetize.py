"""The README on somebody else's CNNs as puppets."""

from bench.report.puppetize import FILE
from bench.report.results import Results
from bench.report.told import link, tell
from bench.report.words import Language, number, percent


def puppetize(results: Results) -> str:
    return tell(results, FILE, _puppetize)


def _puppetize(data: dict, say: Language) -> str:
    lines = []
    for name, found in data["parameters"].items():
        times = say.several(
            say("{spread} with `{norm}`", spread=say.spread(*_ratio(line)), norm=line["batch_norm"])
            for line in data["speed"]
            if (line["net"], line["depth"]) == (name, "full")
        )
        told = say(
            "{net}: all blocks take, of its own time, {times}; it stores {total} parameters instead of {twin}, {n} "
            "times fewer in all.",
            net=name,
            times=times,
            total=f"{found['total']:,}",
            twin=f"{found['static_twin']:,}",
            n=number(found["static_twin"] / found["total"]),
        )
        own, ours = (
            {line["data"]: line for line in data["accuracy"] if (line["net"], line["kernels"]) == (name, kernels)}
            for kernels in ("original", "continuous")
        )
        learned = [
            say(
                "{data} {ours} (itself {own})",
                data=each,
                ours=percent(ours[each]["accuracy"]),
                own=percent(own[each]["accuracy"]),
            )
            for each in own
            if each in ours
        ]
        after = say("Trained alike for a short time, one seed, it reaches: {learned}.", learned=say.several(learned))
        lines.append("- " + say.together([told, *([after] if learned else [])]))
    return "\n".join([*lines, say("File: {file}.", file=link(FILE))])


def _ratio(line: dict) -> tuple[float, float, float]:
    return tuple(line["over_original"][key] for key in ("median", "low", "high"))
