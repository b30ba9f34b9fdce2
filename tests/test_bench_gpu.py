import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def test_the_gpu_script_runs_on_the_cpu_and_says_so_without_a_gpu(tmp_path):
    script = [sys.executable, str(ROOT / "bench" / "gpu.py")]
    output = tmp_path / "gpu.json"
    done = subprocess.run([*script, "--cpu", "--quick", "--output", str(output)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text())
    assert all(line["ok"] for line in result["correct"])
    assert {row["contender"] for row in result["speed"]} >= {"static CNN, all layers", "compile_predict"}
    without = subprocess.run(script, capture_output=True, text=True)
    assert without.returncode == 3
    assert "no GPU" in without.stdout
