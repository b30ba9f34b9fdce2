"""Where a run stands between two steps: saved as a checkpoint, and found again when the run is resumed."""

import json
import zlib
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from train import data
from train.checkpoint import Checkpoints, fill
from train.config import Config, contradictions, from_json, to_json
from train.devices import from_first
from train.errors import UserError
from train.step import Tally, TrainState

PLAIN = ("history", "train_seconds", "epoch_seconds")


class Position(NamedTuple):
    """All that a run goes on from.

    Attributes:
        state, tally: what the last step left. The place in the data and the draws follow from the step's number.
        history: the lines of ``metrics.jsonl``.
        train_seconds: of training, in all finished epochs.
        epoch_seconds: of training, in the epoch that is under way.
    """

    state: TrainState
    tally: Tally
    history: list[dict[str, Any]]
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0


def check(config: Config, asked: Config) -> None:
    """Refuse flags that contradict the configuration of a run.

    Raises:
        UserError: names every field that differs, with both values.
    """
    wrong = contradictions(config, asked)
    if wrong:
        raise UserError(
            f"--resume: {'; '.join(wrong)}. A resumed run goes on to the numbers that it began with: leave these flags "
            "out, or train anew with them"
        )


def fingerprint(dataset: data.Dataset) -> dict[str, Any]:
    """What tells one data set from another: sizes, classes, labels in their order."""
    return {
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "image_shape": list(dataset.train.images.shape[1:]),
        "class_names": list(dataset.class_names),
        "labels": zlib.crc32(dataset.train.labels.tobytes()),
    }


def save(
    checkpoints: Checkpoints, config: Config, dataset: data.Dataset, position: Position, accuracy: float | None
) -> bool:
    """Save a position as a checkpoint, see :meth:`train.checkpoint.Checkpoints.save`; ``accuracy`` is that of its
    parameters, where they have been evaluated."""
    if int(position.tally.bad_step):
        return False
    about = {"config": to_json(config), "data": fingerprint(dataset)}
    about |= {name: getattr(position, name) for name in PLAIN}
    # That it is to stop was asked of this process, not of the one that goes on.
    arrays = {"state": position.state, "tally": position.tally._replace(stop=np.int32(0))}
    return checkpoints.save(int(position.tally.step), arrays, about, accuracy)


def restore(
    checkpoints: Checkpoints, config: Config, dataset: data.Dataset, beginning: Position
) -> tuple[Position | None, list[str]]:
    """The position of the last good checkpoint, at every process, and what was wrong with later ones; ``None`` if there
    never was any.

    Args:
        checkpoints: of the run; only those of the first process are read.
        beginning: where a new run begins, for the shapes.

    Raises:
        UserError: as :meth:`train.checkpoint.Checkpoints.restore`; or the checkpoint has another configuration, other
            data, or arrays that do not fit.
    """
    found = checkpoints.restore()
    text = from_first(found and json.dumps([found[1], found[2]]).encode())
    if text is None:
        return None, []
    arrays = safetensors.numpy.load(from_first(found and safetensors.numpy.save(found[0])))
    saved, problems = json.loads(text)
    check(from_json(saved["config"]), config)
    wrong = [
        f"{name} {value}, was {saved['data'].get(name)}"
        for name, value in fingerprint(dataset).items()
        if value != saved["data"].get(name)
    ]
    if wrong:
        raise UserError(
            f"--data {config.data}: not the images that the run began with ({'; '.join(wrong)}); point --data-dir to "
            "those, or train anew"
        )
    try:
        tree = fill({"state": beginning.state, "tally": beginning.tally}, arrays)
    except ValueError as error:
        raise UserError(
            f"--resume: the checkpoint is of another version of this program ({error}); resume with that version"
        ) from error
    plain = {name: saved[name] for name in PLAIN}
    return Position(tree["state"], tree["tally"], **plain), problems
