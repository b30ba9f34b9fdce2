"""Where decoded images are kept."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from train.data import store
from train.errors import UserError


def test_the_share_decides_between_memory_and_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "available_memory", lambda: 1000)
    assert not isinstance(store.allocate((500,), directory=tmp_path), np.memmap)
    assert isinstance(store.allocate((501,), directory=tmp_path), np.memmap)
    assert not isinstance(store.allocate((501,), share=0.6, directory=tmp_path), np.memmap)


def test_a_mapped_array_is_written_and_read_like_any_other(tmp_path, rng):
    images = rng.integers(0, 256, (3000, 4, 5, 3)).astype(np.uint8)
    mapped = store.allocate(images.shape, share=0, directory=tmp_path)
    assert mapped.dtype == np.uint8
    mapped[:] = images
    np.testing.assert_array_equal(mapped, images)
    rows = np.flatnonzero(rng.random(3000) < 0.7)
    taken = store.take(mapped, rows, share=0, directory=tmp_path)
    assert isinstance(taken, np.memmap)
    np.testing.assert_array_equal(taken, images[rows])
    np.testing.assert_array_equal(store.keep(mapped, rows), images[rows])


def test_no_file_is_left_however_the_process_ends(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from train.data import store\n"
        f"x = store.allocate((1 << 20,), share=0, directory=Path({str(tmp_path)!r})); x[:] = 1\n"
        "print(type(x).__name__, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "memmap"
    assert done.returncode < 0
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_before_the_first_image(tmp_path):
    with pytest.raises(UserError, match=r"(?s)4096\.0 GiB.*TMPDIR.*--image-size"):
        store.allocate((1 << 42,), directory=tmp_path)


def test_an_empty_split_needs_no_file(tmp_path):
    assert store.allocate((0, 8, 8, 1), share=0, directory=tmp_path).shape == (0, 8, 8, 1)


def test_the_environment_says_where_large_files_go(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert store.scratch() == tmp_path
    monkeypatch.delenv("TMPDIR")
    assert store.scratch() in (Path("/var/tmp"), Path(tempfile.gettempdir()))


def test_available_memory_is_that_of_this_machine():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 2**20 < store.available_memory() <= total
