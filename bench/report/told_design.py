"""The README on the design: what did and what did not help, by the study's short runs and its ablation."""

from bench.report.accuracy import lines_of
from bench.report.results import Results
from bench.report.told import STUDY, accuracy, clear, link, points, seeds, tell, told_apart, verdict
from bench.report.words import Language

# what, instead of what, the row of each after "design-": recipes differ in nothing else
_RANK2 = "32 matrices of rank 2"
COMPARISONS = (
    ("static twin: flips alone", "flips and crops", "recipe-stored-flip-alone", "static-0.02"),
    ("rank 2: flips alone", "flips and crops", "recipe-rank2-flip-alone", "rank2-omega10-0.01"),
    ("static twin: batches of 32", "64", "recipe-stored-batch-32", "static-0.02"),
    (_RANK2, "4 whole matrices", "rank2", "basis"),
    (_RANK2, "56 of rank 1", "rank2", "rank1"),
    (_RANK2, "16 of rank 4", "rank2", "rank4"),
    (_RANK2, "88 waves in channel coordinates", "rank2", "coordinates"),
    (_RANK2, "120 fixed matrices, mixed", "recipe-rank2-flip-alone", "third-mixed-0.01"),
    ("one layer of sines, wider", "two", "third-rank2-one-layer-0.02", "third-rank2-0.02"),
    (
        "64 whole matrices: layers far apart in s, alike for all images",
        "s = l·dl, as near as taps",
        "fourth-basis64-none-omega60",
        "third-basis64-0.01",
    ),
    ("64 whole matrices", "the static twin, which stores less", "basis64-omega10-0.004", "static-0.004"),
    ("static twin: Muon", "AdamW", "fifth-stored-0.02", "recipe-stored-flip-alone"),
    ("rank 2: Muon", "AdamW", "fifth-rank2-0.02", "recipe-rank2-flip-alone"),
    ("64 whole matrices: Muon", "AdamW", "fifth-basis64-0.02", "third-basis64-0.01"),
    ("ODE: Muon", "AdamW", "fifth-ode-0.02", "third-ode-0.02"),
    ("ODE as printed: Muon", "AdamW", "fifth-printed-0.02", "third-printed-0.01"),
    ("with Muon: 64 whole matrices", "the static twin, which stores less", "fifth-basis64-0.02", "fifth-stored-0.02"),
    ("with Muon: 32 matrices of rank 2", "16 of rank 4", "fifth-rank2-0.02", "fifth-rank4-0.02"),
    ("ODE: a field over three axes", "the published one", "third-tucker-0.01", "third-ode-0.01"),
    ("ODE: a rate of 2e-2", "1e-2", "third-ode-0.02", "third-ode-0.01"),
    ("ODE: a learned start of rank 58, standardised", "as printed", "third-ode-0.01", "third-printed-0.01"),
)
_QUESTIONS = (
    ("ablation-full-depth", "Depth by complexity, against all layers for every image"),
    ("ablation-one-kernel", "Kernels by complexity, against the same for every image"),
)


def design(results: Results) -> str:
    return tell(results, STUDY, _design)


def _design(data: dict, say: Language) -> str:
    return "\n\n".join([_ablation(data, say), _search(data, say)])


def _ablation(data: dict, say: Language) -> str:
    """One thing changed, against the base; and what that says of adaptation."""
    lines = {line["row"]: line for line in lines_of(data, "ablation")}
    base = lines.get("ablation-base")
    if base is None:
        return say("The ablation has no runs yet.")
    told = say(
        "One thing changed in the continuous puppeteer ({epochs} epochs, {width} channels, validation images, other "
        "seeds than those that chose the design; {file}), which as it is reaches {accuracy}, {seeds}:",
        epochs=base["epochs"],
        width=base["width"],
        file=link(STUDY),
        accuracy=accuracy(base, say),
        seeds=seeds(base, say),
    )
    answers = [_answer(base, lines[row], say(what), say) for row, what in _QUESTIONS if row in lines]
    pairs = [(line, lines.get("ablation-Euler") if line["puppeteer"] == "ode" else base) for line in lines.values()]
    found = [(say.term(line["what"]), line, other) for line, other in pairs if other and other is not line]
    return "\n".join([told, "", *(f"- {each}" for each in answers), *_listed(found, say)])


def _answer(base: dict, without: dict, what: str, say: Language) -> str:
    """Whether an adaptation helps, if seeds can tell."""
    words = {
        None: "{what}: not judged, fewer than two seeds of one of them.",
        1: "{what}: helps; every seed is above every seed without it.",
        0: "{what}: neither helps nor harms beyond the spread of seeds.",
        -1: "{what}: costs accuracy; every seed is below every seed without it.",
    }
    return say(words[clear(base, without)], what=what)


def _search(data: dict, say: Language) -> str:
    """What the search compared, two short runs each."""
    lines = {line["row"].removeprefix("design-"): line for line in lines_of(data, "design")}
    found = [
        (say("{what} instead of {other}", what=say(what), other=say(instead)), lines[one], lines[other])
        for what, instead, one, other in COMPARISONS
        if one in lines and other in lines
    ]
    if not found:
        return say("The search for a design has no runs yet.")
    told = say(
        "The search: two runs of {epochs} epochs each, alike but for what is named, one seed, so that differences of "
        "up to two points mean nothing ({file}):",
        epochs=found[0][1]["epochs"],
        file=link(STUDY),
    )
    return "\n".join([told, "", *_listed(found, say)])


def _listed(found: list[tuple[str, dict, dict]], say: Language) -> list[str]:
    """Comparisons as items of a list; in the last, all those that show no difference."""
    items, none = [], []
    for what, one, other in found:
        difference = points(one["accuracy"] - other["accuracy"])
        if told_apart(one, other):
            both = accuracy(one, say), accuracy(other, say)
            said = "- {what}: {points} points ({one} against {other}); {verdict}."
            items.append(
                say(said, what=what, points=difference, one=both[0], other=both[1], verdict=verdict(one, other, say))
            )
        else:
            none.append(say("{what} ({points})", what=what, points=difference))
    return [*items, *([say("- No difference to be seen, points: {names}.", names=say.several(none))] if none else [])]
