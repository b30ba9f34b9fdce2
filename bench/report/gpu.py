"""What ``bench/gpu.py`` measured on a GPU: ``gpu*.json``."""

from bench.report.words import Language
from bench.table import markdown, milliseconds

_WHOSE = {
    "exact, kernels per image": "conventional (ODE)",
    "compile_predict": "ours",
    "nodes in H": "ODE, interpolated",
    "static CNN, all layers": "static",
}
_HEAD = ("", "batch, channels, map", "kernels", "by", "ms", "time over static's (quartiles)", "first call, s")


def render(data: dict, say: Language) -> str:
    lines = data["correct"]
    failed = [line["what"] for line in lines if not line["ok"]]
    right = say(
        "{right} of {all} comparisons with the CPU agree within their limits",
        right=len(lines) - len(failed),
        all=len(lines),
    )
    rows = [
        (
            say.term(row["kind"]),
            ", ".join(map(str, row["size"])),
            say(_WHOSE.get(row["contender"], "")),
            say.term(row["contender"]),
            milliseconds(row["ms"] / 1e3),
            say.spread(row["over_static"], *row["quartiles"]),
            f"{row['first_call_s']:.1f}",
        )
        for row in data["speed"]
    ]
    told = right + (say("; these do not: {names}", names=say.several(failed)) if failed else "")
    return f"{say('{told}.', told=told)}\n\n{markdown([say(each) for each in _HEAD], rows)}"
