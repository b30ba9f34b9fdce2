"""Progress while training: a bar on a terminal, plain lines elsewhere, and TensorBoard events."""

import math
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from train.config import ResolvedConfig
from train.runs.events import Events
from train.steps.step import Sums, Tally

# Seconds between two updates of the bar, and between two lines within an epoch where there is no terminal.
REFRESH, PLAIN = 0.3, 60.0
# Steps between two events within an epoch.
EVENT_STEPS = 100
# Updates that images per second are averaged over.
WINDOW = 20

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


class Progress:
    """A bar over the steps of the whole run, or lines; and events.

    Args:
        folder: of the run, for the events; ``None`` for a process that tells nothing.
        config: resolved.
        tally: of where the steps begin.
        total, steps_per_epoch: steps of the whole run, and of an epoch.
    """

    def __init__(self, folder: Path | None, config: ResolvedConfig, tally: Tally, total: int, steps_per_epoch: int):
        self._total, self._steps_per_epoch, self._config = total, steps_per_epoch, config
        self._epochs = math.ceil(total / steps_per_epoch)
        done = int(tally.step)
        self._events: Events | None = None
        if folder is not None:
            self._events = Events(folder, None if config.resume is None else done, say)
        # disable=None: no bar where standard error is no terminal.
        self._bar = tqdm(
            total=total,
            initial=done,
            bar_format=FORMAT,
            mininterval=0,  # when to refresh it is decided here
            leave=False,
            disable=None if folder is not None else True,
        )
        self._pause = PLAIN if self._bar.disable else REFRESH
        self._looks: deque[tuple[float, int]] = deque([(time.perf_counter(), done)], maxlen=WINDOW)

    def look(self, tally: Tally) -> None:
        """Show how far the run is, if it is time to. ``tally`` should be computed already: reading it would otherwise
        wait for its step, and the device then for the next one."""
        if self._events is None:
            return
        step = int(tally.step)
        if step % EVENT_STEPS == 0:
            running = means(tally.sums)
            self._events.scalars(step, {f"running/{name}": value for name, value in running.items()})
        now = time.perf_counter()
        since, at = self._looks[-1]
        if now - since < self._pause or step == at:
            return
        since, at = self._looks[0]
        self._looks.append((now, step))
        pace = (step - at) / (now - since)
        text = describe(tally.sums, pace * self._config.batch_size)
        left = f"{tqdm.format_interval((self._total - step) / pace)} left"
        epoch = f"epoch {math.ceil(step / self._steps_per_epoch)}/{self._epochs}"
        if self._bar.disable:
            say(f"step {step}/{self._total}, {epoch}: {text}, {left}")
        else:
            self._bar.set_description_str(epoch, refresh=False)
            self._bar.set_postfix_str(f"{text}, {left}", refresh=False)
            self._bar.update(step - self._bar.n)

    def epoch(self, line: dict[str, Any]) -> None:
        """Report a finished epoch, given its line of metrics."""
        if self._events is None:
            return
        say(
            f"epoch {line['epoch']}/{self._epochs}: train loss {line['train_loss']:.4f}, accuracy "
            f"{line['train_accuracy']:.2%}; {self._config.evaluate_on} loss {line['test_loss']:.4f}, accuracy "
            f"{line['test_accuracy']:.2%}; {line['seconds']:.1f} s, {line['images_per_second']:,.0f} images/s"
        )
        self._events.scalars(line["step"], {k: v for k, v in line.items() if k not in ("epoch", "step")})

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()
        if self._events is not None:
            self._events.close()


def means(sums: Sums) -> dict[str, float]:
    """Mean loss, accuracy, complexity (bits) and depth of the images summed over; waits for the device."""
    sums = jax.device_get(sums)
    seen = int(sums.seen)
    return {
        "loss": float(sums.loss) / seen,
        "accuracy": int(sums.correct) / seen,
        "complexity": float(sums.complexity) / seen,
        "depth": int(sums.depth) / seen,
    }


def describe(sums: Sums, images_per_second: float) -> str:
    mean = means(sums)
    return (
        f"loss {mean['loss']:.3f}, accuracy {mean['accuracy']:.1%}, H {mean['complexity']:.2f} bits, "
        f"depth {mean['depth']:.2f}, {images_per_second:,.0f} images/s"
    )


def say(text: str) -> None:
    """A line on standard error, above the progress bar where there is one; from the first process only."""
    if jax.process_index() == 0:
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()
