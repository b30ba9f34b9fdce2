"""Which parts of a model an image may skip, and what then stands for their results."""

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from flax import nnx

from puppet_jax.any_cnn._foreign import Skip
from puppet_jax.any_cnn._module_graph import Path, at, is_inside, modules_of, name_of
from puppet_jax.any_cnn._module_trace import Trace

_MIX = frozenset({"conv_general_dilated", "dot_general"})
_JOINS = frozenset({"add", "add_any", "sub", "concatenate"})


def families(body: nnx.Module, convolutions: Iterable[Path]) -> list[list[Path]]:
    """Modules with a generated convolution in them that stand side by side, in lists or as numbered attributes
    (``block1``, ``block2``, …); single convolutions in lists only. Outermost families first."""
    found: dict[tuple[Path, Any], list[Path]] = {}
    for path in dict.fromkeys(conv[:length] for conv in convolutions for length in range(1, len(conv) + 1)):
        number = re.fullmatch(r"(.*?)_?(\d+)", path[-1]) if isinstance(path[-1], str) else None
        if isinstance(path[-1], int):
            found.setdefault((path[:-1], None), []).append(path)
        elif number and not isinstance(at(body, path), nnx.Conv | nnx.List | nnx.Dict):
            found.setdefault((path[:-1], number[1]), []).append(path)
    modules = [[path for path in family if isinstance(at(body, path), nnx.Module)] for family in found.values()]
    return sorted((family for family in modules if family), key=lambda family: len(family[0]))


