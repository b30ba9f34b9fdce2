"""``python -m bench speed predict|train|generate``: contenders in turns, and ratios of their times."""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench import case, contenders, first_answer, plan, results_file, target, timing
from bench.case import Size
from bench.crew import Crew
from bench.speed import Speed

TOLERANCE = 1e-3
FILE = "speed.json"


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
