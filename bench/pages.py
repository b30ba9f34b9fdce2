"""``python -m bench memory pages``: what training gains from huge pages (train/huge_pages.py)."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench import machine, results_file, timing
from bench.table import markdown
from train.huge_pages import TUNABLE, VARIABLE


@dataclasses.dataclass(frozen=True)
class Pages:
    """Train the same steps with and without huge pages, in turns, and compare their time."""

    data: str = "cifar10"
    """Data set, as ``python -m train`` takes it."""
    data_dir: Path | None = None
    """Where TensorFlow Datasets keeps it (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    preset: str = "puppet_s"
    """Of the model."""
    widths: tuple[int, ...] = (32, 64)
    """Channels of every layer, one comparison each."""
    steps: int = 150
    """Of each run."""
    rounds: int = 3
    """Turns of each."""
    output: Path | None = None
    """JSON to write; none: bench/results/huge_pages.json."""


def run(options: Pages) -> int:
    """Measure, write, print. 0; 1 if a run failed; 2 where there is nothing to compare."""
    if sys.platform != "linux":
        print("error: huge pages are asked for on Linux alone", file=sys.stderr)
        return 2
    about = {name: getattr(options, name) for name in ("rounds", "steps", "data")}
    result = {**machine.describe(), **about, "widths": []}
    for width in options.widths:
        sides = {name: partial(_train, options, width, huge=name == "with") for name in ("without", "with")}
        say = lambda found, width=width: print(f"width {width}, seconds: {found}", file=sys.stderr, flush=True)  # noqa: E731
        try:
            seconds = timing.in_turns(sides, options.rounds, say)
        except subprocess.CalledProcessError as failed:
            print(failed.stdout, file=sys.stderr)
            return 1
        ratio = timing.ratio(seconds["without"], seconds["with"])
        result["widths"].append({"width": width, "seconds": seconds, "faster": dataclasses.asdict(ratio)})
    rows = [
        (each["width"], "{median:.2f} ({low:.2f} to {high:.2f})".format(**each["faster"])) for each in result["widths"]
    ]
    output = options.output or results_file.FOLDER / "huge_pages.json"
    results_file.finish(output, result, markdown(("width", "times as fast (quartiles)"), rows))
    return 0


def _train(options: Pages, width: int, huge: bool) -> float:
    """Seconds that a run's steps took. Raises ``CalledProcessError``, with what the run said, if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "train", f"--data={options.data}", f"--preset={options.preset}"]
        command += [f"--width={width}", f"--max-steps={options.steps}", "--batch-size=64", f"--out={out}"]
        # A hundredth of the training images is little to evaluate on, which is no part of the time.
        command += ["--evaluate-on=validation", "--validation-share=0.01"]
        if options.data_dir is not None:
            command += ["--data-dir", str(options.data_dir.absolute())]
        environment = {**os.environ, VARIABLE: f"{TUNABLE}={int(huge)}"}
        where = {"cwd": Path(__file__).parent.parent, "env": environment}
        subprocess.run(command, **where, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        return json.loads((out / "summary.json").read_text())["train_seconds"]
