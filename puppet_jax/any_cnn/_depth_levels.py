"""How depth D is spread over sequences of blocks that an image may skip: the least D that runs each."""

MOST_DEPTHS = 8  # eq. (6): H is at most 8 bits, so D is at most 8.


def number_of_depths(blocks: int, max_depth: int | None, caller: str) -> int:
    """L: as the caller says, else one for each block up to the eight that eq. (6) can give in bits.

    Raises:
        ValueError: ``max_depth`` below 1.
    """
    if max_depth is not None and max_depth < 1:
        raise ValueError(f"{caller}: max_depth must be at least 1, got {max_depth}")
    return max_depth or max(1, min(blocks, MOST_DEPTHS))


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
