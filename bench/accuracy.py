"""``python -m bench accuracy``: what learns, and what it costs to store. The studies of bench/studies, run by run.

Each run is one ``python -m train`` with a folder of its own, saved as it goes; asked again, this command goes on where
it was stopped (Ctrl-C; ``timeout 1h python -m bench accuracy``) and leaves out what the output file already holds.
"""

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from bench import dial, machine, pareto, results_file
from bench import study as studies
from bench.study import Row, Study
from bench.target import markdown
from train.errors import UserError


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Train the rows of a study and compare accuracy with stored bytes."""

    study: str = "cifar10"
    """Which one, by the name of its file in bench/studies."""
    rows: tuple[str, ...] = ()
    """Names of rows or of parts to run; none: all."""
    folder: Path = Path("runs/accuracy")
    """Where the runs are kept."""
    output: Path = results_file.FOLDER
    """Folder for the result."""


def run(options: Accuracy) -> int:
    """Train what is missing, write, print. 0; 1 if runs failed; 2 for what does not exist."""
    try:
        study = _chosen(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    output = options.output / study.output
    done = _read(output)
    # Seeds outermost: a study that is stopped has one run of each row before it has three of one.
    seeds = sorted({seed for row in study.rows for seed in row.seeds})
    wanted = [(row, seed) for seed in seeds for row in study.rows if seed in row.seeds]
    missing = [(row, seed) for row, seed in wanted if _key(row, seed) not in done]
    print(f"{len(missing)} of {len(wanted)} runs are missing", file=sys.stderr, flush=True)
    failed = _train(options, study, missing, done, output)
    _write(output, study, done)
    for part in dict.fromkeys(row.part for row in study.rows):
        print(f"\n{part} ({study.note})\n\n{table(rows_of(done, part))}")
    if lines := rows_of(done, "main"):
        pareto.draw(output.with_name(f"{output.stem}_pareto"), lines, study.note)
    lines = rows_of(done, "exits")
    if any(line["by_exit"] for line in lines):
        dial.draw(output.with_name(f"{output.stem}_exits"), lines, study.note)
    print(f"\nwritten: {output}")
    return 1 if failed else 0


def _chosen(options: Accuracy) -> Study:
    """The study with the rows that are asked for."""
    if options.study not in studies.NAMES:
        raise UserError(f"--study: got {options.study}, expected one of {', '.join(studies.NAMES)}")
    study = studies.read(studies.FOLDER / f"{options.study}.toml")
    known = {row.name for row in study.rows} | {row.part for row in study.rows}
    if unknown := set(options.rows) - known:
        raise UserError(f"--rows: got {', '.join(unknown)}, expected some of {', '.join(sorted(known))}")
    rows = [row for row in study.rows if not options.rows or {row.name, row.part} & set(options.rows)]
    return dataclasses.replace(study, rows=tuple(rows))


def _train(options: Accuracy, study: Study, missing: list, done: dict[str, dict], output: Path) -> bool:
    """Run what is missing into ``done``; whether runs failed. An interruption lets the one under way save."""
    failed = False
    for row, seed in missing:
        process = _start(options, row, seed)
        try:
            process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        told = f"ended with code {process.returncode}; see {_folder(options, row, seed)}.log"
        if process.returncode == 0:
            told = _finish(options, row, seed, done)
            _write(output, study, done)
        failed |= _key(row, seed) not in done
        print(f"{row.name}, seed {seed}: {told}", file=sys.stderr, flush=True)
    return failed


def _start(options: Accuracy, row: Row, seed: int) -> subprocess.Popen:
    folder = _folder(options, row, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "train", *row.arguments, "--seed", str(seed), "--out", str(folder)]
    begun = Path(f"{folder}.command")  # a run of the row's old flags is not gone on with
    if (folder / "config.json").exists() and begun.exists() and begun.read_text() == _key(row, seed):
        command = [sys.executable, "-m", "train", "--resume", str(folder)]
    else:
        shutil.rmtree(folder, ignore_errors=True)
    begun.write_text(_key(row, seed))
    # A session of its own: Ctrl-C is for this process, which hands it on.
    where = {"cwd": Path(__file__).parent.parent, "start_new_session": True}
    with open(f"{folder}.log", "a") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **where)


def _key(row: Row, seed: int) -> str:
    """The run's command line: a row whose flags change is another measurement."""
    return " ".join(["python", "-m", "train", *row.arguments, "--seed", str(seed)])


