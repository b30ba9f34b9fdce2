"""What ``bench/gpu.py`` measured on a GPU: ``gpu*.json``."""

from bench.report.words import spread
from bench.table import markdown, milliseconds

_WHOSE = {
    "exact, kernels per image": "conventional (ODE)",
    "compile_predict": "ours",
    "nodes in H": "ODE, interpolated",
    "static CNN, all layers": "static",
}


def render(data: dict) -> str:
    lines = data["correct"]
    failed = [line["what"] for line in lines if not line["ok"]]
    right = f"{len(lines) - len(failed)} of {len(lines)} comparisons with the CPU agree within their limits"
    rows = [
        (
            row["kind"],
            ", ".join(map(str, row["size"])),
            _WHOSE.get(row["contender"], ""),
            row["contender"],
            milliseconds(row["ms"] / 1e3),
            spread(row["over_static"], *row["quartiles"]),
            f"{row['first_call_s']:.1f}",
        )
        for row in data["speed"]
    ]
    head = ("", "batch, channels, map", "kernels", "by", "ms", "time over static's (quartiles)", "first call, s")
    told = right + (f"; these do not: {'; '.join(failed)}" if failed else "")
    return f"{told}.\n\n{markdown(head, rows)}"
