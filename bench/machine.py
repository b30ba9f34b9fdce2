"""What a number was measured on and with."""

import datetime
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from train.revision import revision

_PACKAGES = ("jax", "jaxlib", "flax", "diffrax", "optax", "numpy", "torch", "onnxruntime", "openvino")


def cores() -> list[int]:
    """The cores that this process may use; all there are where the system keeps none apart (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def keep_to(chosen: Sequence[int]) -> Callable[[], None] | None:
    """What a new process is to do first to have these cores alone (``preexec_fn`` of subprocess), where that can be."""
    return (lambda: os.sched_setaffinity(0, chosen)) if hasattr(os, "sched_setaffinity") else None


def describe() -> dict:
    """Command line, date, processor, cores that may be used, memory, load, versions, git revision."""
    return {
        "command": shlex.join(["python", "-m", "bench", *map(without_folders, sys.argv[1:])]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "architecture": platform.machine(),
            "system": platform.system(),
            "cores": len(cores()),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "load_at_start": os.getloadavg()[0],
        },
        "native_convolution": _native(),
        "versions": {"python": platform.python_version(), **_versions()},
        "revision": revision(),
    }


def _native() -> bool:
    """Whether the package was built with its C++ convolution; without importing JAX."""
    folder = Path(__file__).parent.parent / "puppet_jax" / "convolution" / "native"
    return any((folder / f"_program{end}").exists() for end in importlib.machinery.EXTENSION_SUFFIXES)


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    named = [line for line in path.read_text().splitlines() if line.startswith("model name")] if path.exists() else []
    return named[0].partition(":")[2].strip() if named else platform.processor()


def _versions() -> dict[str, str]:
    installed = [name for name in _PACKAGES if importlib.util.find_spec(name)]
    return {name: importlib.metadata.version(name) for name in installed}


def without_folders(argument: str) -> str:
    """An argument of a command, but of an absolute path only its name: the rest is of this machine."""
    flag, equals, value = argument.rpartition("=")
    return f"{flag}{equals}{Path(value).name if Path(value).is_absolute() else value}"
