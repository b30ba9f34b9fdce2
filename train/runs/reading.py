"""Reading what a run wrote: ``config.json``, ``metrics.jsonl``, ``summary.json``, trusted in nothing.

The counterpart of :mod:`train.runs.run_folder`. A run folder may be unfinished, damaged or somebody else's, so sizes
are bounded and types checked, and whatever is wrong is a :class:`UserError` that names the file.
"""

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UserError
from train.terminal import printable

# A run's own files stay far below: a summary is a few kilobytes, an epoch's line a few hundred bytes.
LARGEST = 64 * 2**20
MOST_DAMAGED = 1000

# What a line of metrics.jsonl is read for; the first two are whole numbers.
COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "seconds",
)


@dataclass(frozen=True)
class Metrics:
    """The epochs of a run, in order.

    Attributes:
        lines: of each epoch the columns of :data:`COLUMNS`; a loss that was no number is NaN.
        damaged: ``(line number, what is wrong)`` of the lines that could not be read.
    """

    lines: tuple[dict[str, float], ...]
    damaged: tuple[tuple[int, str], ...]


def open_folder(folder: Path) -> Path:
    """``folder`` itself, if it can be a run's.

    Raises:
        UserError: it is missing, or no folder.
    """
    try:
        found = None if folder.is_dir() else "is no folder" if folder.exists() else "does not exist"
    except (OSError, ValueError) as error:  # a name that is too long, or no name at all
        found = f"cannot be read ({error})"
    if found:
        raise UserError(
            f"{printable(folder)} {found}, expected the folder of a run (python -m train names it in its last line)"
        )
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: no such file, not a regular or readable one, larger than any run's, or not one JSON object.
    """
    return parse_object(_read(path), str(path))


def parse_object(text: str, name: str) -> dict[str, Any]:
    """The object in a JSON text.

    Raises:
        UserError: it is not one JSON object; says where it came from by ``name``.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: damaged, not JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{name}: damaged, expected a JSON object, got {_kind(value)}")
    return value


def read_metrics(path: Path) -> Metrics:
    """The epochs in a ``metrics.jsonl``, those that can be read; an epoch that was recorded twice as it was last.

    Raises:
        UserError: no such file, not a regular or readable one, larger than any run's, or damaged beyond a few lines.
    """
    epochs: dict[int, dict[str, float]] = {}
    damaged = []
    for number, text in enumerate(_read(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            line = _columns(json.loads(text))
        except RecursionError:
            damaged.append((number, "nested too deeply"))
        except ValueError as error:
            damaged.append((number, str(error)))
        else:
            epochs[int(line["epoch"])] = line
        if len(damaged) > MOST_DAMAGED:
            raise UserError(f"{printable(path)}: more than {MOST_DAMAGED} damaged lines, so not the metrics of a run")
    return Metrics(tuple(epochs[epoch] for epoch in sorted(epochs)), tuple(damaged))


def number(record: dict[str, Any], *keys: str) -> float | None:
    """The finite number at ``record[key][key]…``; ``None`` where there is none, or something else."""
    value: Any = record
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= 1e300 else None


def _columns(record: Any) -> dict[str, float]:
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {_kind(record)}")
    line = {}
    for column in COLUMNS:
        if column not in record:
            raise ValueError(f"{column} is missing")
        value = number(record, column)
        if value is None and record[column] is None and column.endswith("loss"):
            value = math.nan  # how a run writes a loss that is no number
        whole = column in ("epoch", "step")
        least, most = (1, 2**53) if whole else (0, 1) if column.endswith("accuracy") else (0, math.inf)
        if value is None or not (math.isnan(value) or least <= value <= most) or (whole and value % 1):
            raise ValueError(f"{column} is {printable(str(record[column])[:40])}")
        line[column] = value
    return line


def _read(path: Path) -> str:
    """A regular file's text. Bytes that are not UTF-8 are replaced, so that one bad byte costs one line."""
    try:
        # O_NONBLOCK: opening a named pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if regular:
            with os.fdopen(descriptor, "rb") as file:
                content = file.read(LARGEST + 1)
        else:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise UserError(
            f"{printable(path)}: no such file, expected one that python -m train leaves; give the folder of a run"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{printable(path)}: cannot be read ({error})") from error
    if not regular:
        raise UserError(f"{printable(path)}: not a regular file, expected a file of a run")
    if len(content) > LARGEST:
        raise UserError(f"{printable(path)}: larger than {LARGEST // 2**20} MiB, which no file of a run is")
    return content.decode("utf-8", errors="replace")


def _kind(value: Any) -> str:
    names = {list: "an array", str: "a text", bool: "a truth value", int: "a number", float: "a number"}
    return names.get(type(value), "null")
