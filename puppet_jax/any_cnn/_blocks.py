"""Which parts of a model an image may skip, what then stands for their results, and from which depth on they run."""

import re
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from flax import nnx

from puppet_jax._integers import integer
from puppet_jax.any_cnn._foreign import CONVOLUTIONS, Skip
from puppet_jax.any_cnn._modules import Path, at, is_inside, modules_of, name_of
from puppet_jax.any_cnn._trials import ARGUMENT, EXCHANGED, ZERO, Call, Trials, same

MOST_DEPTHS = 8  # eq. (6): H is at most 8 bits, so D is at most 8.
_ALONE = "there is no other of its class and shapes beside it"


class Blocks:
    """What may be skipped, found by trying it.

    A skipped block should leave what a branch of zeros would. So what stands for its result is that with which the
    convolution or block that is called next is handed what the block was handed: the block's argument (it is residual,
    or one of a chain), or zeros (the forward adds its result to its argument). Else the argument stands for the result
    where everything passes through the block: where exchanging two images' results in it exchanges what the module
    returns. Any other block always runs.

    Args:
        body, trials: the module, and its trials, which watch its convolutions and everything in ``families``.
        families: modules that may be blocks, side by side.
        named: whether these are the sequences that the caller wants, as they are.

    Attributes:
        sequences, skips: of blocks that may be skipped, and what stands for each one's result.

    Raises:
        ValueError: a named block that cannot be skipped, or one that is named twice.
    """

    def __init__(self, body: nnx.Module, trials: Trials, families: list[list[Path]], *, named: bool):
        self._trials, self._families = trials, families
        self.sequences: list[list[Path]] = []
        self.skips: dict[Path, Skip] = {}
        self._whys: dict[Path, str] = {}
        for family in families:
            if not named and any(is_inside(family[0], taken) for taken in self.skips):
                continue
            kinds: dict = {}
            for path in family:
                if why := self._obstacle(path):
                    self._whys[path] = why
                else:
                    kinds.setdefault(self._kind(at(body, path), path, named), []).append(path)
            for group in (sorted(group, key=trials.number) for group in kinds.values()):
                skip, why = self._skip(group) if named or len(group) > 1 else (None, _ALONE)
                if skip is None:
                    self._whys |= dict.fromkeys(group, why)
                else:
                    self.skips |= dict.fromkeys(group, skip)
                    self.sequences.append(group)
        if named:
            self.sequences = families
            _check_named([path for family in families for path in family], self._whys)
        else:
            self.sequences.sort(key=lambda sequence: trials.number(sequence[0]))

    def _obstacle(self, path: Path) -> str | None:
        calls = [call for call in self._trials.calls if call.path == path]
        if len(calls) != 1:
            return f"the forward calls it {len(calls)} times, not once"
        if calls[0].argument is None:
            return "it does not take and return one array, or is called in a loop, a branch or a function of its own"
        return None if _varies(calls[0].argument) else "its argument does not depend on the image"

    def _call(self, path: Path) -> Call:
        return self._trials.calls[self._trials.number(path)]

    def _kind(self, block: nnx.Module, path: Path, named: bool) -> tuple:
        """What blocks of one sequence have in common, or named ones that are tried together."""
        if named:
            return (self._call(path).keeps_shape,)
        leaves = jax.tree_util.tree_leaves_with_path(nnx.state(block))
        return type(block), *((jax.tree_util.keystr(at), leaf.shape, leaf.dtype) for at, leaf in leaves)

    def _skip(self, group: list[Path]) -> tuple[Skip | None, str]:
        """What stands for the results of these blocks, or ``None`` and why nothing does."""
        calls = [self._call(path) for path in group]
        changing = next((call for call in calls if not call.keeps_shape), None)
        if not changing and self._hands_on(group, self._trials.tried(group, ARGUMENT)[1]):
            return "argument", ""
        if self._hands_on(group, self._trials.tried(group, ZERO)[1]):
            return "zero", ""
        if changing:
            return None, (
                f"it maps {changing.argument.shape} to {changing.result.shape}, and what is skipped must keep shape "
                "and dtype, or be added"
            )
        exchanged = jax.tree.map(lambda leaf: leaf[::-1], self._trials.output)
        outputs = [self._trials.tried([path], EXCHANGED)[0] for path in group]
        if all(same(output, exchanged) for output in outputs) and not same(self._trials.output, exchanged):
            return "argument", ""
        return None, (
            "neither its argument nor zeros in its result's place hand on what it was given; if the forward does more "
            "with the result than to add it or to pass it on, put that into the block"
        )

    def _next(self, path: Path) -> int | None:
        """The number of the call of a convolution or block that follows."""
        calls, norms = self._trials.calls, self._trials.norms
        return next((n for n in range(self._call(path).end, len(calls)) if calls[n].path not in norms), None)

    def _hands_on(self, group: list[Path], tried: list[Call]) -> bool:
        """Whether in this trial what is called next is given what each of the skipped blocks was given."""
        evidence: dict[int, list[bool]] = {0: [], 1: [], 2: []}
        for place, path in enumerate(group):
            number, after = self._trials.number(path), self._next(path)
            if after is None or tried[after].argument is None:
                continue
            given, handed = tried[number].argument, tried[after].argument
            if given.shape != handed.shape or same(self._trials.calls[after].argument, self._call(path).argument):
                continue  # there is something else between, or they stand side by side
            # The first block may be given what only looks alike; what follows the last one may be changed before.
            weight = 2 if tried[after].path not in group else 0 if place > 0 else 1
            evidence[weight].append(_varies(given) and same(handed, given))
        decisive = next(filter(None, evidence.values()), [False])
        return all(decisive)

    def why_always(self, conv: Path) -> str:
        """Why every image runs a convolution, by what is said of the innermost of the blocks around it."""
        around = [path for family in self._families for path in family if is_inside(conv, path)]
        if not around:
            return "it is in no list of modules and no numbered attribute"
        if any(is_inside(conv, sequence[0]) for sequence in self.sequences):
            return "it is in the first block of a sequence"
        block = max(around, key=len)
        return (f"{name_of(block)}: " if block != conv else "") + self._whys.get(block, _ALONE)


