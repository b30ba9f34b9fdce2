"""SIGTERM and Ctrl-C: noted while training, so that the step in hand is finished and saved."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The program was asked to end; ``signum`` by which signal."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Requests:
    """What has been asked for so far: ``signum`` is 0, or the first signal that came."""

    signum = 0


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within, SIGTERM raises :class:`Interrupted` where the program stands, as Ctrl-C raises ``KeyboardInterrupt``."""

    def stop(signum, _frame):
        raise Interrupted(signum)

    with _installed(stop, (signal.SIGTERM,)):
        yield


@contextlib.contextmanager
def noted() -> Iterator[Requests]:
    """Within, the first SIGTERM or Ctrl-C is noted and nothing else happens; a Ctrl-C after it ends the process at
    once, with code 130. The handlers before are put back at the end.
    """
    requests = Requests()

    def note(signum, _frame):
        if requests.signum:
            if signum == signal.SIGINT:
                os._exit(128 + signum)
            return
        requests.signum = signum
        # Not through print: the handler may run in the middle of another one.
        os.write(sys.__stderr__.fileno(), b"\nfinishing the step in hand and saving; Ctrl-C now ends at once\n")

    with _installed(note, SIGNALS):
        yield requests


@contextlib.contextmanager
def _installed(handler, signals) -> Iterator[None]:
    # Python lets only the main thread install handlers: a training in another thread goes without.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # One that is ignored stays so: a job in the background is not to be stopped by the terminal's Ctrl-C.
    before = {s: signal.getsignal(s) for s in signals if signal.getsignal(s) is not signal.SIG_IGN}
    try:
        for s in before:
            signal.signal(s, handler)
        yield
    finally:
        for s, old in before.items():
            signal.signal(s, signal.SIG_DFL if old is None else old)
