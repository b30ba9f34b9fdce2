"""Somebody else's CNNs as puppets: ``puppetize.json``."""

import statistics

from bench.report.words import Language, percent
from bench.table import markdown, milliseconds

FILE = "puppetize.json"
_SPEED = ("CNN", "batch_norm", "depth", "the CNN itself, ms", "puppetized, ms", "puppetized over itself (quartiles)")
_STORED = ("CNN", "kernels, stored by itself", "puppetized", "all parameters, stored by itself", "puppetized")
_LEARNED = ("data", "CNN", "training images", "epochs", "parameters", "kernels", "test accuracy")
_DEPTHS = {"full": "all blocks", "complexity": "by complexity"}
_KERNELS = {"original": "its own, batch normalisation", "continuous": "continuous, group normalisation"}


def render(data: dict, say: Language) -> str:
    speed = [
        (
            line["net"],
            f"`{line['batch_norm']}`",
            say(_DEPTHS[line["depth"]]),
            *(milliseconds(statistics.median(line[key])) for key in ("original_seconds", "seconds")),
            say.spread(*(line["over_original"][key] for key in ("median", "low", "high"))),
        )
        for line in data["speed"]
    ]
    stored = [
        (name, *(f"{found[key]:,}" for key in ("static_kernels", "generator", "static_twin", "total")))
        for name, found in data["parameters"].items()
    ]
    learned = [
        (
            line["data"],
            line["net"],
            f"{line['train_images']:,}",
            line["epochs"],
            f"{line['parameters']:,}",
            say(_KERNELS[line["kernels"]]),
            percent(line["accuracy"]),
        )
        for line in data["accuracy"]
    ]
    told = say(
        "Inference on {n} images of 32×32, their complexities distributed as in CIFAR-10; {rounds} rounds, in turns. "
        "Kernels are baked, complexity is measured within the time. Target at full depth: ≤ {target}.",
        n=data["batch"],
        rounds=data["rounds"],
        target=data["rows"][0]["target"],
    )
    taught = say("Trained alike, AdamW, one seed; accuracy on all test images after the last epoch.")
    parts = [told, _table(_SPEED, speed, say), _table(_STORED, stored, say)]
    parts += [taught, _table(_LEARNED, learned, say)] if learned else []
    return "\n\n".join(parts)


def _table(head, rows, say: Language) -> str:
    return markdown([say(each) for each in head], rows)
