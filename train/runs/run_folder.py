"""The folder of a run: created, described, and written so that an interruption leaves whole lines and whole files."""

import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import msgspec

from train import atomic_file
from train.config import Config, ResolvedConfig, from_json, resolve, to_json
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
        _check_empty(config.out)


@contextlib.contextmanager
def created(config: ResolvedConfig, description: dict[str, Any]) -> Iterator[Path]:
    """A context in which there is a folder of the run, with its ``config.json``, in which no other process trains.

    Raises:
        UserError: the folder holds something, or another process trains in it.
    """
    folder = config.out or _new_folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):  # and then look at it, so that of two processes one is refused
        _check_empty(folder)
        write_json(folder / "config.json", description)
        yield folder


def _new_folder(config: ResolvedConfig) -> Path:
    """A folder under ``runs`` that no other run has."""
    net, puppeteer = (name.rpartition(":")[2] for name in (config.net, config.puppeteer))
    now = time.time()
    stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{int(now % 1 * 1e6):06}"
    return Path("runs") / f"{Path(config.data).name}-{net}-{puppeteer}-seed{config.seed}-{stamp}"


def _check_empty(folder: Path) -> None:
    # Ignored: what a process leaves that was killed before it had written the configuration.
    if {path.name for path in folder.iterdir()} - {LOCK, "config.json" + atomic_file.SUFFIX}:
        raise UserError(
            f"--out: {folder} is not empty, expected a new or empty folder; choose another, or go on with the run in "
            f"it with --resume {folder}"
        )


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
    try:
        about = read_json(folder / "config.json", Description)
        return msgspec.structs.replace(about, config=resolve(Config(**from_json(about.config))))
    except ValueError as error:
        raise UserError(
            f"--resume: {folder}/config.json is no configuration that this version knows ({error}); resume with the "
            "version that wrote it"
        ) from error


def finished(folder: Path) -> bool:
    """Whether a run has all its final files; figures and the best parameters it may lack."""
    return all((folder / name).is_file() for name in FINAL if name not in (*FIGURES, "best.safetensors"))


def describe(
    config: ResolvedConfig,
    dataset: Dataset,
    data: dict[str, Any],
    teacher: str | None = None,
    began: str | None = None,
) -> dict[str, Any]:
    """Everything that decides a run's numbers: configuration, the fingerprint of its data, the digests of a teacher
    and of the model that it began with, versions, machine, revision."""
    packages = ("jax", "jaxlib", "flax", "optax", "diffrax", "numpy", "safetensors")
    return {
        "config": to_json(config),
        "data": data,
        "teacher": teacher,
        "began": began,
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
