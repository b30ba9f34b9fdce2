"""TensorBoard event files of a run, written without TensorFlow: ``tensorboard --logdir runs`` shows them."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Seconds between two flushes. Each waits for the disk, so it is not done for every record.
FLUSH = 2.0


class Events:
    """Scalars of a run as event files in ``folder/events``; one file for each time the run was started or resumed.

    They are written by tensorboardX in the caller's thread. Its ``SummaryWriter`` passes them to a thread through a
    queue of ten: if that thread dies (a full disk), training would wait for the queue for ever.

    No error here ends a training: a missing package, or a folder that cannot be written to, is reported once, and the
    run goes on without event files.

    Args:
        folder: of the run.
        resumed_at: step of the checkpoint that the run goes on from, ``None`` for a new run. TensorBoard then drops
            what an earlier attempt recorded at later steps; what it recorded up to this step stays.
        say: reports that there will be no event files.
    """

    def __init__(self, folder: Path, resumed_at: int | None = None, say: Callable[[str], None] | None = None):
        self._say = say or (lambda text: print(text, file=sys.stderr))
        self._writer: Any = None
        self._flushed = time.monotonic()
        with self._without_ending():
            from tensorboardX.event_file_writer import EventsWriter

            (folder / "events").mkdir(parents=True, exist_ok=True)
            # TensorBoard reads files in the order of their names, which begin with the second.
            self._writer = EventsWriter(str(folder / "events" / "events"), f".{resumed_at or 0:012}")
            if resumed_at is not None:
                self._record(resumed_at + 1, session_log={"status": "START"})  # purges this step and those beyond
            self._writer.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers under their names at an optimiser step.

        Args:
            step: optimiser steps done.
            values: by tag; TensorBoard groups tags by what stands before a ``/``. Kept as float32, NaN too.
        """
        with self._without_ending():
            self._record(step, summary={"value": [{"tag": tag, "simple_value": v} for tag, v in values.items()]})
            if self._writer is not None and time.monotonic() - self._flushed >= FLUSH:
                self._writer.flush()
                self._flushed = time.monotonic()

    def close(self) -> None:
        """Write what is still in memory. Recording after this does nothing, nor does closing again."""
        with self._without_ending():
            if self._writer is not None:
                self._writer.close()
            self._writer = None

    def _record(self, step: int, **fields) -> None:
        if self._writer is not None:
            from tensorboardX.proto.event_pb2 import Event

            self._writer.write_event(Event(wall_time=time.time(), step=step, **fields))

    @contextlib.contextmanager
    def _without_ending(self) -> Iterator[None]:
        try:
            yield
        except (ImportError, OSError) as error:
            self._writer = None
            self._say(f"no TensorBoard events: {error} (written with: pip install tensorboardX). Training goes on")
