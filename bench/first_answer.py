"""The time until a model's first answer, in a process that has just started."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import target

LIMITS_S = {"cold": 5.0, "warm": 2.0}  # targets, by the state of JAX's compilation cache
MODEL = "puppet_s_cifar10"
# Loading, baking, compiling and one image; imports apart.
_SCRIPT = """
import json, sys, time
import jax, numpy as np
import puppet_jax as pj
image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
began = time.perf_counter()
predict = pj.compile_predict(pj.load_pretrained(sys.argv[1]))
jax.block_until_ready(predict(image))
print(json.dumps(time.perf_counter() - began))
"""


def measure(rounds: int) -> dict:
    """Seconds of a pretrained model by the state of the cache: ``cold`` is empty, ``warm`` has seen the same before."""
    times = {"cold": [], "warm": []}
    here = {"PYTHONPATH": str(Path(__file__).parent.parent), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for seconds in times.values():
                seconds.append(ask(_SCRIPT, MODEL, JAX_COMPILATION_CACHE_DIR=cache, **here))
    found = {"model": MODEL}
    for state, seconds in times.items():
        spread = target.spread(seconds)
        quartiles = [spread["low"], spread["high"]]
        found[state] = {"median_s": spread["median"], "quartiles_s": quartiles, "limit_s": LIMITS_S[state]}
    return found


def ask(script: str, *arguments: str, **environment: str):
    """What a Python script prints, as JSON, in a fresh process that knows of no programs compiled before. If it fails,
    the ``CalledProcessError`` holds what the script said."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    command = [sys.executable, "-c", script, *arguments]
    environment = {**kept, "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
