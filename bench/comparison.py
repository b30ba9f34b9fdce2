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
    with (
        tempfile.TemporaryDirectory() as folder,
        Crew(1 if options.quick else options.cores, compile_fast=options.quick) as crew,
    ):
        result["machine"]["cores_used"] = len(crew.cores)
        for one in everything:
            if one.kind not in options.parts:
                continue
            entries = {name: (name, one.size) for name in one.contenders if name not in options.without}
            found = in_turns(crew, one.name, entries, options.rounds, Path(folder), shared=options.quick)
            found["left_out"] |= {name: "not asked for" for name in one.contenders if name in options.without}
            measurements[one.name] = {**made_by, **found}
            result["rows"] = _rows(everything, measurements)
            results_file.write(path, result)
    if "first_answer" in options.parts:
        result["first_answer"] = first_answer.measure(options.rounds)
    result["rows"] = _rows(everything, measurements)


def in_turns(
    crew: Crew, name: str, entries: dict[str, tuple[str, Size]], rounds: int, folder: Path, shared: bool = False
) -> dict:
    """Set up contenders, hold each to the answer it must give, and time them.

    Args:
        crew: the processes.
        name: for progress.
        entries: label -> contender and size.
        rounds: turns for each.
        folder: for the cases that contenders are given.
        shared: contenders of a framework share a process, where each can do without one of its own.

    Returns:
        ``contenders``, times and all, by label; and ``left_out``, the reason by label.
    """
    workers, described, left_out = {}, {}, {}
    for label, (contender, size) in entries.items():
        _say(f"{name}: setting up {label}")
        worker = contenders.CONTENDERS[contender][0] + ("" if shared else f": {label}")
        found = set_up(crew, worker, label, contender, size, folder)
        if "unavailable" in found:
            left_out[label] = found["unavailable"]
            _say(f"{name}: {label} left out: {left_out[label]}")
        else:
            workers[label], described[label] = worker, found
    times = timing.interleave(crew, workers, rounds, lambda _: _say(f"{name}: a round of {rounds} done"))
    for label, worker in workers.items():
        crew.ask(worker, "drop", label=label) if shared else crew.dismiss(worker)
        if label not in times:
            del described[label]
            left_out[label] = "its process ended while it was measured"
            continue
        found = target.spread(times[label].per_round())
        described[label] |= {f"{key}_s": found[key] for key in ("median", "low", "high")}
        described[label] |= {"foreign_load": times[label].foreign_load, "calls_s": times[label].rounds}
    return {"contenders": described, "left_out": left_out}


def set_up(crew: Crew, worker: str, label: str, contender: str, size: Size, folder: Path) -> dict:
    """Have a worker hold a contender. What it is and what it says of itself, or why it is ``unavailable``."""
    request = {"folder": str(folder), "size": dataclasses.asdict(size)}
    if not case.path_of(folder, size).exists():
        prepared = crew.ask("jax", "prepare", **request)
        if worker != "jax":
            crew.dismiss("jax")
        if "unavailable" in prepared:
            return prepared
    reply = crew.ask(worker, "set_up", label=label, name=contender, **request)
    if reply.get("error") is not None and not reply["error"] <= TOLERANCE:
        return {"unavailable": f"computes something else: relative error {reply['error']:.1e}"}
    return {"contender": contender, "what": contenders.CONTENDERS[contender][1], "size": str(size), **reply}


def _rows(everything: list[plan.Measurement], measurements: dict[str, dict]) -> list[dict]:
    """Every row all sides of which were measured."""
    rows = []
    for one in everything:
        found = measurements.get(one.name, {}).get("contenders", {})
        for row in one.rows:
            if {row["over"], *row["under"]} <= set(found):
                names = (row["over"], *row["under"])
                over, *others = (np.array(timing.Times(found[name]["calls_s"]).per_round()) for name in names)
                ratio = target.ratio(row["scale"] * over, np.min(others, axis=0))
                ratio = target.row(row["what"], ratio, row["sense"], row["target"])
                rows.append({**row, "measurement": one.name, **ratio})
    return sorted(rows, key=lambda row: row["number"])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
