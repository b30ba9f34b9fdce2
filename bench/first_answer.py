"""A pretrained model's time to its first answer: loading, baking, compiling and one image, in a fresh process."""

import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

LIMITS_S = {"cold": 5.0, "warm": 2.0}
"""Targets, by the state of JAX's compilation cache."""

_MODEL = "puppet_s_cifar10"


def measure(rounds: int) -> dict:
    """Seconds of each round by the state of the cache: ``cold`` is empty, ``warm`` has seen the same before."""
    times = {"cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for state in times:
                environment = {
                    **os.environ,
                    "JAX_COMPILATION_CACHE_DIR": cache,
                    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
                    "JAX_PLATFORMS": "cpu",
                }
                command = [sys.executable, "-m", "bench.first_answer"]
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                times[state].append(json.loads(done.stdout))
    return {
        "model": _MODEL,
        **{
            state: {
                "median_s": float(np.median(seconds)),
                "quartiles_s": [float(q) for q in np.quantile(seconds, (0.25, 0.75))],
                "limit_s": LIMITS_S[state],
            }
            for state, seconds in times.items()
        },
    }


def _once() -> float:
    import jax

    import puppet_jax as pj

    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    began = time.perf_counter()
    predict = pj.compile_predict(pj.load_pretrained(_MODEL))
    jax.block_until_ready(predict(image))
    return time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(_once()))
