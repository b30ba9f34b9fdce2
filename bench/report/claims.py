"""What the sources claim (``claims.json``) beside what was measured, each number with the file that it is read from."""

import json
from collections.abc import Callable
from pathlib import Path

from bench.accuracy import rows_of
from bench.report.results import Results, Unreadable, filled
from bench.report.words import mib, number, percent
from bench.table import markdown

_STUDY, _DIGITS, _EPOCH = "accuracy_cifar10.json", "digits.json", "cifar10_one_epoch.json"
_CIFAR = "CIFAR-10 (a JPEG-recoded copy)"
_NO_RUNS = "the study's part main has no runs yet"


def render(results: Results) -> str:
    claims = json.loads(Path(__file__).with_name("claims.json").read_text(encoding="utf-8"))
    rows = [
        (each["claim"], each["source"], "<br>".join(_told(results, *cell) for cell in _MEASURED[each["measured"]]))
        for each in claims
    ]
    return markdown(("claim", "source", "measured here"), rows)


def _told(results: Results, name: str, say: Callable[[dict], str]) -> str:
    try:
        return f"{filled(name, say, results.read(name))} ([{name}](results/{name}))"
    except Unreadable as problem:
        return f"not measured: {problem}"


def _smaller(word: Callable[[float], str]) -> tuple[tuple[str, Callable[[dict], str]], ...]:
    """How much smaller each model is than its static twin, in the study and on digits; ``word`` says it of a factor."""

    def study(data: dict) -> str:
        lines = _main(data)
        found = [(each["puppeteer"], each["what"], each["compression"], each["accuracy"]) for each in lines]
        return f"{_CIFAR}: {_compared(found, word) if found else _NO_RUNS}"

    def digits(data: dict) -> str:
        found = {}
        for run in data["runs"]:
            parameters = run["parameters"]
            factor = parameters["static_twin"] / parameters["total"]
            mean = data["summary"][run["puppeteer"]]["test_accuracy_mean"]
            found[run["puppeteer"]] = run["puppeteer"], run["puppeteer"], factor, mean
        return f"digits: {_compared(found.values(), word)}"

    return (_STUDY, study), (_DIGITS, digits)


def _compared(found, word: Callable[[float], str]) -> str:
    """Of (puppeteer, what, factor, accuracy) each: the static twin's accuracy, and the others' with their factor."""
    twin = [f"static twin {percent(accuracy)} accurate" for who, _, _, accuracy in found if who == "stored"]
    others = [f"{what} {word(factor)}, {percent(accuracy)}" for who, what, factor, accuracy in found if who != "stored"]
    return "; ".join(twin + others)


def _main(data: dict) -> list[dict]:
    return rows_of({run["command"]: run for run in data["runs"]}, "main")


def _memory(data: dict) -> str:
    found = data["contenders"]
    names = {
        "train_exact_direct": "DirectAdjoint, which keeps them,",
        "train_exact": "recursive checkpoints",
        "train_exact_backsolve": "BacksolveAdjoint",
        "train_interpolated": "kernels interpolated, no adjoint for an image,",
        "train_static_jax": "static twin",
    }
    told = [f"{what} {mib(found[name]['xla_bytes'])} MiB" for name, what in names.items() if name in found]
    return f"a training step of {data['size']}: " + "; ".join(told)


def _median(data: dict, measurement: str, contender: str) -> float:
    return data["measurements"][measurement]["contenders"][contender]["median_s"]


def _generation(data: dict) -> str:
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
                told.append(f"{share:.0%} of {what} at {size} (two measurements, not in turns)")
    return "; ".join(told) or "no generation was measured beside a prediction of its size"


def _continuous(data: dict) -> str:
    rows = [row for row in data["rows"] if row["number"] == 12]
    if not rows:
        return "the file has no comparison of continuous with ODE generation"
    return "; ".join(f"{number(row['median'])} times as fast to generate, {row['measurement']}" for row in rows)


def _baked(data: dict) -> str:
    found = [row for row in data["rows"] if row["number"] == 4]
    told = [f"{number(row['median'])} times as fast at {row['measurement'].partition(' ')[2]}" for row in found]
    return (
        "with kernels interpolated in H, whatever generates them, prediction by compile_predict against PyTorch's "
        + (f"conventional one: {'; '.join(told)}" if told else "conventional one was not measured")
    )


def _accuracy(data: dict) -> str:
    told = [
        f"{line['what']} {percent(line['accuracy'])} (width {line['width']}, {line['epochs']} epochs)"
        for line in _main(data)
    ]
    return f"{_CIFAR}: {'; '.join(told) if told else _NO_RUNS}"


def _epoch(data: dict) -> str:
    found = data["summary"]
    return f"{data['what']}: {percent(found['test_accuracy'])} after {found['epochs']} epoch"


_MEASURED: dict[str, tuple[tuple[str, Callable[[dict], str]], ...]] = {
    "fewer_parameters": _smaller(lambda factor: f"−{percent(1 - 1 / factor)} parameters"),
    "times_smaller": _smaller(lambda factor: f"{number(factor)} times smaller"),
    "memory_of_adjoints": (("memory.json", _memory),),
    "share_of_generation": (("speed.json", _generation),),
    "continuous_generation": (("speed.json", _continuous), ("speed.json", _baked)),
    "accuracy": ((_STUDY, _accuracy), (_EPOCH, _epoch)),
}
