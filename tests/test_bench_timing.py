"""Ratios and their spread, interleaving, and the images that stand for CIFAR-10."""

import json

import numpy as np
import pytest

import puppet_jax as pj
from bench import cifar, results_file, timing
from bench.plan import full, quick
from bench.table import markdown, milliseconds


def test_ratio_is_formed_round_by_round(rng):
    over, under = rng.random(9) + 0.5, rng.random(9) + 0.5
    result = timing.ratio(over, under)
    assert result.rounds == pytest.approx(over / under)
    assert result.median == pytest.approx(np.median(over / under))
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(over / under, [25, 75])))


def test_ratio_is_untouched_by_what_slows_a_whole_round(rng):
    over, slowdown = rng.random(7) + 0.5, 1.0 + 5.0 * rng.random(7)
    assert timing.ratio(over * slowdown, slowdown).rounds == pytest.approx(over)


@pytest.mark.parametrize(("over", "under"), [([1.0], [1.0, 2.0]), ([], [])])
def test_ratio_needs_as_many_rounds_of_both(over, under):
    with pytest.raises(ValueError, match="as many rounds"):
        timing.ratio(over, under)


class FakeCrew:
    """Workers that answer from a script, and remember who was asked."""

    def __init__(self, dies=None):
        self.asked, self.dies = [], dies

    def ask(self, worker, do, label, **_):
        self.asked.append(label)
        if label == self.dies and self.asked.count(label) > 1:
            return {"unavailable": "gone"}
        return {"times_s": [1.0, 3.0, 2.0], "cpu_before_s": 0.0, "cpu_after_s": 0.0}


def test_every_round_gives_everyone_a_turn():
    crew, rounds = FakeCrew(), []
    times = timing.interleave(crew, {"a": "1", "b": "2", "c": "3"}, 3, rounds.append)
    assert crew.asked == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]
    assert rounds == [1, 2, 3]
    assert times["b"].per_round() == [2.0, 2.0, 2.0]


def test_a_contender_that_dies_is_left_out():
    times = timing.interleave(FakeCrew(dies="b"), {"a": "1", "b": "2"}, 3)
    assert set(times) == {"a"}
    assert len(times["a"].rounds) == 3


def test_result_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results" / "speed.json"
    results_file.write(path, {"a": 1})
    with pytest.raises(TypeError):
        results_file.write(path, {"a": 2, "b": object()})
    with pytest.raises(ValueError, match="JSON"):
        results_file.write(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["speed.json"]


def test_complexities_are_those_of_cifar():
    h = cifar.complexities(1000)
    assert h.mean() == pytest.approx(6.68, abs=0.01)
    depths = np.bincount(np.asarray(pj.depth(h, 7)), minlength=8) / 1000
    assert depths[6] == pytest.approx(0.78, abs=0.01)
    assert depths[7] == pytest.approx(0.18, abs=0.01)


def test_images_have_the_complexity_asked_for():
    h = np.array([4.0, 5.5, 6.68, 7.13], np.float32)
    np.testing.assert_allclose(pj.complexity(cifar.images(h, pj.complexity)), h, atol=0.06)


def test_plan_covers_every_target_of_speed():
    plan = full()
    assert {row.number for row in plan.rows} == set(range(1, 12))
    for plan in (full(), quick()):
        entries = {m.name: m.entries for m in plan.measurements}
        for row in plan.rows:
            assert row.over in entries[row.measurement]
            assert row.under in entries[row.measurement]


def test_rows_are_reached_on_the_right_side():
    rows = {row.number: row for row in full().rows}
    assert rows[2].sense == "at least"
    assert rows[2].reached(rows[2].target)
    assert not rows[2].reached(rows[2].target - 0.1)
    assert rows[1].sense == "at most"
    assert rows[1].reached(rows[1].target)
    assert not rows[1].reached(rows[1].target + 0.1)


def test_tables():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert [milliseconds(s) for s in (1.2345, 0.01234, 0.001234, 0.0001234)] == ["1,234", "12.3", "1.23", "0.123"]
