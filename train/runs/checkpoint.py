"""Checkpoints: everything that training needs to continue, saved in the background and verified when read.

orbax writes each checkpoint under a temporary name and renames it when complete, so a process that dies leaves the
earlier ones intact. orbax keeps no checksum of a whole checkpoint; the digests stored here detect later damage (a full
or failing disk, an incomplete copy).

Checkpoints do not depend on the number of devices and processes: parameters are replicated, so the first process writes
plain arrays, and reads them for all.
"""

import dataclasses
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from train.errors import UserError

FOLDER = "checkpoints"
DAMAGED = "damaged"

# Without --checkpoint-steps, the least age in seconds of the last checkpoint for a new one: at the end of an epoch, and
# within it. A save takes some 50 ms of one core.
AT_EPOCH, WITHIN_EPOCH = 5.0, 60.0


@dataclasses.dataclass
class _Preserved:
    """Tells orbax which checkpoints to keep: the last few, and the one with the best accuracy."""

    keep: int
    accuracies: dict[int, float]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [info.step for info in checkpoints]
        scored = [step for step in steps if step in self.accuracies]
        # The earliest of equals.
        best = max(scored, key=lambda step: (self.accuracies[step], -step), default=None)
        last = sorted(steps)[-self.keep :]
        return [step in last or step == best for step in steps]


