"""What the sources claim (``claims.json``) beside what was measured, each number with the file that it is read from."""

import json
from collections.abc import Callable
from pathlib import Path

from bench.report.accuracy import digits_lines, lines_of
from bench.report.results import Results, Unreadable
from bench.report.words import Language, mib, number, percent
from bench.table import markdown

_STUDY, _DIGITS, _EPOCH = "accuracy_cifar10.json", "digits.json", "cifar10_one_epoch.json"
_CIFAR = "CIFAR-10 (a JPEG-recoded copy)"
_NO_RUNS = "the study's part main has no runs yet"


def render(results: Results) -> str:
    say = results.say
    claims = json.loads(Path(__file__).with_name("claims.json").read_text(encoding="utf-8"))
    rows = [
        (
            say(each["claim"]),
            say(each["source"]),
            "<br>".join(_told(results, *cell) for cell in _MEASURED[each["measured"]]),
        )
        for each in claims
    ]
    return markdown([say(each) for each in ("claim", "source", "measured here")], rows)


def _told(results: Results, name: str, tell: Callable[[dict, Language], str]) -> str:
    try:
        return f"{results.told(name, tell)} ([{name}](results/{name}))"
    except Unreadable as problem:
        return results.say("not measured: {problem}", problem=problem)


def _smaller(word: Callable[[float, Language], str]) -> tuple[tuple[str, Callable[[dict, Language], str]], ...]:
    """How much smaller each model is than its static twin, in the study and on digits; ``word`` says it of a factor."""

    def study(data: dict, say: Language) -> str:
        by_width = {}
        for each in lines_of(data, "main"):
            found = each["puppeteer"], say.term(each["what"]), each["compression"], each["accuracy"]
            by_width.setdefault(each["width"], []).append(found)
        told = [
            say("{where}, width {n}: {told}", where=say(_CIFAR), n=width, told=_compared(found, word, say))
            for width, found in by_width.items()
            if any(who != "stored" for who, *_ in found)
        ]
        return "<br>".join(told) or say("{where}: {told}", where=say(_CIFAR), told=say(_NO_RUNS))

    def digits(data: dict, say: Language) -> str:
        found = [
            (each["puppeteer"], each["puppeteer"], each["static_twin"] / each["total"], each["accuracy"])
            for each in digits_lines(data)
        ]
        return say("{where}: {told}", where="digits", told=_compared(found, word, say))

    return (_STUDY, study), (_DIGITS, digits)


def _compared(found, word: Callable[[float, Language], str], say: Language) -> str:
    """Of (puppeteer, what, factor, accuracy) each: the static twin's accuracy, and the others' with their factor."""
    twin = [say("static twin {share} accurate", share=percent(share)) for who, _, _, share in found if who == "stored"]
    others = [
        say("{what} {smaller}, {share}", what=what, smaller=word(factor, say), share=percent(share))
        for who, what, factor, share in found
        if who != "stored"
    ]
    return say.several(twin + others)


def _memory(data: dict, say: Language) -> str:
    found = data["contenders"]
    names = {
        "train_exact_direct": "DirectAdjoint, which keeps them,",
        "train_exact": "recursive checkpoints",
        "train_exact_backsolve": "BacksolveAdjoint",
        "train_interpolated": "kernels interpolated, no adjoint for an image,",
        "train_static_jax": "static twin",
    }
    told = [
        say("{what} {n} MiB", what=say(what), n=mib(found[name]["xla_bytes"]))
        for name, what in names.items()
        if name in found
    ]
    return say("a training step of {size}: {told}", size=data["size"], told=say.several(told))


def _median(data: dict, measurement: str, contender: str) -> float:
    return data["measurements"][measurement]["contenders"][contender]["median_s"]


def _generation(data: dict, say: Language) -> str:
    told = []
    for name, one in data["measurements"].items():
        kind, _, size = name.partition(" ")
        predict = f"predict {size}"
        if kind != "generate" or predict not in data["measurements"]:
            continue
        for part, whole, what in (
            ("torch_generate", "torch_batched", "PyTorch's conventional prediction"),
            ("generate_exact", "exact", "JAX's exact prediction"),
        ):
            if part in one["contenders"] and whole in data["measurements"][predict]["contenders"]:
                share = _median(data, name, part) / _median(data, predict, whole)
                said = "{share} of {what} at {size} (two measurements, not in turns)"
                told.append(say(said, share=f"{share:.0%}", what=say(what), size=size))
    return say.several(told) or say("no generation was measured beside a prediction of its size")


def _continuous(data: dict, say: Language) -> str:
    rows = [row for row in data["rows"] if row["number"] == 12]
    if not rows:
        return say("the file has no comparison of continuous with ODE generation")
    told = "{n} times as fast to generate, {where}"
    return say.several(say(told, n=number(row["median"]), where=row["measurement"]) for row in rows)


def _baked(data: dict, say: Language) -> str:
    found = [row for row in data["rows"] if row["number"] == 4]
    told = [
        say("{n} times as fast at {size}", n=number(row["median"]), size=row["measurement"].partition(" ")[2])
        for row in found
    ]
    return say(
        "with kernels interpolated in H, whatever generates them, prediction by compile_predict against PyTorch's "
        "conventional one: {told}",
        told=say.several(told) if told else say("not measured"),
    )


def _accuracy(data: dict, say: Language) -> str:
    told = [
        say(
            "{what} {share} (width {width}, {epochs} epochs)",
            what=say.term(line["what"]),
            share=percent(line["accuracy"]),
            width=line["width"],
            epochs=line["epochs"],
        )
        for line in lines_of(data, "main")
    ]
    return say("{where}: {told}", where=say(_CIFAR), told=say.several(told) if told else say(_NO_RUNS))


def _epoch(data: dict, say: Language) -> str:
    found = data["runs"][0]
    told = "{what}: {share} after {n} epoch"
    return say(told, what=say.term(data["what"]), share=percent(found["test_accuracy"]), n=found["config"]["epochs"])


_MEASURED: dict[str, tuple[tuple[str, Callable[[dict, Language], str]], ...]] = {
    "fewer_parameters": _smaller(lambda factor, say: say("−{share} parameters", share=percent(1 - 1 / factor))),
    "times_smaller": _smaller(lambda factor, say: say("{n} times smaller", n=number(factor))),
    "memory_of_adjoints": (("memory.json", _memory),),
    "share_of_generation": (("speed.json", _generation),),
    "continuous_generation": (("speed.json", _continuous), ("speed.json", _baked)),
    "accuracy": ((_STUDY, _accuracy), (_EPOCH, _epoch)),
}
