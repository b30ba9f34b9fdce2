"""Reading what a run wrote: ``config.json``, ``summary.json``, trusted in nothing.

The counterpart of :mod:`train.runs.run_folder`. A run folder may be unfinished, damaged or somebody else's, so types
are checked, and whatever is wrong is a :class:`UserError` that names the file.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from train.errors import UserError
from train.terminal import printable

Count = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]


class Description(msgspec.Struct):
    """What a run's ``config.json`` says of what it began with: its configuration, what identifies its data, the digests
    of the model that it learns from, and of that whose parameters it began with."""

    config: Any
    data: dict[str, Any] = {}
    teacher: str | None = None
    began: str | None = None


class Summary(msgspec.Struct):
    """What a run's ``summary.json`` is read for."""

    evaluated_on: Literal["test", "validation"]
    test_images: Count
    test_correct: int
    test_accuracy: Share
    test_loss: Amount
    best: dict[str, float]
    parameters: dict[str, int]
    compression: Amount
    clipped: dict[str, Share]
    max_depth: Count
    accuracy_by_depth: list[dict[str, float]]
    steps: Count
    train_seconds: Amount
    compile_seconds: Amount
    peak_memory_bytes: Count
    accuracy_by_bin: list[dict[str, float]] | None = None

    def __post_init__(self) -> None:
        expected: list[tuple[str, str, list[Any]]] = [
            ("parameters", "total generator normalisation head static_twin", [self.parameters]),
            ("best", "epoch test_accuracy", [self.best]),
            ("clipped", "train test", [self.clipped]),
            ("accuracy_by_depth", "depth images accuracy", self.accuracy_by_depth),
            ("accuracy_by_bin", "complexity images accuracy", self.accuracy_by_bin or []),
        ]
        for name, fields, held in expected:
            if any(not each.keys() >= set(fields.split()) for each in held):
                raise ValueError(f"{name} lacks one of {fields}")


def read_json(path: Path, kind: Any = dict[str, Any]) -> Any:
    """The content of a JSON file, of a ``kind`` that msgspec knows; refused if it is another."""
    try:
        # Not by msgspec alone, which refuses a file's name that is not UTF-8.
        return msgspec.convert(json.loads(path.read_text("utf-8")), kind)
    except FileNotFoundError as error:
        raise UserError(
            f"{printable(path)}: no such file, expected one that python -m train leaves; give the folder of a run"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{printable(path)}: damaged or of another version ({printable(error)})") from error
