"""``python -m bench memory pages``: what training gains from huge pages (train/huge_pages.py)."""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench import results_file, target, timing
from bench.command import Options
from train.errors import UserError
from train.huge_pages import TUNABLE, VARIABLE

FILE = "huge_pages.json"


def measure(options: Options, result: dict, path: Path | None) -> None:
    """Runs of the same steps with and without huge pages, in turns.

    Raises:
        UserError: not on Linux.
        subprocess.CalledProcessError: a run failed; it holds what the run said.
    """
    if sys.platform != "linux":
        raise UserError("huge pages are asked for on Linux alone")
    steps, preset = (2, "puppet_xs") if options.quick else (150, "puppet_s")
    result |= {"steps": steps, "data": options.data, "preset": preset, "widths": [], "rows": []}
    for width in (8,) if options.quick else (32, 64):
        flags = [f"--data={options.data}", f"--preset={preset}", f"--width={width}", f"--max-steps={steps}"]
        flags.append("--batch-size=64")
        if options.data_dir is not None:
            flags.append(f"--data-dir={options.data_dir.absolute()}")
        sides = {name: partial(_train, flags, huge=name == "with") for name in ("without", "with")}
        seconds = timing.in_turns(sides, options.rounds, lambda found: print(found, file=sys.stderr, flush=True))
        faster = target.ratio(seconds["without"], seconds["with"])
        result["widths"].append({"width": width, "seconds": seconds, "faster": faster})
        result["rows"].append(target.row(f"times as fast with huge pages, {width} channels", faster))
        results_file.write(path, result)


def _train(flags: list[str], huge: bool) -> float:
    """Seconds that a run's steps took."""
    with tempfile.TemporaryDirectory() as folder:
        # A hundredth of the training images is little to evaluate on, which is no part of the time.
        flags = [*flags, "--evaluate-on=validation", "--validation-share=0.01", f"--out={folder}/run"]
        environment = {**os.environ, VARIABLE: f"{TUNABLE}={int(huge)}"}
        where = {"cwd": Path(__file__).parent.parent, "env": environment}
        subprocess.run([sys.executable, "-m", "train", *flags], **where, capture_output=True, text=True, check=True)
        return json.loads(Path(folder, "run", "summary.json").read_text())["train_seconds"]