class Checkpoints:
    """The checkpoints of a run, as a context manager: leaving it waits for a save in progress.

    Args:
        folder: of the run; ``None`` for a process that neither saves nor restores.
        keep: how many of the last to keep, besides the best.
        every: steps between two; ``None`` to decide by time.
    """

    def __init__(self, folder: Path | None, *, keep: int, every: int | None = None):
        self._folder = folder or Path()  # unused without a manager
        self._writes = folder is not None
        self._every = every
        self._policy = _Preserved(keep, {})
        self._manager: ocp.CheckpointManager | None = None
        self._saved_at = time.monotonic()
        self.last: int | None = None
        """The step of the last good one."""

    @staticmethod
    def there(folder: Path) -> bool:
        """Whether a run has any."""
        return any(path.name.isdigit() for path in (folder / FOLDER).glob("*"))

    def __enter__(self) -> "Checkpoints":
        if not self._writes:
            return self
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs every file; errors are raised
        path = (self._folder / FOLDER).absolute()
        path.mkdir(exist_ok=True)
        for unfinished in path.glob("*.orbax-checkpoint-tmp*"):  # of a process that was killed while it saved
            shutil.rmtree(unfinished)
        several = jax.process_count() > 1
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}, barrier_sync_key_prefix="one")
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            create=False,
            # So that a folder that cannot be made is an error at once; threads would wait for it for minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            multiprocessing_options=alone if several else ocp.options.MultiprocessingOptions(),
        )
        self._manager = ocp.CheckpointManager(path, options=options)
        return self

    def __exit__(self, kind, *_) -> None:
        if self._manager is None:
            return
        try:
            self._manager.close()
        except Exception as error:
            if kind is None:
                raise self._unwritten(error) from error

    def due(self, step: int, ends_epoch: bool) -> bool:
        """Whether it is time for one after ``step`` steps."""
        if self._manager is None:
            return False
        if self._every is not None:
            return step % self._every == 0
        return time.monotonic() - self._saved_at >= (AT_EPOCH if ends_epoch else WITHIN_EPOCH)

    def save(self, step: int, state: Any, about: Mapping[str, Any], accuracy: float | None = None) -> bool:
        """Save in the background. The state is copied before this returns, so its buffers may be donated.

        Args:
            step: how many steps are done.
            state: any tree of arrays.
            about: JSON values, given back by :meth:`restore`.
            accuracy: of these parameters where they were evaluated, to tell the best.

        Returns:
            whether it is saved: a state with NaN or infinity is not, so that the last good one stays.

        Raises:
            UserError: this or the last save could not be written.
        """
        self._saved_at = time.monotonic()
        if self._manager is None or step == self.last:
            return True
        arrays = flat(state)
        if not all(np.isfinite(a).all() for a in arrays.values() if jnp.issubdtype(a.dtype, jnp.floating)):
            return False
        if accuracy is not None:
            self._policy.accuracies[step] = accuracy
        accuracies = {str(step): value for step, value in self._policy.accuracies.items()}
        content = dict(about) | {"step": step, "accuracies": accuracies, "arrays": _digests(arrays)}
        # A copy as well: it is written later, and the history grows meanwhile.
        content = _signed(json.loads(json.dumps(content)))
        items = {"state": ocp.args.PyTreeSave(arrays), "about": ocp.args.JsonSave(content)}
        try:
            self._manager.save(step, args=ocp.args.Composite(**items))
        except Exception as error:  # of several kinds, also those of the thread that wrote the one before
            raise self._unwritten(error) from error
        self.last = step
        return True

    def restore(self) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]] | None:
        """The last good checkpoint: its arrays by name (:func:`fill` puts them in their places), what was saved about
        them, and a line for each later one that is damaged. Those are moved aside, into ``damaged/``.

        Returns:
            ``None`` if no checkpoint was ever completed.

        Raises:
            UserError: there are checkpoints and none is good. Training does not start again in their place, so that
                nothing is lost that could be recovered by hand.
        """
        if self._manager is None:
            return None
        problems: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                arrays, about = self._read(self._manager, step)
            except Exception as error:  # damage raises errors of many kinds in orbax and its storage
                problems.append(f"the checkpoint at step {step} is damaged: {_reason(error)}")
                continue
            for later in [s for s in self._manager.all_steps() if s > step]:
                self._move_aside(later)
            self._manager.reload()
            self._policy.accuracies.update({int(s): a for s, a in about["accuracies"].items()})
            self.last = step
            return arrays, about, problems
        if problems:
            raise UserError(
                f"--resume: {self._folder / FOLDER}: no checkpoint can be read ({'; '.join(problems)}). "
                "params.safetensors, if it is there, has the last parameters; train anew into another folder with "
                "--out, or in its place with --out and --overwrite"
            )
        return None

    def _read(self, manager: ocp.CheckpointManager, step: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        items = {"state": ocp.args.PyTreeRestore(), "about": ocp.args.JsonRestore()}
        restored = manager.restore(step, args=ocp.args.Composite(**items))
        about = restored["about"]
        if about != _signed({name: value for name, value in about.items() if name != "digest"}):
            raise ValueError("its description does not match its digest")
        if about["step"] != step:
            raise ValueError(f"it is of step {about['step']}")
        arrays = {name: np.asarray(array) for name, array in restored["state"].items()}
        digests = _digests(arrays)
        for name in digests.keys() | about["arrays"].keys():
            if digests.get(name) != about["arrays"].get(name):
                raise ValueError(f"{name} does not match its digest")
        return arrays, about

    def wait(self) -> None:
        """Wait for a save in progress.

        Raises:
            UserError: it could not be written.
        """
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: Exception) -> UserError:
        return UserError(
            f"{self._folder / FOLDER}: a checkpoint could not be written ({_reason(error)}); make room or put the disk "
            "right, then resume the run"
        )

    def _move_aside(self, step: int) -> None:
        target = self._folder / DAMAGED / str(step)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        (self._folder / FOLDER / str(step)).rename(target)


def flat(tree: Any) -> dict[str, np.ndarray]:
    """A tree's arrays by dotted name, copied to the host: views would not survive the donation of their buffers."""
    return {_name(path): np.array(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}


def fill(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A tree of the same shape with the arrays of :func:`flat` in it.

    Raises:
        ValueError: they are not those of this tree; names the first that is not.
    """
    expected = flat(tree)
    for name in sorted(expected.keys() | arrays.keys()):
        got, want = (f"{a[name].dtype}{list(a[name].shape)}" if name in a else "absent" for a in (arrays, expected))
        if got != want:
            raise ValueError(f"{name} is {got}, expected {want}")
    return jax.tree.map_with_path(lambda path, _: arrays[_name(path)], tree)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _digests(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {
        name: hashlib.sha256(f"{a.dtype}{a.shape}".encode() + np.ascontiguousarray(a).tobytes()).hexdigest()
        for name, a in arrays.items()
    }


def _signed(content: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(content, sort_keys=True)
    return content | {"digest": hashlib.sha256(text.encode()).hexdigest()}


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
