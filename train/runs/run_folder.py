"""The folder of a run: created, described, and written so that an interruption leaves whole lines and whole files."""

import contextlib
import importlib.metadata
import itertools
import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import msgspec

from train import atomic_file
from train.config import Config, ResolvedConfig, from_json, to_json
from train.data import Dataset
from train.errors import UserError
from train.revision import revision
from train.runs.reading import Description, read_json

FIGURES = tuple(f"{name}.png" for name in ("learning_curves", "complexity", "depth", "confusion", "kernels"))
FINAL = ("config.json", "metrics.jsonl", "params.safetensors", "best.safetensors", *FIGURES, "summary.json")
"""The files of a finished run. The summary is written last: it says that the others are there."""
LOCK = "lock"


def check(config: Config) -> None:
    """Refuse a folder that holds something, before anything is computed or written."""
    if config.out is not None and config.out.exists():
        _replaced(config.out, config.overwrite)


@contextlib.contextmanager
def created(config: ResolvedConfig, description: dict[str, Any]) -> Iterator[Path]:
    """A context in which there is a folder of the run, with its ``config.json``, in which no other process trains; with
    ``--overwrite``, an earlier run's files are removed from it, and only those.

    Raises:
        UserError: the folder holds something, another process trains in it, or it cannot be made.
    """
    folder = config.out or Path("runs")
    with contextlib.ExitStack() as stack:
        try:
            if config.out is None:
                folder = _new_folder(config)
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))  # and then look at it, so that of two processes one is refused
            for file in sorted(_replaced(folder, config.overwrite)):
                if (folder / file).is_dir():
                    shutil.rmtree(folder / file)
                else:
                    (folder / file).unlink()
            write_json(folder / "config.json", description)
        except OSError as error:
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
                folder.rmdir()  # if there is nothing else in it
            raise UserError(f"--out: {folder} cannot be written ({error.strerror}); choose another folder") from error
        yield folder


def _new_folder(config: ResolvedConfig) -> Path:
    """Make a folder under ``runs`` whose name no other run has or gets."""
    net, puppeteer = (name.rpartition(":")[2] for name in (config.net, config.puppeteer))
    stamp = time.strftime("%Y%m%d-%H%M%S")
    name = f"{Path(config.data).name}-{net}-{puppeteer}-seed{config.seed}-{stamp}"
    Path("runs").mkdir(exist_ok=True)
    for number in itertools.count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError


def _replaced(folder: Path, overwrite: bool) -> set[str]:
    """The files of an earlier run that a new one in this folder replaces."""
    held = {path.name for path in folder.iterdir()} - {LOCK}
    # Ignored: what a process leaves that was killed before it had written the configuration.
    begun = held - {name + atomic_file.SUFFIX for name in FINAL}
    if begun and not overwrite:
        raise UserError(
            f"--out: {folder} is not empty, expected a new or empty folder; choose another, go on with the run in "
            f"it with --resume {folder}, or replace it with --overwrite"
        )
    # --overwrite is for runs: a folder that holds anything else is probably not the one that was meant.
    foreign = sorted(begun - {*FINAL, "checkpoints"})
    if foreign:
        raise UserError(f"--out: {folder} holds {foreign[0]!r}, no file of a run; choose another folder")
    return held


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """A context in which no other process trains in the folder, refused if one does. The system releases the lock if
    the process dies."""
    with open(folder / LOCK, "w") as file:
        if not atomic_file.lock(file.fileno()):
            raise UserError(f"{folder}: another process trains in this folder; wait for it, or end it")
        yield


def described(folder: Path) -> Description:
    """What the run in a folder began with, its ``config`` a :class:`ResolvedConfig`; refused if there is none, or not
    one that this version knows."""
    path = folder / "config.json"
    if not path.exists():
        raise UserError(
            f"--resume: {path}: no such file, expected the folder of a run. If the run was cut before it wrote its "
            "configuration nothing is lost: start it again with its own flags and --out"
        )
    try:
        about = read_json(path, Description)
        return msgspec.structs.replace(about, config=from_json(about.config))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--resume: {path} is not a configuration that this version knows ({error}); resume with the version that "
            "wrote it"
        ) from error


def finished(folder: Path) -> bool:
    """Whether a run has all its final files; figures and the best parameters it may lack."""
    return all((folder / name).is_file() for name in FINAL if name not in (*FIGURES, "best.safetensors"))


def describe(
    config: ResolvedConfig,
    dataset: Dataset,
    data: dict[str, Any],
    teacher: str | None = None,
    earlier: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Everything that decides a run's numbers: configuration, the fingerprint of its data, the digest of a teacher, the
    runs before it, versions, machine, revision."""
    packages = ("jax", "jaxlib", "flax", "optax", "diffrax", "numpy", "safetensors")
    return {
        "config": to_json(config),
        "data": data,
        "teacher": teacher,
        "earlier": list(earlier),
        "skipped_images": len(dataset.skipped),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "cpus": os.cpu_count(),
        "git_revision": revision(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    atomic_file.write(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Write a file of JSON lines whole or not at all; an absent one is not made for no lines."""
    if records or path.exists():
        atomic_file.write(path, "".join(map(_line, records)).encode())


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line."""
    with open(path, "a") as file:
        file.write(_line(record))


def peak_memory_bytes() -> int:
    """The most memory this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