class Blocks:
    """What the traced forward says about skipping each module that was watched."""

    def __init__(self, body: nnx.Module, trace: Trace):
        self.body, self.calls, self.program = body, trace.calls, trace.program
        self.marks: dict[str, list[int]] = {}
        for i, step in enumerate(self.program.steps):
            if step.mark is not None:
                self.marks.setdefault(step.mark, []).append(i)
        self.of_image = self.program.reached([self.program.image])
        self._known: dict[Path, Skip | str] = {}

    def skip(self, path: Path) -> Skip | str:
        """What stands for the result of a module that is skipped, or why it cannot be."""
        if path not in self._known:
            self._known[path] = self._skip(path)
        return self._known[path]

    def able(self, path: Path) -> Skip:
        """The same of a module that may be skipped."""
        skip = self.skip(path)
        assert isinstance(skip, Skip), skip
        return skip

    def _skip(self, path: Path) -> Skip | str:
        calls = self.calls.get(path, [])
        begins, ends = (self.marks.get(f"{name_of(path)}:{side}", []) for side in ("in", "out"))
        if len(calls) != 1:
            return f"the forward calls it {len(calls)} times, not once"
        before, after = calls[0]
        changes = f"it maps {before} to {after}, and what is skipped must keep shape and dtype, or be added or appended"
        if len(begins) != 1 or len(ends) != 1:
            return changes if before is None or after is None else "it is called in a loop or a branch"
        inside = range(begins[0], ends[0] + 1)
        argument, result = self.program.steps[begins[0]].reads[0], self.program.steps[ends[0]].writes[0]
        if not isinstance(argument, int):
            return "its argument does not depend on the image"
        if before == after and self._adds_argument(inside):
            return Skip()
        own = self.program.reached([argument], inside) if before == after else self.of_image
        joins = self._joins(result, own, ends[0])
        if not joins:
            return Skip() if before == after else self._appended(inside) or changes
        bad = next((name for name, zero in joins if not zero or name not in _JOINS), None)
        if bad is None:
            return Skip("zero")
        if before != after:
            return changes
        return f"outside of it its result, changed, meets its argument again ({bad}); put that into the block"

    def _joins(self, result: int, others: set, begin: int) -> list[tuple[str, bool]]:
        """Where the result, not convolved again, first meets one of ``others``: in which primitive, and whether it
        would be zero there if it were zero at first."""
        pure, zero, joins = {result}, self.program.zero([result]), []
        others = others - self.program.reached([result])
        for step in self.program.steps[begin + 1 :]:
            mine = pure.intersection(step.reads)
            if mine and not others.isdisjoint(step.reads):
                joins.append((step.name, mine <= zero))
            elif mine and step.name not in _MIX:
                pure.update(step.writes)
        return joins

    def _adds_argument(self, inside: range) -> bool:
        """Whether the block is residual: its result is its argument plus something, perhaps after an activation."""
        argument, value = self.program.steps[inside[0]].writes[0], self.program.steps[inside[-1]].reads[0]
        for step in reversed(self.program.steps[inside[0] : inside[-1]]):
            if value in step.writes:
                if step.name in ("add", "add_any") and argument in step.reads:
                    return True
                values = [read for read in step.reads if isinstance(read, int)]
                if step.name not in ("max", "name", "convert_element_type", "min") or len(values) != 1:
                    return False
                value = values[0]
        return False

    def _appended(self, inside: range) -> Skip | None:
        """A block that appends to its argument what it computes, and returns both."""
        steps = self.program.steps
        argument, result = steps[inside[0]].writes[0], steps[inside[-1]].reads[0]
        for step in steps[inside[0] : inside[-1]]:
            if result in step.writes and step.name == "concatenate" and step.reads.count(argument) == 1:
                sizes = [self._size(read, step.params["dimension"]) for read in step.reads]
                place = step.reads.index(argument)
                return Skip("appended", step.params["dimension"], sum(sizes[:place]), sum(sizes[place + 1 :]))
        return None

    def _size(self, value: Any, axis: int) -> int:
        return self.program.shapes[value][axis] if isinstance(value, int) else 0

    def sequences(self, groups: list[list[Path]]) -> list[list[Path]]:
        """Of every family the blocks that may be skipped and are equal, two or more; none inside another."""
        found: list[list[Path]] = []
        for family in groups:
            taken = [own for sequence in found for own in sequence]
            if any(is_inside(family[0], own) for own in taken):
                continue
            alike: dict[tuple, list[Path]] = {}
            for path in sorted((path for path in family if isinstance(self.skip(path), Skip)), key=self.place):
                alike.setdefault(self._signature(path), []).append(path)
            found += [sequence for sequence in alike.values() if len(sequence) > 1]
        return sorted(found, key=lambda sequence: self.place(sequence[0]))

    def why_always(self, conv: Path, groups: list[list[Path]], sequences: list[list[Path]]) -> str:
        """Why every image runs a convolution, by what is said of the innermost of the blocks around it."""
        around = [path for family in groups for path in family if is_inside(conv, path)]
        if not around:
            return "it is in no list of modules and no numbered attribute"
        if any(is_inside(conv, sequence[0]) for sequence in sequences):
            return "it is in the first block of a sequence"
        block = max(around, key=len)
        why = self.skip(block)
        name = f"{name_of(block)}: " if block != conv else ""
        return name + (why if isinstance(why, str) else "there is no other of its class and shapes beside it")

    def place(self, path: Path) -> int:
        """When the forward calls it."""
        return self.marks[f"{name_of(path)}:in"][0]

    def _signature(self, path: Path):
        block, skip = at(self.body, path), self.able(path)
        before, after = self.calls[path][0]
        if before != after:  # dense blocks: each appends channels to its argument
            return type(block), skip, None if skip.kind == "appended" else after
        leaves = jax.tree_util.tree_leaves_with_path(nnx.state(block))
        return type(block), skip, tuple((jax.tree_util.keystr(where), leaf.shape, leaf.dtype) for where, leaf in leaves)

    def only_for(self, path: Path, convolutions: Iterable[Path]) -> list[Path]:
        """Convolutions outside a block whose results nothing else needs, such as the bottleneck before a dense layer's
        convolution: they are skipped with it."""
        if self.able(path).kind != "zero":
            return []
        result = self.program.steps[self.marks[f"{name_of(path)}:out"][0]].writes[0]
        needed = self.program.needed(without=result)
        ends = {conv: self.marks.get(f"{name_of(conv)}:out", []) for conv in convolutions if not is_inside(conv, path)}
        return [c for c, end in ends.items() if len(end) == 1 and self.program.steps[end[0]].writes[0] not in needed]

    def named(self, sequences: list[list[Path]]) -> list[list[Path]]:
        """The sequences that the caller named, as they are.

        Raises:
            ValueError: a block that cannot be skipped, or one that is named twice.
        """
        flat = list(itertools.chain(*sequences))
        for path in flat:
            why = self.skip(path)
            if not isinstance(why, Skip):
                name = name_of(path)
                raise ValueError(f"puppetize: {name!r} in blocks cannot be skipped: {why}; leave it out of blocks")
        for one in flat:
            if sum(is_inside(other, one) for other in flat) > 1:
                raise ValueError(
                    f"puppetize: {name_of(one)!r} is in blocks twice, or has one of blocks inside; name one"
                )
        return sequences


def named_paths(body: nnx.Module, entry: str | Sequence[str]) -> list[Path]:
    """The members of a list of blocks, or the blocks of these names.

    Raises:
        ValueError: a name that is not there.
    """
    by_name = {name_of(path): path for path in modules_of(body, nnx.Module)}

    def path_of(name: str) -> Path:
        if name not in by_name:
            members = [each for each, path in by_name.items() if path and isinstance(path[-1], int)]
            raise ValueError(
                f"puppetize: blocks names {name!r}, which is not in the module; members of its lists are "
                f"{', '.join(members[:20]) or 'none'}{', …' if len(members) > 20 else ''}"
            )
        return by_name[name]

    if not isinstance(entry, str):
        return [path_of(name) for name in entry]
    parent = path_of(entry)
    if isinstance(at(body, parent), nnx.Sequential):
        parent = (*parent, "layers")
    members = [path for path in by_name.values() if path and path[:-1] == parent and isinstance(path[-1], int)]
    if not members:
        raise ValueError(f"puppetize: blocks names {entry!r}, which is no list of modules; name its blocks")
    return sorted(members)
