"""Checkpoints: a round trip to the bit, which are kept, and damage of every kind told and passed over."""

import os
import shutil
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from train.errors import UserError
from train.runs.checkpoint import DAMAGED, FOLDER, Checkpoints, fill, flat


def state(step):
    generator = np.random.default_rng(step)
    return {
        "w": [jnp.asarray(generator.normal(size=(40, 30)), jnp.float32), jnp.full((), step, jnp.int32)],
        "key": jnp.asarray(generator.integers(0, 2**32, 2), jnp.uint32),
        "half": jnp.asarray(generator.normal(size=3), jnp.bfloat16),
    }


def same(got, step):
    expected = flat(state(step))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)
    return True


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            assert checkpoints.save(step, state(step), {"history": [0.1, step]})
    return folder


@pytest.fixture
def folder(tmp_path, made):
    """A run with good checkpoints at steps 1, 2 and 3."""
    return Path(shutil.copytree(made, tmp_path / "run"))


def restored(folder):
    with Checkpoints(folder, keep=3) as checkpoints:
        return checkpoints.restore()


def steps(folder):
    return sorted(int(path.stem) for path in (folder / FOLDER).iterdir())


def test_a_round_trip_is_exact_and_fills_the_tree(folder):
    arrays, about, problems = restored(folder)
    assert same(arrays, 3)
    assert (about["history"], about["step"], problems) == ([0.1, 3], 3, [])
    tree = fill(state(0), arrays)
    assert same(flat(tree), 3)
    with pytest.raises(ValueError, match=r"w\.0 is float32\[40, 30\], expected float32\[2\]"):
        fill({**state(0), "w": [np.zeros(2, np.float32), state(0)["w"][1]]}, arrays)


def test_the_last_and_the_best_are_kept_in_later_lives_too_and_the_best_is_due_at_once(tmp_path):
    for life, best in (([(1, 0.2), (2, 0.9), (3, 0.4)], (1, 2)), ([(4, 0.9), (5, None), (6, 0.1), (7, 0.3)], ())):
        with Checkpoints(tmp_path, keep=2, every=100) as checkpoints:
            checkpoints.restore()
            for step, accuracy in life:
                assert checkpoints.due(step, True, accuracy) == (step in best)
                checkpoints.save(step, state(step), {}, accuracy)
    assert steps(tmp_path) == [2, 6, 7]


def test_what_is_saved_is_what_was_given_though_it_changes_afterwards_if_it_is_finite(tmp_path):
    about, arrays = {"history": [1]}, {"w": np.zeros((500, 500), np.float32)}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.save(1, arrays, about)
        for bad in (np.nan, np.inf):
            assert not checkpoints.save(4, {"half": jnp.asarray([1, bad], jnp.bfloat16)}, {})
        assert checkpoints.last == 1
        arrays["w"][:] = 7
        about["history"].append(2)
    arrays, about, problems = restored(tmp_path)
    assert not arrays["w"].any()
    assert about["history"] == [1]
    assert problems == []
    assert steps(tmp_path) == [1]


def test_when_one_is_due(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep=3, every=4) as checkpoints:
        assert [step for step in range(1, 13) if checkpoints.due(step, ends_epoch=step == 6)] == [4, 8, 12]
    now = time.monotonic()
    clock = [now]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for seconds, ends_epoch, due in [(4, True, False), (6, True, True), (6, False, False), (61, False, True)]:
            clock[0] = now + seconds
            assert checkpoints.due(1, ends_epoch) == due
        checkpoints.save(1, state(1), {})
        assert not checkpoints.due(2, True)
    with Checkpoints(None, keep=3, every=1) as silent:
        assert not silent.due(1, True)
        assert silent.save(1, state(1), {})
        assert silent.restore() is None


def file(folder: Path, step: int) -> Path:
    return folder / FOLDER / f"{step}.safetensors"


def flip_a_bit(folder):
    content = bytearray(file(folder, 3).read_bytes())
    content[-2000] ^= 4
    file(folder, 3).write_bytes(content)


def change_the_description(folder):
    file(folder, 3).write_bytes(file(folder, 3).read_bytes().replace(b"0.1", b"0.2"))


DAMAGES = {
    "truncated": lambda folder: os.truncate(file(folder, 3), 100),
    "a bit flipped": flip_a_bit,
    "description changed": change_the_description,
    "another's": lambda folder: shutil.copy(file(folder, 2), file(folder, 3)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(folder, damage):
    DAMAGES[damage](folder)
    with Checkpoints(folder, keep=3) as checkpoints:
        arrays, about, problems = checkpoints.restore()
        assert same(arrays, 2)
        assert about["step"] == 2
        (problem,) = problems
        assert problem.startswith("the checkpoint at step 3 is damaged: ")
        assert len(problem) > 45  # it says why
        # It does not stand in the way of the one to come, and is there to be looked at.
        assert (folder / FOLDER / f"3{DAMAGED}").is_file()
        assert checkpoints.save(3, state(3), {})
    arrays, _, problems = restored(folder)
    assert same(arrays, 3)
    assert problems == []


def test_there_may_be_none_and_a_disk_that_refuses_is_told(tmp_path):
    # What a process leaves that was killed in its first save.
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "1.safetensors.tmp").touch()
    assert restored(tmp_path) is None
    assert list((tmp_path / FOLDER).iterdir()) == []
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        (tmp_path / FOLDER).rmdir()
        (tmp_path / FOLDER).write_text("in the way")
        checkpoints.save(1, state(1), {})
        with pytest.raises(UserError, match="could not be written"):
            checkpoints.wait()
