"""The process that the program runs in: whose it is, its memory, its compiled programs, its standard streams, its
devices."""

import io
import os
import sys
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

KEPT_BYTES = 2**30
"""How much of compiled programs is kept, when a run starts."""


def is_own() -> bool:
    """Whether the process was started as ``python -m train``.

    Only such a process may be started over, ended on the spot or have its standard streams replaced: in any other, as
    with ``%run -m train`` in a notebook, these belong to the caller.
    """
    started = getattr(sys.modules["__main__"], "__spec__", None)
    return started is not None and started.name == "train.__main__"


def ask_for_huge_pages() -> None:
    """Execute this program again in the same process, with huge pages requested from malloc.

    XLA's CPU client allocates the temporaries of each step anew, and the page faults of fresh 4 KiB pages took a third
    of a training step. With transparent huge pages in glibc's malloc a step is 1.2 to 1.6 times as fast
    (bench/results/huge_pages.json). glibc reads the setting only when a process starts, hence the second start.

    Does nothing on other systems than Linux, in a process that is not our own, and where ``GLIBC_TUNABLES`` has the
    setting already, so that ``GLIBC_TUNABLES=glibc.malloc.hugetlb=0`` turns it off. Call it before anything that takes
    long. Another malloc than glibc's ignores the variable.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in given or not sys.executable or not is_own():
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [given, "glibc.malloc.hugetlb=1"]))
    with suppress(OSError):  # go on without huge pages
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_programs() -> None:
    """Let JAX keep compiled programs between runs, in the user's cache folder; told when that is made.

    Does nothing in a process that is not our own, and where JAX's own variables say where to keep them or that none are
    kept (``JAX_COMPILATION_CACHE_DIR``, ``JAX_ENABLE_COMPILATION_CACHE=false``). A folder that cannot be written to is
    no error. XLA's notice of compilation that takes long, which the progress tells already, is silenced with all that
    it logs beside the errors that it raises. Call it before jax is imported.
    """
    if not is_own():
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    no = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in ("n", "no", "f", "false", "off", "0")
    if no or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    usual = {"darwin": "~/Library/Caches", "win32": "~/AppData/Local"}.get(sys.platform, "~/.cache")
    with suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
        root = Path(os.environ.get("XDG_CACHE_HOME") or usual).expanduser() / "puppet-jax"
        new = not root.exists()
        # One for each kind of CPU: a home may be shared by machines, and programs are for the instructions of one.
        info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        instructions = next((line for line in info if line.lower().startswith(("flags", "features"))), "")
        folder = root / f"{zlib.crc32(instructions.encode()):08x}"
        folder.mkdir(0o700, parents=True, exist_ok=True)
        kept = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in root.glob("*/*"))
        excess = sum(size for _, size, _ in kept) - KEPT_BYTES
        for _, size, file in kept:
            if excess > 0:
                file.unlink(missing_ok=True)
                excess -= size
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
        if new and sys.stderr:
            print(
                f"compiled programs are kept in {root}, at most {KEPT_BYTES / 2**30:g} GiB, so that the next run "
                "starts sooner (JAX_ENABLE_COMPILATION_CACHE=false: not)",
                file=sys.stderr,
            )


class _Notes(io.FileIO):
    """A stream that drops what it cannot write: no work is lost for a note that nobody can read."""

    def write(self, content) -> int:
        with suppress(OSError):  # a full disk, a reader that left, a terminal that was closed
            return super().write(content) or 0
        return len(content)


def keep_streams() -> None:
    """Make the standard streams such that the program can write to them.

    What a terminal cannot show is shown escaped. In a process of our own, a stream that is closed becomes the null
    device (else the next file that is opened would get its number, and what others print), and standard error drops
    what it cannot write.
    """
    if is_own():
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            if getattr(sys, name) is None:
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
                setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
        raw = _Notes(sys.stderr.fileno(), "wb", closefd=False)
        sys.stderr = io.TextIOWrapper(io.BufferedWriter(raw), sys.stderr.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def no_backend() -> str | None:
    """Why JAX has no device to compute on; ``None`` if it has, or is not in use."""
    if "jax" not in sys.modules:
        return None
    try:
        sys.modules["jax"].devices()
    except Exception as error:  # for a platform that is not installed it may be a bare AssertionError
        named = os.environ.get("JAX_PLATFORMS", "")
        reason = f" ({str(error).splitlines()[0]})" if str(error) else ""
        return f"JAX_PLATFORMS={named}: no such device here{reason}; unset it, or set JAX_PLATFORMS=cpu"
    return None
