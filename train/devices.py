"""Where a step runs: the processes, their devices in one mesh along the batch, and arrays laid out on it."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.extend.core import jaxpr_as_fun
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.config import CONNECTION, FREE, Config, to_json
from train.errors import UserError

BATCH = "batch"
"""The mesh's only axis."""

HEARTBEAT_SECONDS = 30
"""How long a process may be silent before the others take it for dead and end with an error."""

SHARED, ROWS = PartitionSpec(), PartitionSpec(BATCH)


def connect(config: Config) -> None:
    """Join the other processes, if the configuration speaks of any. To be called before anything asks for a device.

    Raises:
        UserError: the flags are incomplete, or the others are not there within five minutes.
    """
    names = {"coordinator": "coordinator_address", "process_id": "process_id", "process_count": "num_processes"}
    given = {jax_name: value for name, jax_name in names.items() if (value := getattr(config, name)) is not None}
    if not given and not config.distributed:
        return
    if given and len(given) < len(names):
        missing = [f"--{name.replace('_', '-')}" for name in names if getattr(config, name) is None]
        raise UserError(
            f"{' and '.join(missing)}: missing, expected with the other flags of a process; give --coordinator "
            "HOST:PORT --process-id I --process-count N, or --distributed alone inside a cluster"
        )
    if jax.distributed.is_initialized():
        return
    timeouts = {"heartbeat_timeout_seconds": HEARTBEAT_SECONDS, "shutdown_timeout_seconds": HEARTBEAT_SECONDS}
    try:
        jax.distributed.initialize(**given, **timeouts)
    except Exception as error:  # of several kinds: no cluster found, a bad address, nobody there in time
        raise UserError(
            f"--{'coordinator' if given else 'distributed'}: {_first_line(error)}; expected "
            f"{'all processes started with one address' if given else 'a cluster that JAX detects'}, else give "
            "--coordinator HOST:PORT --process-id I --process-count N to each process"
        ) from error


def leave(message: str) -> NoReturn:
    """End the process with code 1, not waiting for the others as JAX does at an ordinary exit: one of them is lost."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def make_mesh(config: Config) -> Mesh:
    """A mesh over ``config.devices`` devices of each process (all of them by default).

    Raises:
        UserError: there are not so many, or the batch cannot be divided among them; or the processes were started with
            different configurations.
    """
    local = jax.local_device_count()
    count = config.devices or local
    if count > local:
        raise UserError(f"--devices: got {count}, expected at most the {local} there are")
    processes = jax.process_count()
    parts = count * processes * config.accumulate
    if config.batch_size % parts:
        of = [f"{count} devices"] + [f"{processes} processes"] * (processes > 1)
        of += [f"--accumulate {config.accumulate}"] * (config.accumulate > 1)
        raise UserError(
            f"--batch-size: got {config.batch_size}, expected a multiple of {parts} ({' times '.join(of)}); change it, "
            "or use fewer devices with --devices"
        )
    _agree(config, count)
    devices = [d for i in range(processes) for d in [d for d in jax.devices() if d.process_index == i][:count]]
    return Mesh(np.array(devices), (BATCH,))


def on_each_device(function: Callable, mesh: Mesh, inputs: tuple[PartitionSpec, ...]) -> Callable:
    """``function`` run by every device on its own rows of the arguments marked ``ROWS`` and all of those marked
    ``SHARED``. What it returns must be the same on all devices.

    The model sorts a batch by depth and gathers from it, and calls programs of its own, which a partitioner would do on
    all rows on every device; and kernels of a few bins are not many, so each device generates them for itself.
    """
    return jax.shard_map(function, mesh=mesh, in_specs=inputs, out_specs=SHARED, check_vma=False)


def alone(function: Callable) -> Callable:
    """``function``, traced as if there were no mesh; for what is called within :func:`on_each_device`, and communicates
    with no other device.

    Within a mesh JAX marks traced values with it and constants not, which the loops under the ODE solver take for two
    types when they are differentiated.
    """

    def call(*arguments):
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
        with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
            program, results = jax.make_jaxpr(function, return_shape=True)(*shapes)
        return jax.tree.unflatten(jax.tree.structure(results), jaxpr_as_fun(program)(*jax.tree.leaves(arguments)))

    return call


def shared(mesh: Mesh, tree: Any) -> Any:
    """Arrays that every process has alike, on all devices."""
    layout = NamedSharding(mesh, SHARED)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(layout, np.asarray(x)), tree)


def rows(mesh: Mesh, array: np.ndarray) -> jax.Array:
    """This process's part of an array's rows, on its devices: the whole array is that of all processes."""
    return jax.make_array_from_process_local_data(NamedSharding(mesh, ROWS), array)


def own_rows(array: np.ndarray) -> np.ndarray:
    """The part of a whole batch that this process feeds."""
    part = len(array) // jax.process_count()
    return array[jax.process_index() * part :][:part]


def from_first(value: bytes | None) -> bytes | None:
    """What the first process has, at every process; the others' ``value`` is not looked at."""
    if jax.process_count() == 1:
        return value
    length = int(multihost_utils.broadcast_one_to_all(np.int64(-1 if value is None else len(value))))
    if length < 0:
        return None
    content = np.frombuffer(value, np.uint8) if is_first() else np.zeros(length, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(content)).astype(np.uint8).tobytes()


def _agree(config: Config, count: int) -> None:
    if jax.process_count() == 1:
        return
    numbers = {name: value for name, value in to_json(config).items() if name not in (*FREE, *CONNECTION)}
    digest = hashlib.sha256(json.dumps([numbers, count], sort_keys=True).encode()).digest()
    digests = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
    if (digests != digests[0]).any():
        raise UserError(
            "--process-id: the processes were started with different configurations or numbers of devices, expected "
            "the same flags for all but --process-id"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
