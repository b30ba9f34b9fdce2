"""``python -m bench memory``: what a training step needs at its peak, by how kernels are computed.

Two figures each: XLA's own account of the compiled step (arguments + outputs − aliased + temporaries), and by how much
the resident set of a fresh process rises above its level before, at the peak of two steps.
"""

import dataclasses
import tempfile
from pathlib import Path

from bench import comparison, contenders, plan, results_file, speed, target
from bench.case import Size
from bench.crew import Crew

FILE = "memory.json"
CONTENDERS = ("train_ode", "train_exact", "train_static_jax", "train_torch_batched")
OURS, EXACT, TARGET = "train_ode", "train_exact", 0.5


@dataclasses.dataclass(frozen=True)
class Memory(speed.Options):
    """Compare the peak memory of a training step by how kernels are computed."""


def run(options: Memory) -> int:
    return speed.measure(["memory"], options)


def measure(options: Memory, result: dict, path: Path | None) -> None:
    size = plan.TINY if options.quick else Size(128, 64, 16)
    found: dict[str, dict] = {}
    result |= {"size": str(size), "contenders": found, "left_out": {}, "rows": []}
    with tempfile.TemporaryDirectory() as folder, Crew(options.quick) as crew:
        for name in CONTENDERS:
            worker = f"{contenders.CONTENDERS[name][0]}: {name}"
            reply = comparison.set_up(crew, worker, name, size, Path(folder))
            if "unavailable" not in reply:
                reply |= crew.ask(worker, "step_memory", name=name)
            crew.dismiss(worker)
            if "unavailable" in reply:
                result["left_out"][name] = reply["unavailable"]
                continue
            reply["resident_rise_bytes"] = reply["rss_peak_bytes"] - reply["rss_before_bytes"]
            if "temp_bytes" in reply:
                kept = reply["argument_bytes"] + reply["output_bytes"] - reply["alias_bytes"]
                reply["xla_bytes"] = kept + reply["temp_bytes"]
            found[name] = reply
            result["rows"] = _rows(found)
            results_file.write(path, result)


def _rows(found: dict[str, dict]) -> list[dict]:
    """Each contender's share of the exact path's memory; ours is held to a target."""
    rows = []
    for key, account in (("xla_bytes", "XLA's account"), ("resident_rise_bytes", "rise of the resident set")):
        base = found.get(EXACT, {}).get(key, 0)
        for name, one in found.items():
            if base > 0 and key in one and name != EXACT:
                goal = ("<=", TARGET) if name == OURS else (None, None)
                share = target.ratio([one[key]], [base])
                what = f"{one['what']}, share of the exact path's memory"
                rows.append({**target.row(what, share, *goal), "measurement": account})
    return rows
