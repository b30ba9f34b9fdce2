"""Ratios and their targets, turns, the plan, and the images that stand for CIFAR-10."""

import json
import types

import numpy as np
import pytest

import puppet_jax as pj
from bench import case, cifar, contenders, plan, results_file, speed, target, timing

ROW = {"number": 1, "what": "", "scale": 1.0, "sense": "<=", "target": 1.0}


def test_ratio_is_formed_round_by_round(rng):
    over, slowdown = rng.random(9) + 0.5, 1.0 + 5.0 * rng.random(9)
    found = target.ratio(over * slowdown, slowdown)  # what slows a whole round changes nothing
    assert found["rounds"] == pytest.approx(over)
    assert found["median"] == pytest.approx(np.median(over))
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.percentile(over, [25, 75])))


def test_rows_are_reached_on_the_right_side():
    found = target.spread([0.0, 1.0, 2.0, 4.0, 5.0])
    rows = [target.row("a", found, sense, bound) for sense in (">=", "<=") for bound in (1.5, 2.0, 2.5)]
    assert [row["reached"] for row in rows] == [True, True, False, False, True, True]
    table = target.table([rows[0], {**rows[3], "measurement": "here"}, target.row("b", found)])
    assert table.splitlines()[2:] == [
        "| a |  | 2 (1 to 4) | >= 1.5 | reached |",
        "| a | here | 2 (1 to 4) | <= 1.5 | missed |",
        "| b |  | 2 (1 to 4) |  |  |",
    ]


def test_every_round_gives_everyone_a_turn_but_who_has_died():
    asked, rounds = [], []

    def ask(worker, do, name, **_):
        asked.append(name)
        return {"unavailable": "gone"} if name == "c" and asked.count(name) > 2 else {"times_s": [1.0, 3.0, 2.0]}

    crew = types.SimpleNamespace(ask=ask)
    times = timing.interleave(crew, {"a": "1", "b": "2", "c": "3"}, 4, rounds.append)
    assert asked == ["a", "b", "c", "c", "b", "a", "a", "b", "c", "b", "a"]
    assert len(rounds) == 4
    assert {name: timing.per_round(calls) for name, calls in times.items()} == {"a": [2.0] * 4, "b": [2.0] * 4}


def test_result_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "results" / "speed.json"
    results_file.write(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        results_file.write(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["speed.json"]


def test_images_have_complexities_of_cifar():
    h = cifar.complexities(1000)
    assert h.mean() == pytest.approx(6.68, abs=0.01)
    depths = np.bincount(np.asarray(pj.depth(h, 7)), minlength=8) / 1000
    assert depths[6:] == pytest.approx([0.78, 0.18], abs=0.01)
    h = np.array([4.0, 5.5, 6.68, 7.13], np.float32)
    np.testing.assert_allclose(pj.complexity(cifar.images(h, pj.complexity)), h, atol=0.06)


@pytest.mark.parametrize("quick", [False, True])
def test_plan_covers_every_target_of_speed(quick):
    measurements = plan.read(quick)
    assert {row["number"] for one in measurements for row in one.rows} == set(range(1, 13))
    assert {name for one in measurements for name in one.contenders} <= set(contenders.CONTENDERS)


def test_of_several_rivals_the_fastest_of_each_round_counts():
    one = plan.Measurement("a", case.Size(1, 1, 1), (), ({**ROW, "over": "us", "under": ["b", "c"]},))
    times = {"us": [[2.0], [2.0]], "b": [[1.0], [8.0]], "c": [[4.0], [4.0]]}
    found = {one.name: {"contenders": {name: {"calls_s": calls} for name, calls in times.items()}}}
    (row,) = speed.rows([one], found)
    assert row["rounds"] == [2.0, 0.5]
    del found[one.name]["contenders"]["c"]  # the best of those that were measured would flatter
    assert speed.rows([one], found) == []
