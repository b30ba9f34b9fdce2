"""A folder of predictions, a part for each of several processes, which it alone writes and continues.

The processes need not know of each other: an image belongs to a part by its path, so each finds its own, and one that
was lost is started again alone.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from train.errors import UserError
from train.predict.jsonl_file import digest
from train.terminal import printable

# Number and count of a process, and its number on its machine, as those who start processes on a cluster tell them.
CLUSTERS = {
    "Slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}


class Place(NamedTuple):
    """Which of how many processes one is; ``local`` counts those on its machine, where that is told."""

    number: int
    of: int
    local: int | None = None


def place(
    distributed: bool, process_id: int | None, process_count: int | None, environment: Mapping[str, str] = os.environ
) -> Place | None:
    """The place of this process among others by its flags; ``None`` if none says that there are any.

    Raises:
        UserError: the flags are incomplete or contradict themselves, or no cluster is found.
    """
    if process_id is not None or process_count is not None:
        if process_id is None or process_count is None:
            absent = "--process-id" if process_id is None else "--process-count"
            raise UserError(f"{absent}: missing, expected --process-id I --process-count N together")
        if not 0 <= process_id < process_count:
            raise UserError(f"--process-id: got {process_id}, expected 0 to {process_count - 1}")
        return Place(process_id, process_count)
    if not distributed:
        return None
    for names in CLUSTERS.values():
        number, count, local = (environment.get(name, "") for name in names)
        if number.isdecimal() and count.isdecimal() and int(number) < int(count):
            return Place(int(number), int(count), int(local) if local.isdecimal() else None)
    raise UserError(
        f"--distributed: no cluster found, expected to be started by {', '.join(CLUSTERS)}; else give --process-id I "
        "--process-count N to each process"
    )


def part(folder: Path, place: Place) -> Path:
    """The file of a process, in a folder that is made if there is none.

    Raises:
        UserError: the folder cannot be made, or has parts of another number of processes.
    """
    try:
        folder.mkdir(exist_ok=True)
        others = sorted(set(folder.glob("part-*-of-*.jsonl")) - set(folder.glob(f"part-*-of-{place.of:05d}.jsonl")))
    except OSError as error:
        raise UserError(f"--output: {printable(folder)} cannot be written ({error.strerror})") from error
    if others:
        raise UserError(
            f"--output: {printable(folder)} has {printable(others[0].name)}, so parts of another number of processes "
            f"than {place.of}; go on with as many as before, or name another folder"
        )
    return folder / f"part-{place.number:05d}-of-{place.of:05d}.jsonl"


def own(images: Iterable[str], place: Place) -> Iterator[str]:
    """The images that belong to a process."""
    if place.of == 1:
        return iter(images)
    return (each for each in images if int.from_bytes(digest(each)[:8], "big") % place.of == place.number)
