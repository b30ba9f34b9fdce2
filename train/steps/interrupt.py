"""Ctrl-C, SIGTERM and SIGHUP (of a terminal that is closed): noted during training, so that the current step is
finished and saved."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The program was asked to end; ``signum`` by which signal."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Requests:
    """The signal that came first, as ``signum``; 0 while there is none."""

    signum = 0


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """A context in which SIGTERM and SIGHUP raise :class:`Interrupted`, as Ctrl-C raises ``KeyboardInterrupt``."""

    def stop(signum, _frame):
        raise Interrupted(signum)

    with installed(stop, SIGNALS[1:]):
        yield


@contextlib.contextmanager
def noted() -> Iterator[Requests]:
    """A context in which the first of the signals is only noted; a Ctrl-C after it raises :class:`Interrupted`. The
    previous handlers are restored at the end."""
    requests = Requests()

    def note(signum, _frame):
        if requests.signum:
            if signum == signal.SIGINT:
                raise Interrupted(signum)
            return
        requests.signum = signum
        if sys.__stderr__ is not None:  # as in a process without a console
            # Not through print: the handler may run in the middle of another one. Whoever read it may have left.
            with contextlib.suppress(OSError):
                os.write(sys.__stderr__.fileno(), b"\nfinishing the step in hand and saving; Ctrl-C now ends at once\n")

    with installed(note, SIGNALS):
        yield requests


@contextlib.contextmanager
def installed(handler: Callable, signals: Iterable[signal.Signals]) -> Iterator[None]:
    """A context with a handler for some signals. Another thread than the main one goes without: Python lets no other
    install any. A signal that is ignored stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # An ignored signal stays ignored: the terminal's Ctrl-C must not stop a background job.
    before = {s: signal.getsignal(s) for s in signals if signal.getsignal(s) is not signal.SIG_IGN}
    try:
        for s in before:
            signal.signal(s, handler)
        yield
    finally:
        for s, old in before.items():
            signal.signal(s, signal.SIG_DFL if old is None else old)
