"""Which blocks of a model an image may skip."""

import itertools
from collections.abc import Sequence

import jax
from flax import nnx

from puppet_jax.module_graph import Path, at, name_of
from puppet_jax.module_trace import Trace


def find_blocks(body: nnx.Module, convolutions: list[Path], trace: Trace) -> list[list[Path]]:
    """The longest runs of equal blocks that keep their argument's shape; outermost lists first, and none inside."""
    lists: dict[Path, list[Path]] = {}
    for path in trace.blocks:
        if isinstance(path[-1], int):
            lists.setdefault(path[:-1], []).append(path)
    sequences: list[list[Path]] = []
    for _, members in sorted(lists.items(), key=lambda item: len(item[0])):
        taken = {own for sequence in sequences for own in sequence}
        if any(members[0][: len(own)] == own for own in taken):
            continue
        run: list[Path] = []
        for path in [*sorted(members), None]:
            if run and (path is None or _signature(body, path) != _signature(body, run[-1])):
                sequences += [run] if len(run) > 1 else []
                run = []
            whole = path is not None and any(conv[: len(path)] == path for conv in convolutions)
            if whole and _why_no_block(trace, path) is None:
                run.append(path)
            elif run:
                sequences += [run] if len(run) > 1 else []
                run = []
    order = {path: place for place, path in enumerate(trace.blocks)}
    return sorted(sequences, key=lambda sequence: order[sequence[0]])


def named_blocks(body: nnx.Module, blocks: Sequence[str | Sequence[str]], trace: Trace) -> list[list[Path]]:
    """The sequences that the caller named, by lists or block by block.

    Raises:
        ValueError: a name that is not there, a block that cannot be skipped, or one that is named twice.
    """
    if isinstance(blocks, str):
        raise ValueError(f"puppetize: blocks must be a sequence of names, got {blocks!r}; use blocks=[{blocks!r}]")
    by_name = {name_of(path): path for path, _ in nnx.iter_modules(body)}
    sequences = []
    for entry in blocks:
        if isinstance(entry, str):
            entry = f"{entry}.layers" if isinstance(_get(by_name, entry, body), nnx.Sequential) else entry
            names = [name for name, path in by_name.items() if name == f"{entry}.{path[-1] if path else ''}"]
            names = sorted((n for n in names if isinstance(by_name[n][-1], int)), key=lambda name: by_name[name][-1])
            if not names:
                raise ValueError(f"puppetize: blocks names {entry!r}, which is no list of modules; name its blocks")
        else:
            names = list(entry)
        for name in names:
            _get(by_name, name, body)
            why = _why_no_block(trace, by_name[name])
            if why is not None:
                raise ValueError(f"puppetize: {name!r} in blocks cannot be skipped: {why}; leave it out of blocks")
        sequences.append([by_name[name] for name in names])
    flat = list(itertools.chain(*sequences))
    for one in flat:
        if sum(other[: len(one)] == one for other in flat) > 1:
            raise ValueError(f"puppetize: {name_of(one)!r} is in blocks twice, or has one of blocks inside; name one")
    return sequences


def _get(by_name: dict[str, Path], name: str, body):
    if name not in by_name:
        members = [each for each, path in by_name.items() if path and isinstance(path[-1], int)]
        raise ValueError(
            f"puppetize: blocks names {name!r}, which is not in the module; members of its lists are "
            f"{', '.join(members[:20]) or 'none'}{', …' if len(members) > 20 else ''}"
        )
    return at(body, by_name[name])


def _why_no_block(trace: Trace, path: Path) -> str | None:
    calls = trace.blocks.get(path, [])
    if len(calls) != 1:
        return f"the forward calls it {len(calls)} times, not once"
    before, after = calls[0]
    if before is None or before != after:
        return f"it maps {before} to {after}, and what is skipped must keep shape and dtype"
    return None


def _signature(body, path: Path):
    block = at(body, path)
    shapes = tuple((where, leaf.shape, leaf.dtype) for where, leaf in _leaves(block))
    return type(block), shapes


def _leaves(block):
    state = nnx.state(block)
    return [(jax.tree_util.keystr(where), leaf) for where, leaf in jax.tree_util.tree_leaves_with_path(state)]
