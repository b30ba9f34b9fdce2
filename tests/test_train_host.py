"""The process: started over once with huge pages if it is our own; its streams; a JAX without a device."""

import os
import shlex
import subprocess
import sys

import pytest
from trained_runs import ENVIRONMENT, python

from train import host

# Run by each interpreter as it starts.
SHOW = "import os\nprint(os.getpid(), os.environ.get('GLIBC_TUNABLES', ''), flush=True)\n"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
def test_the_program_is_started_over_under_its_process_number(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(SHOW)
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    given = "glibc.malloc.check=0"
    done = python("-m", "train", "plot", "é", "--help", PYTHONPATH=path, GLIBC_TUNABLES=given)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m train plot" in done.stdout
    shown = [line.split(" ", 1) for line in done.stdout.splitlines() if line.split(" ")[0].isdecimal()]
    assert [tunables for _, tunables in shown] == [given, f"{given}:glibc.malloc.hugetlb=1"]
    assert len({number for number, _ in shown}) == 1


@pytest.mark.parametrize(
    ("started", "given", "left"),
    [
        ("python -m train --epochs 3", "", "glibc.malloc.hugetlb=1"),
        ("python -X dev -u -W error -m train", "a=1", "a=1:glibc.malloc.hugetlb=1"),
        ("python -m train", "glibc.malloc.hugetlb=0", None),
        ("python -m ipykernel_launcher -f kernel.json", "", None),  # whatever a notebook runs
        ("python script.py -m train", "", None),
    ],
)
def test_only_a_process_started_as_this_program_is_its_own(monkeypatch, started, given, left):
    def refuse(*arguments):
        called.append(arguments)
        raise PermissionError  # which is no error: it goes on without huge pages

    called = []
    monkeypatch.setattr(sys, "orig_argv", started.split())
    monkeypatch.setenv("GLIBC_TUNABLES", given)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "execv", refuse)
    host.ask_for_huge_pages()
    assert bool(called) == (left is not None)
    assert os.environ["GLIBC_TUNABLES"] == (left or given)


STREAMS = """
import contextlib, os, sys
from train import host
host.is_own = lambda: True
host.keep_streams()
print("an answer")
print("a note", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as file:
    with contextlib.suppress(OSError):
        os.write(2, b"somebody else's note")  # a file that is opened has not got the closed stream's number
    file.write(f"{file.fileno() > 2} {sys.stderr.isatty()}")
"""


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-", *(["2>/dev/full"] * os.path.exists("/dev/full"))])
def test_closed_streams_and_notes_that_nobody_can_read_stop_nothing(tmp_path, streams):
    command = [sys.executable, "-c", STREAMS, str(tmp_path / "file")]
    done = subprocess.run(f"{shlex.join(command)} {streams}", shell=True, env=ENVIRONMENT, capture_output=True)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "True False"
    assert done.stdout == (b"" if ">&-" in streams.replace("2>&-", "") else b"an answer\n")


def test_a_platform_that_is_not_there_is_told():
    done = python("-m", "train", "eval", "puppet_s_cifar10", JAX_PLATFORMS="nonsense")
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: JAX_PLATFORMS=nonsense: no such device here (")
    assert last.endswith("unset it, or set JAX_PLATFORMS=cpu")
    assert "Traceback" not in done.stderr
    assert host.no_backend() is None
