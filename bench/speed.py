"""``python -m bench speed``: how long prediction, training and generation take, beside other engines, static twins and
plain lowerings. Contenders take turns, and ratios of their times are held to targets."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from bench import case, contenders, first_answer, machine, plan, results_file, target, timing
from bench.case import Size
from bench.crew import Crew

TOLERANCE = 1e-3
PARTS = ("predict", "train", "generate", "first_answer")


@dataclasses.dataclass(frozen=True)
class Speed:
    """Time prediction, training and generation beside peers, and first answers."""

    parts: Annotated[tuple[Literal[PARTS], ...], tyro.conf.Positional] = ()  # type: ignore[valid-type]
    """What to measure; none: everything. Parts that are not asked for stay in the result."""
    rounds: int = 5
    """Turns of every contender."""
    quick: bool = False
    """Tiny sizes, two rounds at most: shows that it runs, measures nothing, writes only where --output says."""
    output: Path | None = None
    """Folder for the result; none: bench/results."""


def run(options: Speed) -> int:
    """Measure and print. 0; 1 if nothing could be measured or a process failed; 2 for options that cannot be."""
    if options.rounds < 1:
        print(f"error: --rounds: got {options.rounds}, expected at least 1", file=sys.stderr)
        return 2
    rounds = min(options.rounds, 2) if options.quick else options.rounds
    options = dataclasses.replace(options, parts=options.parts or PARTS, rounds=rounds)
    folder = options.output or (None if options.quick else results_file.FOLDER)
    path = folder and folder / "speed.json"
    result = {**machine.describe(), "rounds": options.rounds, "quick": options.quick}
    try:
        measure(options, result, path)
    except subprocess.CalledProcessError as failed:
        print(failed.stdout, failed.stderr, f"error: {failed}", sep="\n", file=sys.stderr)
        return 1
    results_file.write(path, result)
    print(target.table(result["rows"]), f"written: {path}" if path else "", sep="\n\n", flush=True)
    return 0 if result["rows"] else 1


def measure(options: Speed, result: dict, path: Path | None) -> None:
    """Fill ``result``; what it holds of other parts stays, each with the command, date and revision it was made by."""
    made_by = {key: result[key] for key in ("command", "date", "revision")}
    before = path and path.exists() and json.loads(path.read_text(encoding="utf-8"))
    result |= {key: before[key] for key in ("measurements", "first_answer") if key in before} if before else {}
    measurements = result.setdefault("measurements", {})
    everything = plan.read(options.quick)
    with tempfile.TemporaryDirectory() as folder, Crew(options.quick) as crew:
        result["machine"]["cores_used"] = len(crew.cores)
        for one in everything:
            if one.kind in options.parts:
                measurements[one.name] = {**made_by, **in_turns(crew, one, options, Path(folder))}
                result["rows"] = rows(everything, measurements)
                results_file.write(path, result)
    if "first_answer" in options.parts:
        result["first_answer"] = first_answer.measure(options.rounds)
    result["rows"] = rows(everything, measurements)


def in_turns(crew: Crew, one: plan.Measurement, options: Speed, folder: Path) -> dict:
    """Set up contenders, hold each to the answer it must give, and time them; those that had to be left out with the
    reason. Each has a process of its own; in a quick run those of a framework share one."""
    workers, described, left_out = {}, {}, {}
    for name in one.contenders:
        _say(f"{one.name}: setting up {name}")
        worker = contenders.CONTENDERS[name][0] + ("" if options.quick else f": {name}")
        found = set_up(crew, worker, name, one.size, folder)
        if "unavailable" in found:
            left_out[name] = found["unavailable"]
            _say(f"{one.name}: {name} left out: {left_out[name]}")
        else:
            workers[name], described[name] = worker, found
    times = timing.interleave(crew, workers, options.rounds, lambda _: _say(f"{one.name}: a round done"))
    for name, worker in workers.items():
        if not options.quick:
            crew.dismiss(worker)
        if name not in times:
            del described[name]
            left_out[name] = "its process ended while it was measured"
            continue
        found = target.spread(timing.per_round(times[name]))
        described[name] |= {f"{key}_s": found[key] for key in ("median", "low", "high")} | {"calls_s": times[name]}
    return {"contenders": described, "left_out": left_out}


def set_up(crew: Crew, worker: str, name: str, size: Size, folder: Path) -> dict:
    """Have a worker hold a contender. What it is and what it says of itself, or why it is ``unavailable``."""
    request = {"folder": str(folder), "size": dataclasses.asdict(size)}
    if not case.path_of(folder, size).exists():
        prepared = crew.ask("jax", "prepare", **request)
        if worker != "jax":
            crew.dismiss("jax")
        if "unavailable" in prepared:
            return prepared
    reply = crew.ask(worker, "set_up", name=name, **request)
    if reply.get("error") is not None and not reply["error"] <= TOLERANCE:
        return {"unavailable": f"computes something else: relative error {reply['error']:.1e}"}
    return {"what": contenders.CONTENDERS[name][1], **reply}


def rows(everything: list[plan.Measurement], measurements: dict[str, dict]) -> list[dict]:
    """Every row all sides of which were measured."""
    lines = []
    for one in everything:
        found = measurements.get(one.name, {}).get("contenders", {})
        for row in one.rows:
            if {row["over"], *row["under"]} <= set(found):
                names = (row["over"], *row["under"])
                over, *others = (np.array(timing.per_round(found[name]["calls_s"])) for name in names)
                ratio = target.ratio(row["scale"] * over, np.min(others, axis=0))
                ratio = target.row(row["what"], ratio, row["sense"], row["target"])
                lines.append({**row, "measurement": one.name, **ratio})
    return sorted(lines, key=lambda row: row["number"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
