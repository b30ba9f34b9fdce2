"""``python -m bench accuracy``: what learns, and what it costs to store. The studies of bench/studies, run by run.

Each run is one ``python -m train`` with a folder of its own, saved as it goes; asked again, this command goes on where
it was stopped and leaves out what the output file already holds.
"""

import collections
import dataclasses
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench import machine, pareto, results_file
from bench import study as studies
from bench.study import Row, Study
from bench.table import markdown

# Seconds that a run is given to save and end.
PATIENCE = 60


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Train the rows of a study and compare accuracy with stored parameters."""

    study: str = "cifar10"
    """Which one, by the name of its file in bench/studies."""
    data_dir: Path | None = None
    """Where TensorFlow Datasets keeps CIFAR-10 (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)."""
    rows: tuple[str, ...] = ()
    """Names of rows or of parts to run; none: all."""
    minutes: float | None = None
    """Begin or go on with runs for so long, then let those under way save and stop; none: until all are done."""
    jobs: int = 1
    """Runs at a time, each on its share of the cores."""
    folder: Path = Path("runs/accuracy")
    """Where the runs are kept."""
    output: Path | None = None
    """JSON to write; none: the study's own, in bench/results."""
    list: bool = False
    """Only tell which runs there are and which are done."""


def run(options: Accuracy) -> int:
    """Train what is missing, write, print. 0; 1 if runs failed; 2 for what does not exist."""
    if options.study not in studies.NAMES:
        return _refuse("study", options.study, f"one of {', '.join(studies.NAMES)}")
    study = studies.read(studies.FOLDER / f"{options.study}.toml")
    known = {row.name for row in study.rows} | {row.part for row in study.rows}
    if unknown := [name for name in options.rows if name not in known]:
        return _refuse("rows", unknown[0], f"some of {', '.join(sorted(known))}")
    if options.jobs < 1:
        return _refuse("jobs", options.jobs, "at least 1")
    output = options.output or results_file.FOLDER / study.output
    chosen = [row for row in study.rows if not options.rows or {row.name, row.part} & set(options.rows)]
    done = _read(output)
    # Seeds outermost: a study that is stopped has one run of each row before it has three of one.
    seeds = sorted({seed for row in chosen for seed in row.seeds})
    wanted = [(row, seed) for seed in seeds for row in chosen if seed in row.seeds]
    missing = collections.deque((row, seed) for row, seed in wanted if _key(row, seed) not in done)
    if options.list:
        for row, seed in wanted:
            print(f"{'done   ' if _key(row, seed) in done else 'missing'}  {' '.join(_command(row, seed))}")
        return 0
    failed = _train(options, study, missing, done, output)
    _write(output, study, done)
    for part in dict.fromkeys(row.part for row in chosen):
        print(f"\n{part} ({study.note})\n")
        print(table(rows_of(done, part)))
    if lines := rows_of(done, "main"):
        pareto.draw(output.with_name(f"{output.stem}_pareto"), lines, study.note)
    print(f"\n{len(missing)} runs are left; written: {output}")
    return 1 if failed else 0


def _refuse(option: str, got, expected: str) -> int:
    print(f"error: --{option}: got {got}, expected {expected}", file=sys.stderr)
    return 2


@dataclasses.dataclass
class _Job:
    """A run under way, and whether it was told to save and end."""

    row: Row
    seed: int
    process: subprocess.Popen
    told: bool = False

    def end(self) -> None:
        if not self.told:
            self.process.send_signal(signal.SIGTERM)
            self.told = True


def _train(
    options: Accuracy, study: Study, missing: collections.deque, done: dict[str, dict], output: Path
) -> list[str]:
    """Run what is missing, moving it to ``done``; the keys of runs that failed. What was cut short stays missing."""
    until = time.monotonic() + 60 * options.minutes if options.minutes is not None else math.inf
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[i :: options.jobs] or cores for i in range(options.jobs)]
    jobs: list[_Job | None] = [None] * options.jobs
    failed, cut = [], []
    try:
        while any(jobs) or (missing and time.monotonic() < until):
            for place, job in enumerate(jobs):
                late = time.monotonic() >= until
                if job is None:
                    if missing and not late:
                        row, seed = missing.popleft()
                        jobs[place] = _Job(row, seed, _start(options, row, seed, shares[place]))
                    continue
                if late:
                    job.end()
                code = job.process.poll()
                if code is None:
                    continue
                jobs[place] = None
                key, folder = _key(job.row, job.seed), _folder(options, job.row, job.seed)
                if code == 0:
                    # Of the row's old flags: it would be taken for a second seed.
                    for old in [k for k, r in done.items() if (r["row"], r["seed"]) == (job.row.name, job.seed)]:
                        del done[old]
                    done[key] = _record(job.row, job.seed, folder)
                    _write(output, study, done)
                    print(f"{job.row.name}, seed {job.seed}: {done[key]['accuracy']:.2%}", flush=True)
                elif job.told:
                    cut.append((job.row, job.seed))
                else:
                    failed.append(key)
                    print(
                        f"{job.row.name}, seed {job.seed}: ended with code {code}; see {folder}.log",
                        file=sys.stderr,
                        flush=True,
                    )
            time.sleep(0.5)
    finally:
        left = [job for job in jobs if job is not None]
        for job in left:
            job.end()
        for job in left:
            try:
                job.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                job.process.kill()
    missing.extend(cut)
    return failed


