"""Where a step runs: the processes, a mesh of their devices along the batch, and arrays placed on it."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.config import FREE, Config, ResolvedConfig, to_json
from train.errors import UserError, told

BATCH = "batch"
"""The mesh's only axis."""

HEARTBEAT_SECONDS = 30
"""How long a process may be silent before the others take it for dead and end with an error."""

SHARED, ROWS = PartitionSpec(), PartitionSpec(BATCH)


def connect(config: Config) -> None:
    """Connect to the other processes with ``--distributed``. Call it before anything asks for a device."""
    if not config.distributed or jax.distributed.is_initialized():
        return
    try:
        # Of its own variables JAX reads only JAX_COORDINATOR_ADDRESS by itself; clusters tell it the others.
        count, number = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if number is None else int(number),
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except Exception as error:  # of several kinds: no cluster found, a bad address, nobody there in time
        raise UserError(
            f"--distributed: {_first_line(error)}; expected a cluster that JAX detects, else JAX_COORDINATOR_ADDRESS="
            "HOST:PORT (the same for all), JAX_NUM_PROCESSES=N and JAX_PROCESS_ID=I (from 0) in the environment of "
            "each process"
        ) from error


def explain(error: jax.errors.JaxRuntimeError) -> None:
    """Say what an error of the JAX runtime means for the user, if it is no defect: out of memory is a
    :class:`UserError`. One of several processes ends here with code 1: at an ordinary exit JAX would wait for the
    others."""
    reason = _first_line(error)
    what = f"lost another process ({reason})"
    if "RESOURCE_EXHAUSTED" in reason:
        what = f"--batch-size: out of memory ({reason}); take fewer images"
    if jax.process_count() > 1:
        print(told(f"error: {what}", error), file=sys.stderr, flush=True)
        os._exit(1)
    if "RESOURCE_EXHAUSTED" in reason:
        raise UserError(told(what, error)) from error


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def local_devices(count: int | None) -> list[jax.Device]:
    """``count`` of the devices of this process, by default all; refused if there are not so many."""
    local = jax.local_devices()
    if count is not None and not 1 <= count <= len(local):
        raise UserError(f"--devices: got {count}, expected 1 to the {len(local)} there are")
    return local[:count]


def make_mesh(config: ResolvedConfig, data: Mapping[str, Any] | None = None) -> Mesh:
    """A mesh over ``config.devices`` devices of each process (by default all); refused if there are not so many, if
    the batch cannot be divided among them, or the processes differ in configuration or in what identifies the data."""
    count = len(local_devices(config.devices))
    processes = jax.process_count()
    parts = count * processes
    if config.batch_size % parts:
        of = [f"{count} devices"] + [f"{processes} processes"] * (processes > 1)
        raise UserError(
            f"--batch-size: got {config.batch_size}, expected a multiple of {parts} ({' times '.join(of)}); change it, "
            "or use fewer devices with --devices"
        )
    _agree(config, count, data)
    devices = [d for i in range(processes) for d in [d for d in jax.devices() if d.process_index == i][:count]]
    return Mesh(np.array(devices), (BATCH,))


def on_each_device(function: Callable, mesh: Mesh, inputs: tuple[PartitionSpec, ...]) -> Callable:
    """``function`` run by every device on its own rows of the arguments marked ``ROWS`` and all of those marked
    ``SHARED``. What it returns must be the same on all devices.

    Not left to XLA's partitioner: the model sorts and gathers images and calls its own C++ program, for all of which
    the partitioner would bring all rows to every device. Kernels are cheap, so each device generates its own.
    """
    return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=SHARED, check_vma=False)


def shared(mesh: Mesh, tree: Any) -> Any:
    """Place arrays, the same in every process, on all devices."""
    layout = NamedSharding(mesh, SHARED)

    def place(x):
        # The key of a random stream is no array of NumPy.
        if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        return jax.make_array_from_process_local_data(layout, np.asarray(x))

    return jax.tree.map(place, tree)


def rows(mesh: Mesh, array: np.ndarray) -> jax.Array:
    """Place this process's rows on its devices, as its part of one array over all processes."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, ROWS), array)


def own_rows(array: np.ndarray) -> np.ndarray:
    """The part of a whole batch that this process feeds."""
    part = len(array) // jax.process_count()
    return array[jax.process_index() * part :][:part]


def from_first(value: bytes) -> bytes:
    """The first process's ``value``, in every process; those of the others are ignored."""
    if jax.process_count() == 1:
        return value
    digits = np.frombuffer(len(value).to_bytes(8, "little"), np.uint8)  # as an integer of 64 bits it would be cut to 32
    length = int.from_bytes(np.asarray(multihost_utils.broadcast_one_to_all(digits), np.uint8).tobytes(), "little")
    content = np.frombuffer(value, np.uint8) if is_first() else np.zeros(length, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(content), np.uint8).tobytes()


def _agree(config: ResolvedConfig, count: int, data: Mapping[str, Any] | None) -> None:
    if jax.process_count() == 1:
        return
    same = {name: value for name, value in to_json(config).items() if name not in FREE}
    told = json.dumps([same, config.resume is not None, count, data], sort_keys=True)
    digests = multihost_utils.process_allgather(np.frombuffer(hashlib.sha256(told.encode()).digest(), np.uint8))
    if (digests != digests[0]).any():
        raise UserError(
            "--distributed: the processes were started with different configurations, data or numbers of devices, or "
            "some with --resume; expected the same flags for all"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
