"""``python -m bench pages``: what training gains from a malloc that asks for huge pages (train/huge_pages.py)."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
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
    result = {
        **machine.describe(),
        "rounds": options.rounds,
        "steps": options.steps,
        "data": options.data,
        "widths": [],
    }
    for width in options.widths:
        seconds = {"without": [], "with": []}
        for turn in range(options.rounds):
            order = list(seconds) if turn % 2 == 0 else list(seconds)[::-1]
            for name in order:
                spent = _train(options, width, huge=name == "with")
                if spent is None:
                    return 1
                seconds[name].append(spent)
                print(f"width {width}, round {turn + 1}, {name} huge pages: {spent:.1f} s", file=sys.stderr, flush=True)
        ratio = timing.ratio(seconds["without"], seconds["with"])
        result["widths"].append({"width": width, "seconds": seconds, "faster": dataclasses.asdict(ratio)})
    results_file.write(options.output or results_file.FOLDER / "huge_pages.json", result)
    header = ("width", "seconds without", "with", "times as fast (quartiles)")
    print(
        markdown(
            header,
            [
                (
                    line["width"],
                    *(f"{statistics.median(line['seconds'][name]):.1f}" for name in ("without", "with")),
                    "{median:.2f} ({low:.2f} to {high:.2f})".format(**line["faster"]),
                )
                for line in result["widths"]
            ],
        )
    )
    return 0


def _train(options: Pages, width: int, huge: bool) -> float | None:
    """Seconds that a run's steps took; ``None`` if it failed, its own words printed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "train", f"--data={options.data}", f"--preset={options.preset}"]
        command += [f"--width={width}", f"--max-steps={options.steps}", "--batch-size=64", f"--out={out}"]
        # A hundredth of the training images is little to evaluate on, which is no part of the time.
        command += ["--evaluate-on=validation", "--validation-share=0.01"]
        if options.data_dir is not None:
            command += ["--data-dir", str(options.data_dir.absolute())]
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent.parent,
            env={**os.environ, VARIABLE: f"{TUNABLE}={int(huge)}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            print(done.stdout, file=sys.stderr)
            return None
        return json.loads((out / "summary.json").read_text())["train_seconds"]
