"""The program starts itself over once, with malloc asked for huge pages, in a process of its own and in no other."""

import os
import sys

import pytest
from trained_runs import python

from train import huge_pages

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
    monkeypatch.setenv(huge_pages.VARIABLE, given)
    monkeypatch.setattr(huge_pages.sys, "platform", "linux")
    monkeypatch.setattr(huge_pages.os, "execv", refuse)
    huge_pages.ask_for_huge_pages()
    assert bool(called) == (left is not None)
    assert os.environ[huge_pages.VARIABLE] == (left or given)
