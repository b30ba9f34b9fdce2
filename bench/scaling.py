"""``python -m bench scaling``: how time grows with batch, width, depth, image size and cores, as fitted exponents."""

import concurrent.futures
import dataclasses
import json
import os
import sys
import tempfile
from pathlib import Path

from bench import contenders, machine, power_law, results_file, scaling_figure, sweep, timing
from bench.crew import Crew
from bench.speed import TOLERANCE
from bench.table import markdown, milliseconds


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
    result = {
        **machine.describe(),
        "rounds": rounds,
        "quick": options.quick,
        "about": sweep.ABOUT,
        "quantities": {},
        "left_out": {},
    }
    result["machine"]["cores_used"] = cores
    if options.only and output and output.exists():
        result["quantities"] = json.loads(output.read_text(encoding="utf-8"))["quantities"]
    names = [name for name in sweep.CONTENDERS if name not in options.without]
    with tempfile.TemporaryDirectory() as folder, Crew(cores, compile_fast=options.quick) as crew:
        bench = _Bench(crew, Path(folder), names)
        for one in plan:
            if options.only and not one.quantity.startswith(options.only):
                continue
            made_at = {key: result[key] for key in ("command", "date", "revision")}
            found = bench.measure(one, rounds)
            if found["contenders"]:
                result["quantities"][one.quantity] = {**made_at, **found}
            result["left_out"] |= bench.left_out
            if output:
                results_file.write(output, result)
    print(report(result))
    if output and result["quantities"]:
        scaling_figure.draw(output.with_suffix(""), result)
        print(f"\nwritten: {output}")
    return 0 if result["quantities"] else 1


def report(result: dict) -> str:
    """A result as Markdown: a line for each quantity and contender."""
    rows = []
    for quantity, found in result["quantities"].items():
        for contender in found["contenders"].values():
            times = " / ".join(milliseconds(seconds) for seconds in contender["median_s"])
            rows.append((quantity, contender["what"], values(found), times, exponent(contender), found["arithmetic"]))
    head = ("quantity", "what", "at", "ms", "exponent ± standard error (95 % over rounds)", "of the arithmetic")
    return markdown(head, rows)


def values(found: dict) -> str:
    """The values of a quantity, in words."""
    return " / ".join(map(str, found["values"]))


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


class _Bench:
    """Cases set up in processes of their own, one for all contenders of a case; the last sweep's stay for the next."""

    def __init__(self, crew: Crew, folder: Path, names: list[str]):
        self.crew, self.folder, self.names = crew, folder, names
        self.ready: dict[str, list[str]] = {}
        self.left_out: dict[str, str] = {}

    def measure(self, one: sweep.Sweep, rounds: int) -> dict:
        """Every contender at every value, in turns."""
        processes = {value: f"{point.size} on {point.cores or 'all'}" for value, point in one.points.items()}
        self._set_up({processes[value]: point for value, point in one.points.items()})
        workers = {
            f"{name} @ {process}": process
            for process in processes.values()
            for name in self.names
            if name in self.ready[process]
        }
        done = lambda index: _say(f"{one.quantity}: round {index} of {rounds}")  # noqa: E731
        times = timing.interleave(self.crew, workers, rounds, done)
        for process in {process for label, process in workers.items() if label not in times}:
            self.crew.dismiss(process)  # it ended and was started anew with nothing in it
            self.ready.pop(process, None)
        found = {"axis": one.axis, "arithmetic": one.arithmetic, "values": list(one.points)}
        found |= {"sizes": [str(point.size) for point in one.points.values()], "contenders": {}}
        for name in self.names:
            labels = [f"{name} @ {process}" for process in processes.values()]
            if missing := [label for label in labels if label not in times]:
                self.left_out.setdefault(missing[0], "its process ended while it was measured")
                continue
            by_size = [times[label].per_round() for label in labels]
            by_round = [list(costs) for costs in zip(*by_size, strict=True)]
            fit = power_law.fit(found["values"], by_round)
            medians = [timing.ratio(seconds, [1.0] * rounds).median for seconds in by_size]
            loads = {"foreign_load": [times[label].foreign_load for label in labels]}
            described = {"what": contenders.CONTENDERS[name][2], "median_s": medians, "rounds_s": by_round}
            found["contenders"][name] = {**described, **dataclasses.asdict(fit), **loads}
        return found

    def _set_up(self, points: dict[str, sweep.Point]) -> None:
        for process in [process for process in self.ready if process not in points]:
            self.crew.dismiss(process)
            del self.ready[process]
        new = {process: point for process, point in points.items() if process not in self.ready}
        for process, point in new.items():
            self.crew.limit(process, point.cores)
            self.crew.ask(process, "drop", label="")  # started from this thread, as starting forks
        # Two at a time, as most of a compilation is the work of one core; nothing is timed yet.
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for process, ready in zip(new, pool.map(self._prepare, *zip(*new.items(), strict=True)), strict=True):
                self.ready[process] = ready

    def _prepare(self, process: str, point: sweep.Point) -> list[str]:
        """The contenders that could be set up in a process."""
        _say(f"setting up {process} cores")
        folder = self.folder / process.replace("/", " ")
        folder.mkdir(exist_ok=True)
        request = {"folder": str(folder), "size": dataclasses.asdict(point.size)}
        reply = self.crew.ask(process, "prepare", **request, answers=True)
        ready = []
        for name in self.names:
            label = f"{name} @ {process}"
            if "unavailable" not in reply:
                answer = self.crew.ask(process, "set_up", label=label, name=name, **request)
            else:
                answer = reply
            if "unavailable" not in answer and answer["error"] is not None and not answer["error"] <= TOLERANCE:
                answer = {"unavailable": f"computes something else: relative error {answer['error']:.1e}"}
            if "unavailable" in answer:
                self.left_out[label] = answer["unavailable"]
                _say(f"{label} left out: {answer['unavailable']}")
            else:
                ready.append(name)
        return ready


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
