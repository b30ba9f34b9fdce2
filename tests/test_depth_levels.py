import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from puppet_jax.depth_levels import levels_of, number_of_depths


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5), most=st.integers(1, 12))
def test_the_rule_that_spreads_depth_against_choosing_blocks_one_by_one(lengths, most):
    levels = levels_of(lengths, most)
    n = sum(lengths)
    assert [len(each) for each in levels] == lengths
    shallower: set = set()
    for depth in range(1, most + 1):
        running = {(s, i) for s, each in enumerate(levels) for i, level in enumerate(each) if level <= depth}
        # By the rule in words: the firsts, and again and again the block of the sequence that is filled up least.
        expected = {(s, 0) for s, length in enumerate(lengths) if length}
        while len(expected) < math.ceil(n * depth / most):
            rest = [(s, i) for s, length in enumerate(lengths) for i in range(length) if (s, i) not in expected]
            expected.add(min(rest, key=lambda block: (block[1] / lengths[block[0]], block[0])))
        assert running == expected
        assert running >= shallower
        shallower = running
    assert len(shallower) == n


def test_depths_are_one_a_block_up_to_eight():
    assert [number_of_depths(n, None, "x") for n in (0, 1, 7, 8, 30)] == [1, 1, 7, 8, 8]
    assert number_of_depths(3, 12, "x") == 12
    with pytest.raises(ValueError, match="somewhere: max_depth must be at least 1, got 0"):
        number_of_depths(3, 0, "somewhere")