def _start(options: Accuracy, row: Row, seed: int, cores: list[int]) -> subprocess.Popen:
    folder = _folder(options, row, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *_command(row, seed)[1:], "--out", str(folder), "--overwrite"]
    begun = Path(f"{folder}.command")  # a run of the row's old flags is not gone on with
    if (folder / "config.json").exists() and begun.exists() and begun.read_text() == _key(row, seed):
        command = [sys.executable, "-m", "train", "--resume", str(folder)]
    begun.write_text(_key(row, seed))
    if options.data_dir is not None:
        command += ["--data-dir", str(options.data_dir)]
    with open(f"{folder}.log", "a") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,  # Ctrl-C is for this process, which hands it on
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )


def _command(row: Row, seed: int) -> list[str]:
    return ["python", "-m", "train", *row.arguments(), "--seed", str(seed)]


def _key(row: Row, seed: int) -> str:
    # A row whose flags change is another measurement.
    return _plain(" ".join(_command(row, seed)))


def _plain(command: str) -> str:
    """Without the flag that commands lack which were run when there was no other optimiser."""
    return command.replace(" --optimiser=adamw", "")


def _folder(options: Accuracy, row: Row, seed: int) -> Path:
    return options.folder.absolute() / f"{row.name}-seed{seed}"


def _record(row: Row, seed: int, folder: Path) -> dict:
    summary, described = (json.loads((folder / name).read_text()) for name in ("summary.json", "config.json"))
    kept = ("test_accuracy", "evaluated_on", "test_images", "epochs", "steps", "parameters", "accuracy_by_depth")
    return {
        "row": row.name,
        "part": row.part,
        "what": row.what,
        "puppeteer": row.puppeteer,
        "width": described["config"]["width"],
        "seed": seed,
        "command": " ".join(_command(row, seed)),
        "accuracy": summary["test_accuracy"],
        **{name: summary[name] for name in (*kept, "train_seconds")},
        "revision": described["git_revision"],
    }


def _read(output: Path) -> dict[str, dict]:
    """Runs by their command. Those of a file from before there were rows (revision 0.1) are not gone on with."""
    if not output.exists():
        return {}
    runs = json.loads(output.read_text(encoding="utf-8"))["runs"]
    return {_plain(each["command"]): each for each in runs if "command" in each}


def _write(output: Path, study: Study, done: dict[str, dict]) -> None:
    about = {**machine.describe(), "data": study.note}
    parts = dict.fromkeys(each["part"] for each in done.values())
    tables = {part: rows_of(done, part) for part in parts}
    results_file.write(output, {**about, "tables": tables, "runs": list(done.values())})


def rows_of(done: dict[str, dict], part: str) -> list[dict]:
    """One line for each row of a part that has a run: its accuracy over seeds, and what it stores."""
    lines = []
    for name in dict.fromkeys(each["row"] for each in done.values() if each["part"] == part):
        runs = [each for each in done.values() if each["row"] == name]
        first, parameters = runs[0], runs[0]["parameters"]
        kernels = parameters["static_twin"] - parameters["normalisation"] - parameters["head"]
        accuracies = [each["accuracy"] for each in runs]
        lines.append(
            {
                "row": name,
                **{key: first[key] for key in ("what", "puppeteer", "width", "epochs", "evaluated_on")},
                "seeds": [each["seed"] for each in runs],
                "accuracy": statistics.mean(accuracies),
                "least": min(accuracies),
                "greatest": max(accuracies),
                "generator": parameters["generator"],
                "total": parameters["total"],
                "kernel_compression": kernels / parameters["generator"],
                "compression": parameters["static_twin"] / parameters["total"],
                "train_seconds": statistics.mean(each["train_seconds"] for each in runs),
            }
        )
    return lines


def table(lines: list[dict]) -> str:
    header = ("row", "kernels from", "width", "epochs", "kernel parameters", "fewer", "accuracy", "seeds", "on")
    rows = []
    for line in lines:
        spread = f" ({line['least']:.1%} to {line['greatest']:.1%})" if len(line["seeds"]) > 1 else ""
        stored = f"{line['generator']:,}", f"{line['kernel_compression']:.1f}x"
        about = (line["row"], line["what"], line["width"], line["epochs"], *stored)
        rows.append((*about, f"{line['accuracy']:.1%}{spread}", len(line["seeds"]), line["evaluated_on"]))
    return markdown(header, rows)
