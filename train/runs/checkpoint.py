"""Checkpoints: all that training needs to continue, a safetensors file each, written in the background and verified
when read.

They do not depend on the number of devices and processes: the state is replicated, so the first process writes plain
arrays, and reads them for all.
"""

import contextlib
import json
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from train import atomic_file
from train.errors import UserError
from train.runs.model_file import digest

FOLDER = "checkpoints"
DAMAGED = ".damaged"
SUFFIX = ".safetensors"

# Without --checkpoint-steps, the least age in seconds of the last checkpoint for a new one: at the end of an epoch, and
# within it.
AT_EPOCH, WITHIN_EPOCH = 5.0, 60.0


class Checkpoints:
    """The last ``keep`` checkpoints of a run and the best, as a context manager: leaving it waits for the one that is
    being written. ``folder`` is ``None`` for a process that neither saves nor restores; ``every`` so many steps, or by
    time; ``last`` is the step of the last good one."""

    def __init__(self, folder: Path | None, *, keep: int = 3, every: int | None = None):
        self._run, self._keep, self._every = folder, keep, every
        self._folder = (folder or Path()) / FOLDER
        self._best: dict[str, Any] | None = None
        self._writer = ThreadPoolExecutor(1)
        self._writing: Future | None = None
        self._saved_at = time.monotonic()
        self.last: int | None = None

    def is_best(self, step: int) -> bool:
        """Whether the parameters after so many steps are the best so far, of those saved."""
        return self._best is not None and self._best["step"] == step

    @staticmethod
    def there(folder: Path) -> bool:
        """Whether a run has any."""
        return bool(_steps(folder / FOLDER))

    def __enter__(self) -> "Checkpoints":
        if self._run is not None:
            self._folder.mkdir(exist_ok=True)
            for unfinished in self._folder.glob(f"*{atomic_file.SUFFIX}"):  # of a process that was killed
                unfinished.unlink()
        return self

    def __exit__(self, kind, *_) -> None:
        self._writer.shutdown()
        with contextlib.suppress(*[UserError] if kind else []):
            self.wait()

    def due(self, step: int, ends_epoch: bool, accuracy: float | None = None) -> bool:
        """Whether it is time for one after ``step`` steps, or their parameters are the best so far."""
        if self._run is None:
            return False
        if self._best_by(accuracy):
            return True
        if self._every is not None:
            return step % self._every == 0
        return time.monotonic() - self._saved_at >= (AT_EPOCH if ends_epoch else WITHIN_EPOCH)

    def _best_by(self, accuracy: float | None) -> bool:
        return accuracy is not None and (self._best is None or accuracy > self._best["accuracy"])

    def save(self, step: int, state: Any, about: Mapping[str, Any], accuracy: float | None = None) -> bool:
        """Save in the background, with JSON values ``about`` it. The state is copied before this returns, so that its
        buffers may be donated.

        Returns:
            whether it is saved: a state with NaN or infinity is not, so that the last good one stays.

        Raises:
            UserError: the last one could not be written.
        """
        if self._run is None or step == self.last:
            return True
        self._saved_at = time.monotonic()
        arrays = flat(state)
        if not all(np.isfinite(a).all() for a in arrays.values() if jnp.issubdtype(a.dtype, jnp.floating)):
            return False
        self.wait()
        if self._best_by(accuracy):
            self._best = {"step": step, "accuracy": accuracy}
        text = json.dumps({**about, "step": step, "best": self._best})
        self._writing = self._writer.submit(self._write, step, arrays, text)
        self.last = step
        return True

    def _write(self, step: int, arrays: dict[str, np.ndarray], text: str) -> None:
        metadata = {"about": text, "digest": digest(text, arrays)}
        atomic_file.write(self._path(step), safetensors.numpy.save(arrays, metadata=metadata))
        best = json.loads(text)["best"]
        for old in _steps(self._folder)[: -self._keep]:
            if best is None or old != best["step"]:
                self._path(old).unlink()

    def wait(self) -> None:
        """Wait for the one that is being written; a :class:`UserError` if it could not be."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except OSError as error:
            raise UserError(
                f"{self._folder}: a checkpoint could not be written ({_reason(error)}); make room or put the disk "
                "right, then resume the run"
            ) from error

    def restore(self) -> tuple[dict[str, np.ndarray], dict[str, Any], list[str]] | None:
        """The last good checkpoint: its arrays by name (:func:`fill` puts them in their places), what was saved about
        them, and a line for each later one that is damaged. Those are renamed to ``STEP.damaged``.

        Returns:
            ``None`` if the run was cut before its first one.

        Raises:
            UserError: no checkpoint is good, or the run had some and they are gone. Training does not start again in
                their place, so that nothing is lost that could be recovered by hand.
        """
        if self._run is None:
            return None
        problems: list[str] = []
        steps = _steps(self._folder)[::-1]
        for step in steps:
            try:
                arrays, about = _read(self._path(step))
                if about["step"] != step:
                    raise ValueError(f"it is of step {about['step']}")
            except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
                problems.append(f"the checkpoint at step {step} is damaged: {_reason(error)}")
                continue
            for later in map(self._path, steps[: steps.index(step)]):
                later.replace(later.with_suffix(DAMAGED))
            self._best, self.last = about["best"], step
            return arrays, about, problems
        reached = [name for name in ("metrics.jsonl", "params.safetensors") if (self._run / name).exists()]
        if problems or reached:
            why = "; ".join(problems) or f"there is none, though {reached[0]} tells that the run had come further"
            raise UserError(
                f"--resume: {self._folder}: no checkpoint can be read ({why}). Put them back; or begin with "
                "params.safetensors, which has the last parameters if it is there, by --start-from and another --out; "
                "or train anew"
            )
        return None

    def _path(self, step: int) -> Path:
        return self._folder / f"{step}{SUFFIX}"


def flat(tree: Any) -> dict[str, np.ndarray]:
    """A tree's arrays by dotted name, copied to the host: views would not survive the donation of their buffers."""
    return {_name(path): np.array(leaf, order="C") for path, leaf in jax.tree.leaves_with_path(tree)}


def fill(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A tree of the same shape with the arrays of :func:`flat` in it; a ValueError if one is absent, or of another
    shape or type."""

    def one(path: tuple, leaf: Any) -> np.ndarray:
        array = arrays.get(_name(path))
        if array is None or (array.dtype, array.shape) != (leaf.dtype, leaf.shape):
            got = "absent" if array is None else f"{array.dtype}{list(array.shape)}"
            raise ValueError(f"{_name(path)} is {got}, expected {leaf.dtype}{list(leaf.shape)}")
        return array

    return jax.tree.map_with_path(one, tree)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    if not metadata or metadata["digest"] != digest(metadata["about"], arrays):
        raise ValueError("it does not match its digest")
    return arrays, json.loads(metadata["about"])


def _steps(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:300]}"
