"""The position of a run between two steps: saved as a checkpoint, and restored when the run is resumed."""

import io
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from train.devices import from_first, is_first
from train.errors import UserError
from train.runs.checkpoint import Checkpoints, fill
from train.runs.model_file import FORMAT
from train.steps.step import Tally, TrainState

PLAIN = ("history", "train_seconds", "epoch_seconds")


class Position(NamedTuple):
    """Everything that a run continues from: the last step's state, the lines of ``metrics.jsonl``, seconds of training
    in all finished epochs and in the one in progress. The place in the data and the random draws follow from the step's
    number."""

    state: TrainState
    tally: Tally
    history: list[dict[str, Any]]
    train_seconds: float = 0.0
    epoch_seconds: float = 0.0


def save(checkpoints: Checkpoints, position: Position, accuracy: float | None) -> bool:
    """Save a position as a checkpoint, see :meth:`train.runs.checkpoint.Checkpoints.save`; ``accuracy`` is that of its
    parameters, where they have been evaluated."""
    about = {"format": FORMAT} | {name: getattr(position, name) for name in PLAIN}
    # The request to stop was for this process, not for the one that resumes.
    arrays = {"state": position.state, "tally": position.tally._replace(stop=jnp.int32(0))}
    return checkpoints.save(int(position.tally.step), arrays, about, accuracy)


def restore(checkpoints: Checkpoints, beginning: Position) -> tuple[Position | None, list[str]]:
    """The position of the last good checkpoint of the first process, at every process, and what was wrong with later
    ones; ``None`` if there never was any. ``beginning``, where a new run begins, tells the shapes. Refused, in all
    processes, is what does not fit the run."""
    tree: Any = {"state": beginning.state, "tally": beginning.tally}
    plain, problems, refused = None, list[str](), None
    try:
        if is_first() and (found := checkpoints.restore()) is not None:
            arrays, saved, problems = found
            if saved["format"] != FORMAT:  # shapes do not tell of a layer that computes something else
                raise ValueError(f"format {saved['format']}, expected {FORMAT}")
            tree = fill(tree, arrays)
            plain = {name: saved[name] for name in PLAIN}
    except UserError as error:
        refused = str(error)
    except (ValueError, KeyError, TypeError) as error:
        refused = f"--resume: the checkpoint is of another version of this program ({error}); resume with that version"
    told = from_first(json.dumps([plain, problems, refused]).encode())
    plain, problems, refused = json.loads(told)
    if refused is not None:
        raise UserError(refused)
    if plain is None:
        return None, []
    content = io.BytesIO(from_first(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))))
    tree = jax.tree.map(lambda x: np.frombuffer(content.read(x.nbytes), x.dtype).reshape(x.shape), tree)
    return Position(tree["state"], tree["tally"], **plain), problems
