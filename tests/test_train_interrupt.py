"""Signals: noted, agreed to end by, and the handlers before put back."""

import functools
import signal

import pytest

from train.steps import interrupt


def handlers():
    return [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("signum", interrupt.SIGNALS)
def test_the_first_signal_is_noted_and_nothing_else_happens(signum, capfd, request):
    # A shell that starts tests in the background has Ctrl-C ignored, which processes inherit.
    request.addfinalizer(functools.partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = handlers()
    with interrupt.noted() as asked:
        assert asked.signum == 0
        signal.raise_signal(signum)
        assert asked.signum == signum
        signal.raise_signal(signal.SIGTERM)  # a cluster may ask more than once
        assert asked.signum == signum
        with pytest.raises(KeyboardInterrupt):  # at once
            signal.raise_signal(signal.SIGINT)
    assert handlers() == before
    assert "Ctrl-C now ends at once" in capfd.readouterr().err


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.noted() as asked:
            signal.raise_signal(signal.SIGINT)
            assert asked.signum == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
