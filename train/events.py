"""TensorBoard event files."""

from collections.abc import Mapping
from pathlib import Path


class Events:
    """Scalars of a run as event files under ``RUN/events``."""

    def __init__(self, folder: Path, resumed_at: int | None, say=None):
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / "events"), purge_step=resumed_at)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
