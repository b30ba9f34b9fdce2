"""The program is started over once, with malloc asked for huge pages, and only where that is wanted."""

import os
import subprocess
import sys

import pytest

from train import huge_pages

SHOW = """\
import os, sys
from train.huge_pages import ask_for_huge_pages
if __name__ == "__main__":
    ask_for_huge_pages()
    print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], os.getpid())
"""

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")


def shown(tmp_path, **environment):
    """What a program that asks prints, its arguments odd ones, and the number of the process that was started."""
    (tmp_path / "show.py").write_text(SHOW)
    base = {name: value for name, value in os.environ.items() if name != huge_pages.VARIABLE}
    process = subprocess.Popen(
        [sys.executable, "-m", "show", "--a=b c", "é"],
        cwd=tmp_path,
        env={**base, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()]), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return out.strip(), process.pid


@on_linux
def test_the_program_is_started_over_with_huge_pages_and_the_same_arguments_and_number(tmp_path):
    out, pid = shown(tmp_path)
    assert out == f"glibc.malloc.hugetlb=1 ['--a=b c', 'é'] {pid}"


@on_linux
def test_other_tunables_are_kept(tmp_path):
    out, _ = shown(tmp_path, GLIBC_TUNABLES="glibc.malloc.check=0")
    assert out.startswith("glibc.malloc.check=0:glibc.malloc.hugetlb=1 ")


@on_linux
def test_a_given_value_is_respected(tmp_path):
    out, _ = shown(tmp_path, GLIBC_TUNABLES="glibc.malloc.hugetlb=0")
    assert out.startswith("glibc.malloc.hugetlb=0 ")


def test_nothing_is_started_elsewhere(monkeypatch):
    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    monkeypatch.setattr(huge_pages.sys, "platform", "darwin")
    monkeypatch.setattr(huge_pages.os, "execv", lambda *_: pytest.fail("started over"))
    huge_pages.ask_for_huge_pages()
    assert huge_pages.VARIABLE not in os.environ


@on_linux
def test_where_it_cannot_be_started_over_it_goes_on(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setenv(huge_pages.VARIABLE, "")
    monkeypatch.setattr(huge_pages.os, "execv", refuse)
    huge_pages.ask_for_huge_pages()
