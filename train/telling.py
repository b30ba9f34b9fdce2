"""What a command tells on standard error while it works."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

import jax
from tqdm import tqdm

PLAIN = 60.0
"""Seconds between two lines where there is no terminal."""


def say(text: str) -> None:
    """A line on standard error, above the progress bar where there is one; from the first process only."""
    if jax.process_index() == 0:
        tqdm.write(text, file=sys.stderr)
        sys.stderr.flush()


@contextlib.contextmanager
def compiling(what: str, *, log: bool = True) -> Iterator[None]:
    """A context in which is told that something is compiled, and for how long: a line that counts on a terminal, and
    is gone at the end; elsewhere, with ``log``, a line now and one a minute."""
    began, done = time.monotonic(), threading.Event()
    shown = sys.stderr.isatty() and jax.process_index() == 0

    def tell() -> None:
        while True:
            text = f"compiling {what}, {time.monotonic() - began:.0f} s"
            if shown:
                print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)  # and the rest of the line away
            elif log:
                say(text.removesuffix(", 0 s"))
            if done.wait(1.0 if shown else PLAIN):
                return

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
