"""The folder of a run: made, described, and written to so that an interruption leaves whole lines and whole files."""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax

from train.config import Config, to_json
from train.errors import UserError

FIGURES = ("learning_curves.png", "complexity.png", "depth.png", "accuracy_by_depth.png")
FILES = ("config.json", "metrics.jsonl", "params.safetensors", "params.safetensors.tmp", "summary.json", *FIGURES)


def make_folder(config: Config) -> Path:
    """Create the run's folder; with ``--overwrite``, remove an earlier run's files from it, and only those.

    Raises:
        UserError: the folder holds something, or cannot be made.
    """
    name = f"{config.data}-{config.preset}-{config.puppeteer}-seed{config.seed}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = config.out or Path("runs") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = {path.name for path in folder.iterdir()}
        if held and not config.overwrite:
            raise UserError(
                f"--out: {folder} is not empty, expected a new or empty folder; choose another, or replace the run "
                "in it with --overwrite"
            )
        # Overwriting is for runs: a folder that holds anything else is more likely a slip than a wish.
        foreign = sorted(held - set(FILES))
        if foreign:
            raise UserError(f"--out: {folder} holds {foreign[0]!r}, no file of a run; choose another folder")
        for file in held:
            (folder / file).unlink()
    except OSError as error:
        raise UserError(f"--out: {folder} cannot be written ({error.strerror}); choose another folder") from error
    return folder


def describe(config: Config, *, train_images: int, test_images: int) -> dict[str, Any]:
    """Everything that decides a run's numbers: configuration, sizes, versions, machine, revision."""
    packages = ("jax", "jaxlib", "flax", "optax", "diffrax", "numpy", "safetensors")
    return {
        "config": to_json(config),
        "train_images": train_images,
        "test_images": test_images,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "platform": platform.platform(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "cpus": os.cpu_count(),
        "git_revision": _git_revision(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line and hand it to the system; a number that JSON does not have becomes null."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    with open(path, "a") as file:
        file.write(json.dumps(finite, allow_nan=False) + "\n")


def peak_memory_bytes() -> int:
    """The most memory this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _version(package: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)


def _git_revision() -> str | None:
    """The revision of the source that runs, with ``+changes`` where it differs from it; None outside git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None