def _folder(options: Accuracy, row: Row, seed: int) -> Path:
    return options.folder.absolute() / f"{row.name}-seed{seed}"


def _finish(options: Accuracy, row: Row, seed: int, done: dict[str, dict]) -> str:
    """Take over what a run says of itself and what ``bench.evaluated`` measures. Returns what is told of it."""
    folder = _folder(options, row, seed)
    # In a process of its own: JAX's threads do not agree with beginning others.
    command = [sys.executable, "-m", "bench.evaluated", str(folder)]
    evaluated = subprocess.run(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    if evaluated.returncode:
        return f"could not be measured further: {evaluated.args} ended with code {evaluated.returncode}"
    # Runs of the row's old flags would be taken for further seeds.
    current = {_key(row, each) for each in row.seeds}
    for old in [key for key, each in done.items() if each["row"] == row.name and key not in current]:
        del done[old]
    summary, described = (json.loads((folder / name).read_text()) for name in ("summary.json", "config.json"))
    kept = ("test_accuracy", "evaluated_on", "test_images", "epochs", "steps", "parameters", "train_seconds")
    done[_key(row, seed)] = {
        **{"row": row.name, "part": row.part, "what": row.what, "puppeteer": row.puppeteer},
        "width": described["config"]["width"],
        "seed": seed,
        "command": _key(row, seed),
        "accuracy": summary["test_accuracy"],
        **{name: summary[name] for name in kept},
        **json.loads(evaluated.stdout),
        "revision": described["git_revision"],
    }
    return f"{summary['test_accuracy']:.2%}"


def _read(output: Path) -> dict[str, dict]:
    """Runs by their command."""
    if not output.exists():
        return {}
    runs = json.loads(output.read_text(encoding="utf-8"))["runs"]
    return {each["command"]: each for each in runs}


def _write(output: Path, study: Study, done: dict[str, dict]) -> None:
    parts = dict.fromkeys(each["part"] for each in done.values())
    tables = {part: rows_of(done, part) for part in parts}
    about = {**machine.describe(), "data": study.note}
    results_file.write(output, {**about, "tables": tables, "runs": list(done.values())})


def rows_of(done: dict[str, dict], part: str) -> list[dict]:
    """One line for each row of a part that has a run: its accuracy over seeds, and what it stores."""
    lines = []
    for name in dict.fromkeys(each["row"] for each in done.values() if each["part"] == part):
        runs = [each for each in done.values() if each["row"] == name]
        first, parameters = runs[0], runs[0]["parameters"]
        kernels = parameters["static_twin"] - parameters["normalisation"] - parameters["head"]
        accuracies = [each["accuracy"] for each in runs]
        line = {"row": name, **{key: first[key] for key in ("what", "puppeteer", "width", "epochs", "evaluated_on")}}
        line |= {"seeds": [each["seed"] for each in runs], "accuracy": statistics.mean(accuracies)}
        line |= {"least": min(accuracies), "greatest": max(accuracies)}
        line |= {key: parameters[key] for key in ("generator", "total")}
        line["kernel_compression"] = kernels / parameters["generator"]
        line["compression"] = parameters["static_twin"] / parameters["total"]
        mean = lambda bits, key: statistics.mean(each["bits"][bits][key] for each in runs)  # noqa: B023, E731
        line["bits"] = {bits: {key: mean(bits, key) for key in each} for bits, each in first.get("bits", {}).items()}
        for kind in ("by_exit", "by_confidence"):
            told = [each.get(f"accuracy_{kind}", []) for each in runs]
            means = [{key: statistics.mean(each[key] for each in same) for key in same[0]} for same in zip(*told)]  # noqa: B905
            line[kind] = means
        line["bfloat16_loss"] = first["accuracy"] - first.get("bfloat16", first["accuracy"])
        lines.append({**line, "train_seconds": statistics.mean(each["train_seconds"] for each in runs)})
    return lines


def table(lines: list[dict]) -> str:
    shown = ("row", "what", "width", "epochs", "generator", "kernel_compression", "accuracy", "least", "greatest")
    rows = [[f"{line[name]:.3g}" if isinstance(line[name], float) else line[name] for name in shown] for line in lines]
    return markdown(shown, rows)
