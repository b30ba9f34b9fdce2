"""``python -m bench recipe``: what ``python -m train`` reaches with its own recipe, from each puppeteer and seed."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import machine, results_file
from bench.table import markdown
from train.config import Puppeteer

_ROOT = Path(__file__).resolve().parent.parent
_KEPT = ("test_accuracy", "test_correct", "test_images", "train_seconds", "compile_seconds", "peak_memory_bytes")
_KEPT += ("parameters", "compression", "accuracy_by_depth")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Train with the recipe that ``python -m train`` takes by itself, one run after the other, and gather what it says.

    Of cifar10 one epoch by the first puppeteer and seed: what a first run of a few minutes gives.
    """

    data: str = "digits"
    """digits, or cifar10."""
    data_dir: Path | None = None
    """Where TensorFlow Datasets keeps cifar10 (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    puppeteers: tuple[Puppeteer, ...] = ("continuous", "stored", "ode", "printed")
    """Where kernels come from, of digits."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """A run of each puppeteer for each, of digits."""
    max_steps: int | None = None
    """Stop each run after so many steps, to try the command."""
    keep: Path | None = None
    """Folder to keep the runs in; none: they are thrown away."""
    output: Path | None = None
    """JSON to write; none: bench/results/digits.json or cifar10_one_epoch.json."""


def run(options: Recipe) -> int:
    """Train, write, print. 0; 2 for what does not exist, or the code of a run that failed, its own words printed."""
    if options.data not in ("digits", "cifar10"):
        print(f"error: --data: got {options.data!r}, expected digits or cifar10", file=sys.stderr)
        return 2
    if not options.puppeteers or not options.seeds:
        print("error: --puppeteers and --seeds: expected at least one of each", file=sys.stderr)
        return 2
    digits = options.data == "digits"
    more = [] if digits else ["--data=cifar10", "--epochs=1"]
    more += [] if options.data_dir is None else [f"--data-dir={options.data_dir}"]
    more += [] if options.max_steps is None else [f"--max-steps={options.max_steps}"]
    cells = [(puppeteer, seed) for puppeteer in options.puppeteers for seed in options.seeds]
    about, runs = machine.describe(), []
    with tempfile.TemporaryDirectory() as temporary:
        for puppeteer, seed in cells if digits else cells[:1]:
            folder = (options.keep or Path(temporary)) / f"{options.data}-{puppeteer}-seed{seed}"
            flags = ("--puppeteer", puppeteer, "--seed", str(seed), *more)
            code = subprocess.run(
                [sys.executable, "-m", "train", *flags, "--out", str(folder.resolve())], cwd=_ROOT, stdout=sys.stderr
            ).returncode
            if code:
                return code
            runs.append(_record(folder, puppeteer, seed))
    result = {**about, "what": _what(runs, digits), "preset": runs[0]["config"]["preset"], "runs": runs}
    output = options.output or results_file.FOLDER / ("digits.json" if digits else "cifar10_one_epoch.json")
    results_file.write(output, result)
    rows = [(run["puppeteer"], run["seed"], f"{run['test_accuracy']:.2%}", run["train_seconds"]) for run in runs]
    print(markdown(("kernels from", "seed", "test accuracy", "seconds"), rows))
    print(f"written: {output}")
    return 0


def _record(folder: Path, puppeteer: str, seed: int) -> dict:
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["config"]
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    of_this_machine = ("data_dir", "out")
    return {
        "puppeteer": puppeteer,
        "seed": seed,
        "config": {name: value for name, value in config.items() if name not in of_this_machine},
        **{name: summary[name] for name in _KEPT},
        "metrics": [json.loads(line) for line in lines],
    }


def _what(runs: list[dict], digits: bool) -> str:
    first = runs[0]
    config = first["config"]
    preset = f"preset {config['preset']}"
    if not digits:
        return f"One epoch of CIFAR-10 (a JPEG-recoded copy), {preset}, {first['puppeteer']}, seed {first['seed']}"
    count = len({run["seed"] for run in runs})
    seeds = {1: "one seed", 2: "two seeds", 3: "three seeds"}.get(count, f"{count} seeds")
    last = f"accuracy of the last epoch on {first['test_images']} test images"
    return f"Handwritten digits (scikit-learn), {preset}, {config['epochs']} epochs, {seeds}; {last}"
