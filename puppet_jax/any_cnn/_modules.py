"""Where modules stand in an NNX model: found and named by their paths."""

from collections.abc import Iterator, Mapping
from typing import Any

from flax import nnx

Path = tuple[Any, ...]
"""Names of attributes, keys and indices, from the root on."""


def modules_of(module: nnx.Module, kind: type | tuple[type, ...]) -> dict[Path, Any]:
    """The modules of a kind, or of one of several, by one of their paths each."""
    found: Iterator[tuple[Any, Any]] = nnx.iter_modules(module)
    return {path: node for path, node in found if isinstance(node, kind)}


def at(module: Any, path: Path) -> Any:
    """What stands at a path."""
    for key in path:
        module = module[key] if isinstance(key, int) or isinstance(module, Mapping) else getattr(module, key)
    return module


def name_of(path: Path) -> str:
    """A path as a user writes it, such as ``"stages.0.conv1"``."""
    return ".".join(map(str, path))


def is_inside(path: Path, outer: Path) -> bool:
    """Whether what stands at ``path`` is a part of what stands at ``outer``, or is it."""
    return path[: len(outer)] == outer


def leaf_name(path: tuple) -> str:
    """Of an array in a tree of states by its path there, for example ``"puppet.head"`` or ``"kernels.3"``."""
    # A Variable's path ends with the attribute that holds its value, which is no part of the name.
    parts = [getattr(entry, "key", getattr(entry, "idx", None)) for entry in path]
    return ".".join(str(part) for part in parts if part is not None)
