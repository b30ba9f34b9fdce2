"""The README on training, its memory, and the precision of what comes out."""

from bench.report.results import Results
from bench.report.told import link, tell
from bench.report.words import Language, mib, number
from bench.table import markdown

_ADJOINTS = {
    "train_exact_direct": "ODE, a solve for every image, DirectAdjoint",
    "train_exact_backsolve": "ODE, a solve for every image, BacksolveAdjoint",
    "train_exact": "ODE, a solve for every image, recursive checkpoints",
    "train_interpolated": "ODE, interpolated",
    "train_continuous": "continuous, interpolated",
    "train_static_jax": "static twin",
}


def training(results: Results) -> str:
    """What surrounds the steps, and huge pages."""
    names = results.names("trainer_*.json")
    parts = [tell(results, name, lambda data, say, name=name: _trainer(name, data, say)) for name in names]
    parts = parts or [results.say("The trainer's overhead is not measured.")]
    parts += [tell(results, "huge_pages.json", _pages), tell(results, "cifar10_one_epoch.json", _epoch)]
    return "\n".join(f"- {part}" for part in parts)


def memory(results: Results) -> str:
    return tell(results, "memory.json", _memory)


def precision(results: Results) -> str:
    names = results.names("precision_*.json")
    parts = [tell(results, name, lambda data, say, name=name: _precision(name, data, say)) for name in names]
    return "\n".join(f"- {part}" for part in parts) or results.say("The precision of predictions is not measured.")


def _trainer(name: str, data: dict, say: Language) -> str:
    told = [
        say(
            "{what}: {spread}",
            what=say.term(row["what"]),
            spread=say.spread(row["median"], row["low"], row["high"])
            if len(data["rounds"]) > 1
            else number(row["median"]),
        )
        for row in data["rows"]
    ]
    said = "{what} (rounds: {n}): {told} ({file})."
    return say(said, what=say.term(data["what"]), n=len(data["rounds"]), told=say.several(told), file=link(name))


def _pages(data: dict, say: Language) -> str:
    told = [
        say("{n} times as fast at {width} channels", n=say.spread(*_ratio(line["faster"])), width=line["width"])
        for line in data["widths"]
    ]
    said = "With huge pages training runs {told}; {rounds} rounds ({file})."
    return say(said, told=say.several(told), rounds=data["rounds"], file=link("huge_pages.json"))


def _ratio(found: dict) -> tuple[float, float, float]:
    return found["median"], found["low"], found["high"]


def _epoch(data: dict, say: Language) -> str:
    found = data["runs"][0]
    return say(
        "{what}: test accuracy {accuracy}, {seconds} s, at most {memory} MiB; one run ({file}).",
        what=say.term(data["what"]),
        accuracy=f"{found['test_accuracy']:.1%}",
        seconds=f"{found['train_seconds']:.0f}",
        memory=mib(found["peak_memory_bytes"]),
        file=link("cifar10_one_epoch.json"),
    )


def _memory(data: dict, say: Language) -> str:
    found = {name: one["xla_bytes"] for name, one in data["contenders"].items() if "xla_bytes" in one}
    exact = found.get("train_exact")
    rows = [
        (say(what), mib(found[name]), number(found[name] / exact) if exact else "–")
        for name, what in _ADJOINTS.items()
        if name in found
    ]
    told = say(
        "A training step of {size} (batch, channels, map), memory by XLA's account; the default adjoint on the exact "
        "path is recursive checkpoints ({file}).",
        size=data["size"],
        file=link("memory.json"),
    )
    head = ("kernels from", "MiB", "of the exact path's")
    return f"{told}\n\n{markdown([say(each) for each in head], rows)}"


def _precision(name: str, data: dict, say: Language) -> str:
    told = [
        say(
            "{dtype}: error of the logits {error}, another class for {other} of the images, accuracy {accuracy} (exact "
            "{exact})",
            dtype=row["dtype"],
            error=f"{row['error_of_batch']:.1e}",
            other=f"{row['other_class']:.2%}",
            accuracy=f"{row['accuracy']:.2%}",
            exact=f"{data['accuracy_exact']:.2%}",
        )
        for row in data["rows"]
    ]
    what = say("{what}, {n} images", what=say.term(data["what"]), n=f"{data['images']:,}")
    return say("{what}: {told} ({file}).", what=what, told=say.several(told), file=link(name))
