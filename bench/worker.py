"""A process that holds contenders and works only when told to: ``python -m bench.worker``.

Requests and replies are JSON, one a line, on stdin and (a private copy of) stdout. Between requests the process blocks
on a read: its thread pools have nothing to do.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

from bench import case, contenders
from bench.case import Size


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not get among the replies
    held: dict[str, contenders.Contender] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = _ANSWERS[request.pop("do")](held, **request)
        except contenders.Unavailable as reason:
            reply = {"unavailable": str(reason)}
        except Exception as error:
            traceback.print_exc()
            reply = {"unavailable": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        replies.write(json.dumps(reply) + "\n")


def prepare(held, folder: str, size: dict) -> dict:
    case.prepare(Path(folder), Size(**size))
    return {}


def set_up(held, name: str, folder: str, size: dict) -> dict:
    """Make a contender and call it twice: the first call compiles."""
    contender = contenders.make(name, case.load(Path(folder), Size(**size)))
    start = time.perf_counter()
    result = contender.call()
    first = time.perf_counter() - start
    error = contender.error(result) if contender.error else None
    del result
    held[name] = contender
    return {"first_call_s": first, "error": error, "notes": contender.notes}


def turn(held, name: str, budget_s: float, most: int) -> dict:
    """Times of some calls, one at least; before them, unless a call takes long, one that brings the caches back."""
    call, times = held[name].call, []
    warm = _timed(call)
    if warm > 2.0:
        times.append(warm)
    while not times or (sum(times) < budget_s and len(times) < most):
        times.append(_timed(call))
    return {"times_s": times}


def _timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


_ANSWERS = {"prepare": prepare, "set_up": set_up, "turn": turn}

if __name__ == "__main__":
    main()
