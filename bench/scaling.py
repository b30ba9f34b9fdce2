"""``python -m bench speed scaling``: how time grows with batch, width, depth, image size and cores, as exponents.

A sweep (bench/plans/scaling.toml) is contenders of several sizes in turns. All are JAX's and share a process, so that a
size is held once; where the number of cores is what varies, each has a process of its own.
"""

import os
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import comparison, contenders, plan, results_file, scaling_figure, target, timing
from bench.case import Size
from bench.command import Options
from bench.crew import Crew

FILE = "scaling.json"


def measure(options: Options, result: dict, path: Path | None) -> None:
    data = tomllib.loads((plan.FOLDER / "scaling.toml").read_text(encoding="utf-8"))
    base = data["quick_base" if options.quick else "base"]
    names = [name for name in data["contenders"] if name not in options.without]
    result |= {"quantities": {}, "left_out": {}, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        # The base case is in every sweep: compiled once.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(folder) / "programs"))
        for sweep in data["sweeps"]:
            with Crew(1 if options.quick else options.cores, compile_fast=options.quick) as crew:
                result["machine"]["cores_used"] = len(crew.cores)
                values = (
                    sweep.get("quick", ()) if options.quick else sweep.get("values", powers_of_two(len(crew.cores)))
                )
                if len(values) < 2:
                    continue
                found, left_out = _sweep(crew, sweep, base, values, names, options, Path(folder))
            result["left_out"] |= left_out
            result["quantities"][sweep["quantity"]] = found
            for each in found["contenders"].values():
                line = {"median": each["exponent"], "low": each["low"], "high": each["high"]}
                result["rows"].append({**target.row(each["what"], line), "measurement": sweep["axis"]})
            results_file.write(path, result)
    if path:
        scaling_figure.draw(path.with_suffix(""), result)


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, … and ``most`` itself."""
    return sorted({2**power for power in range(most.bit_length())} | {most})


def exponents(sizes: Sequence[float], rounds: Sequence[Sequence[float]]) -> list[float]:
    """Of each round, the p of cost = c · size^p, by least squares on logarithms."""
    return np.polyfit(np.log(sizes), np.log(rounds).T, 1)[0].tolist()


def _sweep(crew: Crew, sweep: dict, base: dict, values, names: list[str], options: Options, folder: Path):
    """Every contender at every value, and the exponents of those that could be had at all values; what was left out."""
    field, limited = sweep["field"], sweep["field"] == "cores"
    sizes = [Size(**(base if limited else {**base, field: value})) for value in values]
    labels = {name: [f"{name} @ {sweep['quantity']} {value}" for value in values] for name in names}
    entries = {label: (name, size) for name in names for label, size in zip(labels[name], sizes, strict=True)}
    for name in names if limited else ():
        crew.limits |= {f"jax: {label}": cores for label, cores in zip(labels[name], values, strict=True)}
    measured = comparison.in_turns(crew, sweep["quantity"], entries, options.rounds, folder, shared=not limited)
    found = {"axis": sweep["axis"], "arithmetic": sweep["arithmetic"], "values": list(values)}
    found |= {"sizes": list(map(str, sizes)), "contenders": {}}
    for name in names:
        timed = [measured["contenders"][label] for label in labels[name] if label in measured["contenders"]]
        if len(timed) == len(values):
            by_size = [timing.Times(each["calls_s"]).per_round() for each in timed]
            by_round = [list(costs) for costs in zip(*by_size, strict=True)]
            described = {"what": contenders.CONTENDERS[name][1], "median_s": [each["median_s"] for each in timed]}
            described |= {"rounds_s": by_round, "foreign_load": [each["foreign_load"] for each in timed]}
            spread = target.spread(exponents(values, by_round))
            described["exponent"], described["low"], described["high"] = (spread[k] for k in ("median", "low", "high"))
            found["contenders"][name] = described
    return found, measured["left_out"]
