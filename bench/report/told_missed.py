"""The README on its limits: every target that the result files say was missed."""

from bench.report import told_accuracy
from bench.report.results import Results, Unreadable
from bench.report.told import STUDY, link
from bench.report.words import Language, number

_SENSE = {"at least": "≥", "at most": "≤", ">=": "≥", "<=": "≤"}


def missed(results: Results) -> str:
    """A line for each file that holds targets, with those that were missed."""
    say, told = results.say, []
    patterns = ("speed*.json", "memory.json", "trainer_*.json", "puppetize.json", "predict_*.json")
    names = [name for pattern in patterns for name in results.names(pattern)]
    for name, render in ((STUDY, _study), *((name, _rows) for name in names)):
        try:
            text = results.told(name, render)
        except Unreadable as problem:
            text = say("Not measured: {problem}.", problem=problem)
        told += [f"- {link(name)}: {text}"] if text else []
    return "\n".join(told) or say("No target was missed.")


def _study(data: dict, say: Language) -> str:
    return say.together(told_accuracy.missed(data, say))


def _rows(data: dict, say: Language) -> str:
    """Of each target that was missed, what was reached and where."""
    found: dict[str, list[str]] = {}
    for row in data["rows"]:
        if row["reached"]:
            continue
        target = f"{_SENSE[row.get('sense', '<=')]} {row['target']:g}"
        value, where = number(row["median"] if "median" in row else row["ratio"]), row.get("measurement")
        said = say("{value} ({where})", value=value, where=where) if where else value
        found.setdefault(say("{what}, target {target}", what=say.term(row["what"]), target=target), []).append(said)
    lines = [say("{what}: {told}", what=what, told=say(", ").join(values)) for what, values in found.items()]
    return say("{told}.", told=say.several(lines)) if lines else ""
