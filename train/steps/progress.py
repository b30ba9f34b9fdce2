"""Progress while training: a bar on a terminal, plain lines elsewhere."""

import math
import time
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from train.config import ResolvedConfig
from train.steps.step import Sums, Tally
from train.telling import PLAIN, say

# Seconds between two updates of the bar.
REFRESH = 0.3

# Of at most 80 columns; where there are fewer, its end is cut off.
FORMAT = "{desc} {percentage:3.0f}%|{bar}|{postfix}"


class Progress:
    """A bar over the ``total`` steps of the whole run, or lines. ``folder`` is the run's, ``None`` for a process that
    tells nothing; ``tally`` is of where the steps begin."""

    def __init__(self, folder: Path | None, config: ResolvedConfig, tally: Tally, total: int, steps_per_epoch: int):
        self._tells = folder is not None
        self._total, self._steps_per_epoch, self._config = total, steps_per_epoch, config
        self._epochs = math.ceil(total / steps_per_epoch)
        self._step = int(tally.step)
        # disable=None: no bar where standard error is no terminal.
        hidden = None if self._tells else True
        self._bar = tqdm(total=total, initial=self._step, bar_format=FORMAT, leave=False, disable=hidden)
        self._pause = PLAIN if self._bar.disable else REFRESH
        self._start, self._began = self._step, time.perf_counter()
        self._looked = self._began

    def look(self, tally: Tally) -> None:
        """Show how far the run is, if it is time to, and further than before. ``tally`` should be computed already:
        reading it would otherwise wait for its step, and the device then for the next one."""
        step = int(tally.step)
        if not self._tells or step <= self._step:
            return
        self._step = step
        now = time.perf_counter()
        if now - self._looked < self._pause:
            return
        self._looked = now
        pace = (step - self._start) / (now - self._began)
        epoch = f"epoch {math.ceil(step / self._steps_per_epoch)}/{self._epochs}"
        left = f"{tqdm.format_interval((self._total - step) / pace)} left"
        mean = means(tally.sums)
        text = f"loss {mean['loss']:.3f}, accuracy {mean['accuracy']:.1%}, "
        text += f"{pace * self._config.batch_size:,.0f} images/s"
        if self._bar.disable:
            say(f"{epoch}, step {step}/{self._total}, {left}: {text}")
        else:
            self._bar.set_description_str(epoch, refresh=False)
            self._bar.set_postfix_str(f"{left}, {text}", refresh=False)
            self._bar.n = step
            self._bar.refresh()

    def epoch(self, line: dict[str, Any]) -> None:
        """Report a finished epoch, given its line of metrics: one in so many that they make at most fifty lines."""
        if not self._tells:
            return
        if line["epoch"] % math.ceil(self._epochs / 50) == 0 or line["step"] == self._total:
            say(
                f"epoch {line['epoch']}/{self._epochs}: loss {line['train_loss']:.3f}, accuracy "
                f"{line['train_accuracy']:.1%}; {self._config.evaluate_on} {line['test_loss']:.3f}, "
                f"{line['test_accuracy']:.2%}; {line['seconds']:.1f} s"
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self._bar.close()


def means(sums: Sums) -> dict[str, float]:
    """Mean loss, accuracy, complexity (bits) and depth of the images summed over; waits for the device."""
    sums = jax.device_get(sums)
    seen = int(sums.seen)
    of = {"loss": sums.loss, "accuracy": sums.correct, "complexity": sums.complexity, "depth": sums.depth}
    return {name: float(value) / seen for name, value in of.items()}