def _check_named(blocks: list[Path], whys: dict[Path, str]) -> None:
    for path in blocks:
        name = name_of(path)
        if path in whys:
            raise ValueError(f"puppetize: {name!r} in blocks cannot be skipped: {whys[path]}; leave it out of blocks")
        if sum(is_inside(other, path) for other in blocks) > 1:
            raise ValueError(f"puppetize: {name!r} is in blocks twice, or has one of blocks inside; name one")


def _varies(x: np.ndarray) -> bool:
    """Whether it differs between the two images."""
    return len(x) == 2 and not same(x[:1], x[1:])


def families(body: nnx.Module, convolutions: Iterable[Path]) -> list[list[Path]]:
    """Modules with a generated convolution in them that stand side by side, in lists or as numbered attributes
    (``block1``, ``block2``, …); single convolutions in lists only. Outermost families first."""
    found: dict[tuple, list[Path]] = {}
    for path in dict.fromkeys(conv[:length] for conv in convolutions for length in range(1, len(conv) + 1)):
        number = re.fullmatch(r"(.*?)_?(\d+)", path[-1]) if isinstance(path[-1], str) else None
        if isinstance(path[-1], int):
            found.setdefault((path[:-1], None), []).append(path)
        elif number and not isinstance(at(body, path), (*CONVOLUTIONS, nnx.List, nnx.Dict)):
            found.setdefault((path[:-1], number[1]), []).append(path)
    modules = [[path for path in family if isinstance(at(body, path), nnx.Module)] for family in found.values()]
    return sorted((family for family in modules if family), key=lambda family: len(family[0]))


def named_paths(body: nnx.Module, entry: str | Sequence[str]) -> list[Path]:
    """The members of a list of blocks, or the blocks of these names.

    Raises:
        ValueError: a name that is not there.
    """
    by_name = {name_of(path): path for path in modules_of(body, nnx.Module)}
    in_lists = {name: path for name, path in by_name.items() if path and isinstance(path[-1], int)}
    for name in [entry] if isinstance(entry, str) else entry:
        if name not in by_name:
            some = ", ".join(list(in_lists)[:20]) or "none"
            raise ValueError(f"puppetize: blocks names {name!r}, which is not in the module; in its lists are {some}")
    if not isinstance(entry, str):
        return [by_name[name] for name in entry]
    parents = by_name[entry], (*by_name[entry], "layers")  # an nnx.Sequential's
    members = [path for path in in_lists.values() if path[:-1] in parents]
    if not members:
        raise ValueError(f"puppetize: blocks names {entry!r}, which is no list of modules; name its blocks")
    return sorted(members)


def number_of_depths(blocks: int, max_depth: int | None) -> int:
    """L: as the caller says, else one for each block up to the eight that eq. (6) can give in bits.

    Raises:
        ValueError: ``max_depth`` below 1.
    """
    return max(1, min(blocks, MOST_DEPTHS)) if max_depth is None else integer(max_depth, "puppetize: max_depth")


def levels_of(lengths: list[int], most: int) -> list[list[int]]:
    """The least D that runs each block, of sequences of ``lengths`` blocks, for depths 1 … L = ``most``.

    Let n be the number of all blocks. At depth D, ⌈n·D / L⌉ blocks run, and at least the first of each sequence: those
    of least (i − 1) / n_s, where i = 1 … n_s is the block's place in its sequence s, earlier sequences first. So
    sequences fill up evenly, a deeper image runs what a shallower one does, and D = L runs everything. Hence the level
    is 1 for the first of a sequence, else ⌊(p − 1)·L / n⌋ + 1 at place p = 1 … n in that order.
    """
    count = sum(lengths)
    blocks = [(i / n, sequence, i) for sequence, n in enumerate(lengths) for i in range(n)]
    levels = [[1] * n for n in lengths]
    for place, (_, sequence, i) in enumerate(sorted(blocks)):
        if i > 0:
            levels[sequence][i] = place * most // count + 1
    return levels
