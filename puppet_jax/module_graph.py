"""Where modules stand in an NNX model: found, named and replaced by their paths."""

from collections.abc import Mapping

from flax import nnx

Path = tuple[str | int, ...]


def modules_of(module: nnx.Module, kind: type) -> dict[Path, nnx.Module]:
    """The modules of a kind by one of their paths each."""
    return {path: node for path, node in nnx.iter_modules(module) if isinstance(node, kind)}


def at(module, path: Path):
    """What stands at a path."""
    for key in path:
        module = module[key] if isinstance(key, int) or isinstance(module, Mapping) else getattr(module, key)
    return module


def replace(module, path: Path, new: nnx.Module) -> None:
    """Put another module at a path.

    Raises:
        ValueError: it stands in a tuple.
    """
    parent, key = at(module, path[:-1]), path[-1]
    if isinstance(parent, tuple):
        raise ValueError(f"puppetize: {name_of(path)} stands in a tuple, which cannot be changed; use nnx.List there")
    if isinstance(key, int) or isinstance(parent, Mapping):
        parent[key] = new
    else:
        setattr(parent, key, new)


def name_of(path: Path) -> str:
    """A path as a user writes it, such as ``"stages.0.conv1"``."""
    return ".".join(map(str, path))


def every_place(module, kind: type):
    """Every place of every such module: ``nnx.iter_modules`` names a shared one once."""
    found, stack, seen = [], [((), module)], set()
    while stack:
        path, node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for key, child in _children(node):
            if isinstance(child, kind):
                found.append(((*path, key), child))
            elif isinstance(child, nnx.Module | list | tuple | dict):
                stack.append(((*path, key), child))
    return found


def _children(node):
    if isinstance(node, list | tuple | nnx.List):
        return list(enumerate(node))
    return [(key, child) for key, child in (node if isinstance(node, dict) else vars(node)).items()]
