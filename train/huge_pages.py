"""Large pages for the process's memory, on Linux.

XLA's CPU client takes the temporaries of each step from malloc anew, and touching fresh pages of 4 KiB was a third of a
training step. With glibc's malloc asking for transparent huge pages a step is 1.2 to 1.6 times as fast
(bench/results/huge_pages.json); glibc reads that wish only when a process starts.
"""

import contextlib
import os
import sys

VARIABLE = "GLIBC_TUNABLES"
TUNABLE = "glibc.malloc.hugetlb"


def ask_for_huge_pages() -> None:
    """Start this process's program over, under the same process number, with malloc asked for huge pages.

    Does nothing where it would be of no use: not Linux; ``GLIBC_TUNABLES`` mentions the matter already, which is also
    the way to say no (``GLIBC_TUNABLES=glibc.malloc.hugetlb=0``); no program to start over. Call it before anything
    that takes long. A malloc that is not glibc's ignores the variable.
    """
    given = os.environ.get(VARIABLE, "")
    if sys.platform != "linux" or TUNABLE in given or not sys.executable or not sys.orig_argv:
        return
    os.environ[VARIABLE] = ":".join(filter(None, [given, f"{TUNABLE}=1"]))
    with contextlib.suppress(OSError):  # then without them
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
