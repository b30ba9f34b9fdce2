"""The script for a GPU, on the CPU: one process that finds everything beside itself."""

import json
import pathlib
import subprocess
import sys

SCRIPT = [sys.executable, str(pathlib.Path(__file__).parent.parent / "bench" / "gpu.py")]


def test_the_gpu_script_runs_on_the_cpu_and_says_so_without_a_gpu(tmp_path):
    output = tmp_path / "gpu.json"
    quick = [*SCRIPT, "--cpu", "--quick", "--output", str(output)]
    done = subprocess.run(quick, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text())
    assert all(line["ok"] for line in result["correct"])
    assert {row["contender"] for row in result["speed"]} >= {"static_jax", "compile_predict", "train_static_jax"}
    without = subprocess.run(SCRIPT, capture_output=True, text=True, cwd=tmp_path)
    assert without.returncode == 3
    assert "no GPU" in without.stdout
