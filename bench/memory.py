"""``python -m bench memory``: what a training step needs at its peak, by how kernels and their gradients are computed.

Two figures each: XLA's own account of the compiled step (arguments + outputs − aliased + temporaries), and by how much
the resident set of a fresh process rises above its level before, at the peak of two steps.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path

from bench import contenders, machine, results_file
from bench.case import Size
from bench.crew import Crew
from bench.table import markdown

CONTENDERS = ("train_ode", "train_exact", "train_exact_direct", "train_exact_backsolve", "train_static_jax")
CONTENDERS += ("train_torch_batched",)
OURS, EXACT, TARGET = "train_ode", "train_exact", 0.5


@dataclasses.dataclass(frozen=True)
class Memory:
    """Compare the peak memory of a training step: adjoints, kernels of the bins at hand, static twin, PyTorch."""

    batch: int = 128
    """Images in a step."""
    channels: int = 64
    """Channels of every layer."""
    map: int = 16
    """Rows and columns of every layer's map: 32, 16, 8 or 4."""
    layers: int = 7
    """Layers, D_max."""
    with_vmap: bool = False
    """Also plain jax.vmap, a step of which takes a minute or two."""
    without: tuple[str, ...] = ()
    """Contenders to leave out, by name."""
    quick: bool = False
    """A tiny size."""
    output: Path | None = None
    """JSON to write; none: bench/results/memory.json, nothing if quick."""


def run(options: Memory) -> int:
    """Measure, write, print. 0, or 1 if nothing could be measured."""
    size = Size(3, 8, 8, 2) if options.quick else Size(options.batch, options.channels, options.map, options.layers)
    output = options.output or (None if options.quick else results_file.FOLDER / "memory.json")
    result = {**machine.describe(), "size": str(size), "contenders": {}, "left_out": {}, "rows": []}
    with (
        tempfile.TemporaryDirectory() as folder,
        Crew(1 if options.quick else None, compile_fast=options.quick) as crew,
    ):
        request = {"folder": folder, "size": dataclasses.asdict(size)}
        prepared = crew.ask("prepare", "prepare", **request, answers=True)
        if "unavailable" in prepared:
            print(f"error: {prepared['unavailable']}", file=sys.stderr)
            return 1
        crew.dismiss("prepare")
        for name in CONTENDERS + ("train_vmap",) * options.with_vmap:
            if name in options.without:
                continue
            print(name, file=sys.stderr, flush=True)
            reply = crew.ask(name, "set_up", label=name, name=name, **request)
            if "unavailable" not in reply:
                reply |= crew.ask(name, "step_memory", label=name)
            crew.dismiss(name)
            if "unavailable" in reply:
                result["left_out"][name] = reply["unavailable"]
                continue
            result["contenders"][name] = _described(name, reply)
    result["rows"] = _rows(result["contenders"])
    if output:
        results_file.write(output, result)
    print(report(result))
    if output:
        print(f"\nwritten: {output}")
    return 0 if result["contenders"] else 1


def report(result: dict) -> str:
    """A result as Markdown."""
    lines = [
        (name, c["what"], _mib(c.get("xla_bytes")), _mib(c["resident_rise_bytes"]), _mib(c["rss_peak_bytes"]))
        for name, c in result["contenders"].items()
    ]
    lines += [(name, f"left out: {why}", "", "", "") for name, why in result["left_out"].items()]
    columns = ("contender", "", "XLA's account, MiB", "rise of resident set, MiB", "resident set at its peak, MiB")
    rows = [
        (9, row["what"], f"{row['ratio']:.3g}", f"≤ {row['target']:g}", "reached" if row["reached"] else "missed")
        for row in result["rows"]
    ]
    head = ("row", "measure", "ratio", "target", "")
    return f"Training step of {result['size']}\n\n{markdown(head, rows)}\n\n{markdown(columns, lines)}"


def _described(name: str, reply: dict) -> dict:
    described = {"what": contenders.CONTENDERS[name][2], **reply}
    described["resident_rise_bytes"] = reply["rss_peak_bytes"] - reply["rss_before_bytes"]
    if "temp_bytes" in reply:
        kept = reply["argument_bytes"] + reply["output_bytes"] - reply["alias_bytes"]
        described["xla_bytes"] = kept + reply["temp_bytes"]
    return described


def _rows(found: dict) -> list[dict]:
    rows = []
    for key, what in (("xla_bytes", "XLA's account"), ("resident_rise_bytes", "rise of resident set")):
        if OURS in found and EXACT in found and found[EXACT][key] > 0:
            ratio = found[OURS][key] / found[EXACT][key]
            text = f"peak memory of a training step over the exact path's ({what})"
            rows.append({"number": 9, "what": text, "ratio": ratio, "target": TARGET, "reached": ratio <= TARGET})
    return rows


def _mib(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:,.1f}"
