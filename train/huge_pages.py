"""Huge pages for the process's memory, on Linux.

XLA's CPU client allocates the temporaries of each step anew, and the page faults of fresh 4 KiB pages took a third of a
training step. With transparent huge pages in glibc's malloc a step is 1.2 to 1.6 times as fast
(bench/results/huge_pages.json). glibc reads the setting only when a process starts, hence the second start.
"""

import contextlib
import os
import sys

from train.host import is_own

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb"


def ask_for_huge_pages() -> None:
    """Execute this program again in the same process, with huge pages requested from malloc.

    Does nothing on other systems than Linux, in a process that was not started as ``python -m train``, and where
    ``GLIBC_TUNABLES`` has the setting already, so that ``GLIBC_TUNABLES=glibc.malloc.hugetlb=0`` turns it off. Call it
    before anything that takes long. Another malloc than glibc's ignores the variable.
    """
    given = os.environ.get(VARIABLE, "")
    if sys.platform != "linux" or TUNABLE in given or not sys.executable or not is_own():
        return
    os.environ[VARIABLE] = ":".join(filter(None, [given, f"{TUNABLE}=1"]))
    with contextlib.suppress(OSError):  # go on without huge pages
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
