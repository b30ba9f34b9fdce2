"""The program is started over once, with malloc asked for huge pages, and only where that is wanted."""

import os
import subprocess
import sys

import pytest
from trained_runs import ROOT

from train import huge_pages

SHOW = """\
import os, sys
from train.huge_pages import ask_for_huge_pages
if __name__ == "__main__":
    ask_for_huge_pages()
    print(os.environ.get("GLIBC_TUNABLES"), sys.argv[1:], os.getpid())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=0", "glibc.malloc.check=0:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_the_program_is_started_over_with_the_same_arguments_and_process_number(tmp_path, given, expected):
    (tmp_path / "show.py").write_text(SHOW)
    environment = {name: value for name, value in os.environ.items() if name != huge_pages.VARIABLE}
    environment |= {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    environment |= {} if given is None else {huge_pages.VARIABLE: given}
    command = [sys.executable, "-m", "show", "--a=b c", "é"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        out = process.stdout.read()
    assert process.returncode == 0
    assert out.strip() == f"{expected} ['--a=b c', 'é'] {process.pid}"


def test_nothing_is_started_elsewhere_and_a_refusal_is_no_error(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setenv(huge_pages.VARIABLE, "")
    monkeypatch.setattr(huge_pages.sys, "platform", "linux")
    monkeypatch.setattr(huge_pages.os, "execv", refuse)
    huge_pages.ask_for_huge_pages()

    monkeypatch.delenv(huge_pages.VARIABLE, raising=False)
    monkeypatch.setattr(huge_pages.sys, "platform", "darwin")
    monkeypatch.setattr(huge_pages.os, "execv", lambda *_: pytest.fail("started over"))
    huge_pages.ask_for_huge_pages()
    assert huge_pages.VARIABLE not in os.environ
