"""TensorBoard event files of a run, written without TensorFlow: ``tensorboard --logdir runs`` shows them."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# Seconds between two flushes. Each waits for the disk, so it is not done for every record.
FLUSH = 2.0


class Events:
    """Scalars of a run as event files in ``folder/events``; one file for each time the run was started or resumed.

    Records are made with tensorboardX's protocol buffers and its ``RecordWriter``, in the caller's thread. Its
    ``SummaryWriter`` passes them to a thread through a queue of ten; if that thread dies (a full disk), training would
    wait for the queue for ever.

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
        try:
            from tensorboardX import RecordWriter
            from tensorboardX.proto import event_pb2, summary_pb2
        except ImportError as error:
            self._say(f"no TensorBoard events: {error}; to have them, pip install tensorboardX. Training goes on")
            return
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        try:
            (folder / "events").mkdir(parents=True, exist_ok=True)
            self._writer = RecordWriter(str(_new_file(folder / "events")))
            # The format's first record. TensorBoard purges by session_log only in files of this version or later.
            self._record(file_version="brain.Event:2")
            if resumed_at is not None:
                # Purged are the records at this step and beyond.
                start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._record(step=resumed_at + 1, session_log=start)
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers under their names at an optimiser step.

        Args:
            step: optimiser steps done.
            values: by tag; TensorBoard groups tags by what stands before a ``/``. Kept as float32, NaN too.
        """
        if self._writer is None:
            return
        summary = self._summary(value=[self._summary.Value(tag=tag, simple_value=v) for tag, v in values.items()])
        try:
            self._record(step=step, summary=summary)
            if time.monotonic() - self._flushed >= FLUSH:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Write what is still in memory. Recording after this does nothing, nor does closing again."""
        if self._writer is None:
            return
        try:
            self._writer.flush()
            self._writer.close()
            self._writer = None
        except OSError as error:
            self._give_up(error)

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _record(self, **fields) -> None:
        self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())

    def _give_up(self, error: OSError) -> None:
        writer, self._writer = self._writer, None
        self._say(f"no more TensorBoard events: {error}. Training goes on")
        if writer is not None:
            with contextlib.suppress(OSError):  # reported already
                writer.close()


def _new_file(folder: Path) -> Path:
    """A path for the next event file: TensorBoard reads a run's files in the order of their names.

    Their names begin with the second in which they were made, so a run resumed within a second of its start, or after
    the clock was put back, would be read in the wrong order or overwrite its own file: such a file is dated later.
    """
    names = (path.name.split(".") for path in folder.glob("events.out.tfevents.*"))
    latest = max((int(name[3]) for name in names if len(name[3]) == 10 and name[3].isdecimal()), default=0)
    stamp = max(int(time.time()), latest + 1)
    return folder / f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}"
