"""Peak memory of a training step by adjoint: ``memory.json``."""

from bench.report.words import Language, mib, number
from bench.table import markdown

_WHO = {
    "train_exact_direct": ("conventional (ODE)", "DirectAdjoint"),
    "train_exact": ("conventional (ODE)", "RecursiveCheckpointAdjoint"),
    "train_exact_backsolve": ("conventional (ODE)", "BacksolveAdjoint"),
    "train_vmap": ("conventional (ODE)", "plain `vmap`"),
    "train_torch_batched": ("conventional (ODE)", "PyTorch, batched"),
    "train_interpolated": ("ODE, interpolated", "nodes in H"),
    "train_continuous": ("continuous, interpolated", "nodes in H"),
    "train_static_jax": ("static", "JAX twin, all layers"),
}
_BASE = "train_exact_direct"
_RESIDENT = ("resident_rise_bytes", "rss_peak_bytes")
_HEAD = ("kernels", "by", "XLA's account, MiB", "of DirectAdjoint's", "rise of resident set, MiB", "its peak, MiB")


def render(data: dict, say: Language) -> str:
    found = data["contenders"]
    names = sorted(found, key=lambda name: list(_WHO).index(name) if name in _WHO else len(_WHO))
    base = found.get(_BASE, {}).get("xla_bytes")
    rows = []
    for name in names:
        account = found[name].get("xla_bytes")
        share = number(account / base) if account and base else "–"
        whose, what = _WHO.get(name, ("", f"`{name}`"))
        rows.append((say(whose), say(what), mib(account), share, *(mib(found[name][key]) for key in _RESIDENT)))
    left_out = data["left_out"].items()
    rows += [("", f"`{name}`", say("left out: {why}", why=say.term(why)), "", "", "") for name, why in left_out]
    targets = [
        (
            row["number"],
            say.term(row["what"]),
            number(row["ratio"]),
            f"≤ {row['target']:g}",
            say.verdict(row["reached"]),
        )
        for row in data["rows"]
    ]
    told = say(
        "Training step of {size} (batch, channels, map). PyTorch has no account of its own step. The resident set does "
        "not rise where a process had kept the memory of the calls before.",
        size=data["size"],
    )
    last = markdown([say(each) for each in ("row", "ratio", "", "target", "")], targets)
    return "\n\n".join([told, markdown([say(each) for each in _HEAD], rows), last])
