"""The README on accuracy: its first sentence, the study's main table, digits."""

from bench.report.accuracy import digits_lines, lines_of
from bench.report.results import Results
from bench.report.told import STUDY, accuracy, link, points, seeds, tell, verdict
from bench.report.words import Language, number
from bench.table import markdown

AIM = 0.02
"""How far below its static twin the continuous puppeteer may be at a tenth of its kernel parameters."""


def first_sentence(data: dict, say: Language) -> str:
    """Continuous, printed and static at the width with the most seeds."""
    lines = {line["row"]: line for line in lines_of(data, "main")}
    pairs = _pairs(lines)
    if not pairs:
        return say("Accuracy: the study on CIFAR-10 is not done.")
    continuous, static = max(pairs, key=lambda pair: (len(pair[0]["seeds"]), -pair[0]["width"]))
    told = [
        say(
            "On CIFAR-10 (a JPEG-recoded copy, {epochs} epochs, {width} channels, {seeds}) continuous kernels that "
            "store {fewer} times fewer parameters than the static twin's reach {accuracy}; the static twin reaches "
            "{static}.",
            epochs=continuous["epochs"],
            width=continuous["width"],
            seeds=seeds(continuous, say),
            fewer=number(continuous["kernel_compression"]),
            accuracy=accuracy(continuous, say),
            static=accuracy(static, say),
        )
    ]
    if printed := lines.get(f"printed-{continuous['width']}"):
        said = "The ODE as the paper prints it, with {fewer} times fewer, reaches {accuracy}."
        fewer = number(printed["kernel_compression"])
        told.append(say(said, fewer=fewer, accuracy=accuracy(printed, say)))
    return say.together([*told, _aim(continuous, static, say)])


def main(results: Results) -> str:
    """The table, and what its rows say of each other."""
    return tell(results, STUDY, _main)


def digits(results: Results) -> str:
    return tell(results, "digits.json", _digits)


def missed(data: dict, say: Language) -> list[str]:
    """Widths at which continuous kernels are further below the static twin than was aimed at."""
    pairs = _pairs({line["row"]: line for line in lines_of(data, "main")})
    return [
        say("{width} channels. {aim}", width=one["width"], aim=_aim(one, other, say))
        for one, other in pairs
        if other["accuracy"] - one["accuracy"] > AIM
    ]


def _pairs(lines: dict[str, dict]) -> list[tuple[dict, dict]]:
    """Continuous and static of each width that has both."""
    found = [(line, lines.get(f"static-{line['width']}")) for name, line in lines.items() if "continuous-10x-" in name]
    return sorted(((one, other) for one, other in found if other), key=lambda pair: pair[0]["width"])


def _aim(one: dict, static: dict, say: Language) -> str:
    gap = static["accuracy"] - one["accuracy"]
    if gap <= 0:
        return say("Continuous is not below its static twin.")
    told = (
        "Continuous is {gap} points below its static twin, within the two that were aimed at."
        if gap <= AIM
        else "Continuous is {gap} points below its static twin, more than the two that were aimed at."
    )
    return say(told, gap=f"{100 * gap:.1f}")


def _main(data: dict, say: Language) -> str:
    lines = {line["row"]: line for line in lines_of(data, "main")}
    about = say("{data}. File: {file}.", data=say.term(data["data"]), file=link(STUDY))
    if not lines:
        return f"{about}\n\n{say('The main part of the study has no runs yet.')}"
    told = say(
        "Same puppet and recipe, found in a search on held-out training images; accuracy of the last epoch on test "
        "images that chose nothing; mean and, where there are several seeds, least to greatest."
    )
    rows = []
    for line in sorted(lines.values(), key=lambda line: (line["width"], -line["generator"], line["row"])):
        static = lines.get(f"static-{line['width']}")
        apart = "–" if static is None or static is line else points(line["accuracy"] - static["accuracy"])
        stored = f"{line['generator']:,}", f"{number(line['kernel_compression'])}×"
        count = len(line["seeds"]), line["epochs"]
        rows.append((say.term(line["what"]), line["width"], *stored, accuracy(line, say), apart, *count))
    head = ("kernels from", "channels", "stored for kernels", "fewer", "test accuracy", "to its static twin, points")
    table = markdown([say(each) for each in (*head, "seeds", "epochs")], rows)
    notes = [f"- {each}" for each in _notes(lines, say)]
    return "\n\n".join([about, told, table, *(["\n".join(notes)] if notes else [])])


def _notes(lines: dict[str, dict], say: Language) -> list[str]:
    notes = [
        say("{width} channels. {aim}", width=one["width"], aim=_aim(one, static, say)) for one, static in _pairs(lines)
    ]
    narrow = lines.get("static-10")
    for name, one in lines.items():
        if "continuous-10x-" not in name:
            continue
        ode = lines.get(f"ode-{one['width']}")
        told = []
        if ode:
            told.append((say("the ODE with a learned start that stores as much"), ode))
        if narrow and one["width"] == 32:
            told.append(
                (say("a static CNN of 10 channels, {n} kernel parameters", n=f"{narrow['generator']:,}"), narrow)
            )
        notes += [
            say(
                "{width} channels: continuous against {what}: {points} points ({verdict}).",
                width=one["width"],
                what=what,
                points=points(one["accuracy"] - other["accuracy"]),
                verdict=verdict(one, other, say),
            )
            for what, other in told
        ]
    return notes


def _digits(data: dict, say: Language) -> str:
    names = {
        "stored": "stored (static twin)",
        "continuous": "continuous",
        "ode": "ODE, learned start, standardised",
        "printed": "ODE as printed",
    }
    lines = digits_lines(data)
    rows = [
        (
            say(names.get(line["puppeteer"], line["puppeteer"])),
            f"{line['generator']:,}",
            f"{line['total']:,}",
            accuracy(line, say),
        )
        for line in sorted(lines, key=lambda line: -line["generator"])
    ]
    head = ("kernels from", "stored for kernels", "all parameters", "test accuracy, mean (least to greatest)")
    told = say("{what}. File: {file}.", what=say.term(data["what"]), file=link("digits.json"))
    parts = [told, markdown([say(each) for each in head], rows)]
    by = {line["puppeteer"]: line["accuracy"] for line in lines}
    if by.get("printed", 1.0) < 0.5 * by.get("ode", 0.0):
        parts.append(
            say(
                "The printed form learns little: from a constant initial state its stencil can hardly tell input "
                "channels apart. It is there to be compared with."
            )
        )
    return "\n\n".join(parts)
