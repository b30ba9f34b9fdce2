"""``python -m bench speed scaling``: how time grows with batch, width, depth, image size and cores, as exponents.

A sweep is one measurement of ``bench speed`` whose contenders are of several sizes. All are JAX's and share a process,
so that a size is held once; where the number of cores is what varies, each has a process of its own.
"""

import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

from bench import contenders, machine, power_law, results_file, scaling_figure, speed, sweep, timing
from bench.crew import Crew
from bench.plan import Measurement
from bench.table import markdown


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Vary batch, width, depth, image size and cores one at a time; fit an exponent to each contender's time."""

    rounds: int = 5
    """Turns of every contender at every size."""
    only: tuple[str, ...] = ()
    """Quantities to vary, by the beginning of their names (batch, width, depth, image, cores); none: all. Others that
    the output file holds stay in it, each with the date and revision it was made at."""
    without: tuple[str, ...] = ()
    """Contenders to leave out, by name."""
    quick: bool = False
    """Tiny sizes, two rounds, one core: shows that it runs, measures nothing."""
    output: Path | None = None
    """JSON to write, and beside it the figure as .svg and .png; none: bench/results/scaling.json, nothing if quick."""


def run(options: Scaling) -> int:
    """Measure, write, draw, print. 0; 1 if nothing could be measured; 2 for what does not exist."""
    cores = 1 if options.quick else len(os.sched_getaffinity(0))
    plan = sweep.quick(cores) if options.quick else sweep.full(cores)
    if problem := _problem(options, plan):
        print(f"error: {problem}", file=sys.stderr)
        return 2
    rounds = min(options.rounds, 2) if options.quick else options.rounds
    output = options.output or (None if options.quick else results_file.FOLDER / "scaling.json")
    result = {**machine.describe(), "rounds": rounds, "quick": options.quick, "about": sweep.ABOUT}
    result |= {"quantities": {}, "left_out": {}}
    result["machine"]["cores_used"] = cores
    if options.only and output and output.exists():
        result["quantities"] = json.loads(output.read_text(encoding="utf-8"))["quantities"]
    with tempfile.TemporaryDirectory() as folder:
        # The base case is in every sweep: compiled once.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / "programs"))
        for one in plan:
            if options.only and not one.quantity.startswith(options.only):
                continue
            made_at = {key: result[key] for key in ("command", "date", "revision")}
            found = _measure(one, cores, rounds, options, Path(folder))
            result["left_out"] |= found.pop("left_out")
            if found["contenders"]:
                result["quantities"][one.quantity] = {**made_at, **found}
            if output:
                results_file.write(output, result)
    print(report(result))
    if output and result["quantities"]:
        scaling_figure.draw(output.with_suffix(""), result)
        print(f"\nwritten: {output}")
    return 0 if result["quantities"] else 1


def report(result: dict) -> str:
    """A result as Markdown: a line for each quantity and contender."""
    rows = [
        (quantity, contender["what"], " / ".join(map(str, found["values"])), exponent(contender), found["arithmetic"])
        for quantity, found in result["quantities"].items()
        for contender in found["contenders"].values()
    ]
    head = ("quantity", "what", "at", "exponent ± standard error (95 % over rounds)", "of the arithmetic")
    return markdown(head, rows)


def exponent(contender: dict) -> str:
    """A fitted exponent with its doubts, in words."""
    error = "" if contender["standard_error"] is None else f" ± {contender['standard_error']:.2f}"
    return f"{contender['exponent']:.2f}{error} ({contender['low']:.2f} to {contender['high']:.2f})"


def _problem(options: Scaling, plan) -> str | None:
    quantities = [one.quantity for one in plan]
    for given in options.only:
        if not any(quantity.startswith(given) for quantity in quantities):
            return f"--only: got {given}, expected the beginning of one of {', '.join(quantities)}"
    for given in options.without:
        if given not in sweep.CONTENDERS:
            return f"--without: got {given}, expected some of {', '.join(sweep.CONTENDERS)}"
    if options.rounds < 1:
        return f"--rounds: got {options.rounds}, expected at least 1"
    return None


def _measure(one: sweep.Sweep, cores: int, rounds: int, options: Scaling, folder: Path) -> dict:
    """Every contender at every value, in turns, and the exponents of those that could be had at all values."""
    names = [name for name in sweep.CONTENDERS if name not in options.without]
    labels = {name: [f"{name} @ {one.quantity} {value}" for value in one.points] for name in names}
    entries = {
        label: (name, point.size)
        for name in names
        for label, point in zip(labels[name], one.points.values(), strict=True)
    }
    limited = any(point.cores for point in one.points.values())
    with Crew(cores, compile_fast=options.quick) as crew:
        for name in names if limited else ():
            for label, point in zip(labels[name], one.points.values(), strict=True):
                crew.limit(f"jax: {label}", point.cores)
        # quick, to speed, is to share processes.
        measured = speed._measure(
            crew, Measurement(one.quantity, entries), rounds, speed.Speed(quick=not limited), folder, {}
        )
    found = {"axis": one.axis, "arithmetic": one.arithmetic, "values": list(one.points)}
    found |= {"sizes": [str(point.size) for point in one.points.values()], "left_out": measured["left_out"]}
    found["contenders"] = {}
    for name in names:
        timed = [measured["contenders"][label] for label in labels[name] if label in measured["contenders"]]
        if len(timed) < len(one.points):
            continue
        by_size = [timing.Times(each["calls_s"]).per_round() for each in timed]
        by_round = [list(costs) for costs in zip(*by_size, strict=True)]
        fit = power_law.fit(found["values"], by_round)
        described = {"what": contenders.CONTENDERS[name][2], "median_s": [each["median_s"] for each in timed]}
        described |= {"rounds_s": by_round, "foreign_load": [each["foreign_load"] for each in timed]}
        found["contenders"][name] = {**described, **dataclasses.asdict(fit)}
    return found
