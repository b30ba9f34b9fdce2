"""``python -m bench speed``: every target of speed as a ratio, measured interleaved in one run."""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from bench import contenders, first_answer, machine, plan, results_file, timing
from bench.crew import Crew
from bench.table import markdown, milliseconds

TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Speed:
    """Compare the time of prediction, training and generation with PyTorch, static twins and plain lowerings."""

    rounds: int = 7
    """Turns of every contender; each yields one ratio."""
    only: tuple[str, ...] = ()
    """Measurements to make, by the beginning of their names (predict, train, generate, diffrax, first); none: all.
    Others that the output file holds stay in it, each with the date and revision it was made at."""
    without: tuple[str, ...] = ()
    """Contenders to leave out, by name; train_vmap alone takes most of the time."""
    cores: int | None = None
    """Use this many of the cores; none: all that this process may use."""
    quick: bool = False
    """Tiny sizes, two rounds, one core, contenders sharing processes: shows that it runs, measures nothing."""
    output: Path | None = None
    """JSON to write; none: bench/results/speed.json, nothing if quick."""


def run(options: Speed) -> int:
    """Measure, write, print. 0, or 1 if nothing could be measured."""
    chosen = plan.quick() if options.quick else plan.full()
    rounds = min(options.rounds, 2) if options.quick else options.rounds
    output = options.output or (None if options.quick else results_file.FOLDER / "speed.json")
    result = {**machine.describe(), "rounds": rounds, "quick": options.quick, "measurements": {}, "rows": []}
    result["machine"]["cores_used"] = 1 if options.quick else options.cores or result["machine"]["cores"]
    result["ratios"] = "median and quartiles over rounds; a round's time is the median of its calls"
    measurements = [m for m in chosen.measurements if not options.only or m.name.startswith(options.only)]
    if options.only and output and output.exists():
        before = json.loads(output.read_text(encoding="utf-8"))
        result |= {key: before[key] for key in ("measurements", "first_answer") if key in before}
    with (
        tempfile.TemporaryDirectory() as folder,
        Crew(1 if options.quick else options.cores, compile_fast=options.quick) as crew,
    ):
        prepared = {}
        for measurement in measurements:
            measured = _measure(crew, measurement, rounds, options, Path(folder), prepared)
            made_at = {key: result[key] for key in ("command", "date", "revision")}
            result["measurements"][measurement.name] = {**made_at, **measured}
            rows = (_row(row, result["measurements"]) for row in chosen.rows)
            result["rows"] = [row for row in rows if row]
            if output:
                results_file.write(output, result)
    if not options.quick and (not options.only or "first".startswith(options.only)):
        result["first_answer"] = first_answer.measure(rounds)
        if output:
            results_file.write(output, result)
    print(report(result))
    if output:
        print(f"\nwritten: {output}")
    return 0 if any(m["contenders"] for m in result["measurements"].values()) else 1


def report(result: dict) -> str:
    """A result as Markdown: the targets, then every contender's own time."""
    rows = [
        (
            row["number"],
            row["what"],
            row["measurement"],
            f"{row['median']:.3g} ({row['low']:.3g} to {row['high']:.3g})",
            f"{'≥' if row['sense'] == 'at least' else '≤'} {row['target']:g}",
            "reached" if row["reached"] else "missed",
        )
        for row in result["rows"]
    ]
    head = ("row", "measure", "in", "ratio: median (quartiles)", "target", "")
    times = []
    for name, measurement in result["measurements"].items():
        for label, c in measurement["contenders"].items():
            error = "" if c["error"] is None else f"{c['error']:.1e}"
            first = "" if contenders.framework(c["contender"]) == "torch" else f"{c['first_call_s']:.2f}"
            loads = f"{c['idle_load']:.2f}", f"{c['foreign_load']:.2f}"
            times.append((name, label, milliseconds(c["median_s"]), first, error, *loads))
        times += [(name, label, f"left out: {why}", "", "", "", "") for label, why in measurement["left_out"].items()]
    columns = (
        "in",
        "contender",
        "ms (median)",
        "first call, s",
        "error against exact path",
        "load while idle",
        "others' load",
    )
    summary = f"{result['machine']['processor']}, {result['machine']['cores_used']} cores, {result['rounds']} rounds"
    parts = [summary, markdown(head, rows), markdown(columns, times)]
    for state, limit in first_answer.LIMITS_S.items():
        if "first_answer" in result:
            seconds = result["first_answer"][state]["median_s"]
            verdict = "reached" if seconds <= limit else "missed"
            parts.append(f"First answer, {state} compilation cache: {seconds:.2f} s, target ≤ {limit:g} s: {verdict}")
    return "\n\n".join(parts)


