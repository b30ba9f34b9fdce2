"""The process: started over once with huge pages if it is our own; its streams."""

import os
import shlex
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

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
    done = python("-m", "train", "eval", "é", "--help", PYTHONPATH=path, GLIBC_TUNABLES=given)
    assert done.returncode == 0, done.stderr
    assert "usage: python -m train eval" in done.stdout
    shown = [line.split(" ", 1) for line in done.stdout.splitlines() if line.split(" ")[0].isdecimal()]
    assert [tunables for _, tunables in shown] == [given, f"{given}:glibc.malloc.hugetlb=1"]
    assert len({number for number, _ in shown}) == 1


@pytest.mark.parametrize(
    ("started", "given", "left"),
    [
        ("train.__main__", "", "glibc.malloc.hugetlb=1"),
        ("train.__main__", "a=1", "a=1:glibc.malloc.hugetlb=1"),
        ("train.__main__", "glibc.malloc.hugetlb=0", None),
        ("ipykernel_launcher", "", None),  # whatever a notebook runs
        (None, "", None),  # a script
    ],
)
def test_only_a_process_started_as_this_program_is_its_own(monkeypatch, started, given, left):
    def refuse(*arguments):
        called.append(arguments)
        raise PermissionError  # which is no error: it goes on without huge pages

    called = []
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", started and ModuleSpec(started, None))
    monkeypatch.setenv("GLIBC_TUNABLES", given)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "execv", refuse)
    host.ask_for_huge_pages()
    assert bool(called) == (left is not None)
    assert os.environ["GLIBC_TUNABLES"] == (left or given)


def test_compiled_programs_are_kept_where_the_user_keeps_caches(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(host, "is_own", lambda: True)
    monkeypatch.setattr(host, "KEPT_BYTES", 10)

    def keep(**variables):
        with monkeypatch.context() as patch:
            for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
                patch.setenv(name, "")  # so that it is put back
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, str(value))
            host.keep_programs()
            return os.environ.get("JAX_COMPILATION_CACHE_DIR"), capsys.readouterr().err

    folder, told = keep(XDG_CACHE_HOME=tmp_path)
    assert os.path.dirname(folder) == str(tmp_path / "puppet-jax")
    assert "JAX_ENABLE_COMPILATION_CACHE=false" in told
    for second in range(4):
        (file := Path(folder, f"{second}-cache")).write_text("four")
        os.utime(file, (second, second))
    assert keep(XDG_CACHE_HOME=tmp_path) == (folder, "")
    assert sorted(os.listdir(folder)) == ["2-cache", "3-cache"]
    assert keep(XDG_CACHE_HOME=tmp_path, JAX_ENABLE_COMPILATION_CACHE="False") == (None, "")
    assert keep(XDG_CACHE_HOME=tmp_path, JAX_COMPILATION_CACHE_DIR="mine") == ("mine", "")
    assert keep(XDG_CACHE_HOME=tmp_path / "puppet-jax" / Path(folder).name / "2-cache") == (None, "")  # a file


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
