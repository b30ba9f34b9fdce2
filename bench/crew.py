"""Worker processes, started when first asked for, stopped together."""

import json
import os
import subprocess
import sys
from pathlib import Path

from bench import machine

_ROOT = Path(__file__).resolve().parent.parent


class Crew:
    """Workers by name. Used as a context: on leaving it, all of them end.

    Args:
        quick: where nothing is to be measured: every worker has one core, and XLA leaves out most optimisations.
    """

    def __init__(self, quick: bool = False):
        self.quick = quick
        self.cores = machine.cores()[: 1 if quick else None]
        self._workers: dict[str, subprocess.Popen] = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name in list(self._workers):
            self.dismiss(name)

    def ask(self, worker: str, do: str, **request) -> dict:
        """What the worker of this name replies; ``{"unavailable": reason}`` if it cannot, or did not live to tell."""
        process = self._workers.get(worker) or self._start(worker)
        try:
            process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            process.wait()
            self.dismiss(worker)
            return {"unavailable": f"its process ended with exit code {process.returncode} (-9: out of memory?)"}
        return json.loads(line)

    def dismiss(self, worker: str) -> None:
        """End a worker, which has nothing to save."""
        if process := self._workers.pop(worker, None):
            process.kill()
            process.communicate()

    def _start(self, worker: str) -> subprocess.Popen:
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}
        # As python -m train sets it for itself; both frameworks take a step's arrays from malloc anew, and gain.
        environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        if self.quick:
            environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
        pipes["preexec_fn"] = machine.keep_to(self.cores)
        self._workers[worker] = process = subprocess.Popen([sys.executable, "-m", "bench.worker"], **pipes)
        return process