def _measure(crew: Crew, measurement, rounds: int, options: Speed, folder: Path, prepared: dict) -> dict:
    workers, described, left_out = {}, {}, {}
    for label, (name, size) in measurement.entries.items():
        if name in options.without:
            left_out[label] = "not asked for"
            continue
        key = (size, measurement.answers)
        if key not in prepared:
            _say(f"{measurement.name}: preparing {size}")
            request = {"folder": _subfolder(folder, key), "size": dataclasses.asdict(size), "answers": key[1]}
            prepared[key] = crew.ask(_worker("jax", options), "prepare", **request)
            if not options.quick:
                crew.dismiss("jax")
        if "unavailable" in prepared[key]:
            left_out[label] = prepared[key]["unavailable"]
            continue
        worker = _worker(contenders.framework(name), options, label)
        _say(f"{measurement.name}: setting up {label}")
        request = {"name": name, "folder": _subfolder(folder, key), "size": dataclasses.asdict(size)}
        reply = crew.ask(worker, "set_up", label=label, **request)
        if "unavailable" not in reply and reply["error"] is not None and not reply["error"] <= TOLERANCE:
            reply = {"unavailable": f"computes something else: relative error {reply['error']:.1e}"}
        if "unavailable" in reply:
            left_out[label] = reply["unavailable"]
            _say(f"{measurement.name}: {label} left out: {left_out[label]}")
            continue
        workers[label] = worker
        described[label] = {"contender": name, "what": contenders.CONTENDERS[name][2], "size": str(size), **reply}
    done = lambda index: _say(f"{measurement.name}: round {index} of {rounds}")  # noqa: E731
    times = timing.interleave(crew, workers, rounds, done)
    for label in workers:
        crew.ask(workers[label], "drop", label=label) if options.quick else crew.dismiss(workers[label])
        if label in times:
            per_round = times[label].per_round()
            median = timing.ratio(per_round, [1.0] * rounds)
            spread = {"median_s": median.median, "low_s": median.low, "high_s": median.high}
            loads = {"idle_load": times[label].idle_load, "foreign_load": times[label].foreign_load}
            described[label] |= {**spread, **loads, "calls_s": times[label].rounds}
        else:
            del described[label]
            left_out[label] = "its process ended while it was measured"
    depths = {str(size): prepared[size, answers].get("images_of_depth") for size, answers in prepared if answers}
    sizes = {str(size) for _, size in measurement.entries.values()}
    return {
        "contenders": described,
        "left_out": left_out,
        "images_of_depth": {size: depths[size] for size in sizes if depths.get(size)},
    }


def _row(row: plan.Row, measurements: dict) -> dict | None:
    found = measurements.get(row.measurement, {}).get("contenders", {})
    if row.over not in found or row.under not in found:
        return None
    times = [timing.Times(found[label]["calls_s"]).per_round() for label in (row.over, row.under)]
    ratio = timing.ratio(row.scale * np.asarray(times[0]), times[1])
    return {**dataclasses.asdict(row), **dataclasses.asdict(ratio), "reached": row.reached(ratio.median)}


def _worker(framework: str, options: Speed, label: str | None = None) -> str:
    return framework if options.quick or label is None else f"{framework}: {label}"


def _subfolder(folder: Path, key) -> str:
    chosen = folder / ("with_answers" if key[1] else "complexities")
    chosen.mkdir(exist_ok=True)
    return str(chosen)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
