"""Times on the CPU, conventional beside proposed beside static: ``speed*.json``."""

from bench.report.words import spread
from bench.table import markdown, milliseconds
from bench.timing import Times, ratio

# contender: (whose, what), in the order of the tables
_WHO = {
    "torch_batched": ("conventional (ODE)", "PyTorch, batched"),
    "torch_one_by_one": ("conventional (ODE)", "PyTorch, image by image"),
    "exact": ("conventional (ODE)", "JAX, kernels for every image"),
    "vmap": ("conventional (ODE)", "JAX, plain `vmap`"),
    "compile_predict": ("ours", "`compile_predict`, kernels of the ODE baked"),
    "torch_static": ("static", "PyTorch (oneDNN), all layers"),
    "static_jax": ("static", "JAX twin, all layers"),
    "complexity": ("a part of ours", "complexity alone"),
    "train_torch_batched": ("conventional (ODE)", "PyTorch, batched"),
    "train_exact": ("conventional (ODE)", "JAX, kernels for every image"),
    "train_vmap": ("conventional (ODE)", "JAX, plain `vmap`"),
    "train_interpolated": ("ODE, interpolated", "kernels at nodes in H"),
    "train_continuous": ("continuous, interpolated", "kernels at nodes in H"),
    "train_torch_static": ("static", "PyTorch, all layers"),
    "train_static_jax": ("static", "JAX twin, all layers"),
}
_SIZES = "Sizes are batch, channels, map; seven layers unless a fourth number says otherwise."
_KINDS = {
    "predict": ("Prediction, images to logits", ("compile_predict",)),
    "train": ("Training step", ("train_interpolated", "train_continuous")),
}


def render(data: dict) -> str:
    parts = [f"{_SIZES} Medians and quartiles over {data['rounds']} rounds, measured in turns."]
    rest = dict(data["measurements"])
    for kind, (title, ours) in _KINDS.items():
        found = {name: rest.pop(name) for name in list(rest) if name.startswith(f"{kind} ")}
        if found:
            parts += [f"#### {title}", _times(kind, found)]
            parts += [_ratios(kind, found, one) for one in ours if _has(found, one)]
    if rest:
        parts += ["#### Generation, integrator and presets", _others(rest)]
    parts += ["#### Targets", _targets(data["rows"])]
    return "\n\n".join(parts)


def _has(found: dict, name: str) -> bool:
    return any(name in one["contenders"] for one in found.values())


def _names(found: dict) -> list[str]:
    """Contenders that were measured at any size, in the order of ``_WHO``, unknown ones last."""
    there = dict.fromkeys(name for one in found.values() for name in one["contenders"])
    return sorted(there, key=lambda name: list(_WHO).index(name) if name in _WHO else len(_WHO))


def _who(name: str) -> tuple[str, str]:
    return _WHO.get(name, ("", f"`{name}`"))


def _times(kind: str, found: dict) -> str:
    head = ("kernels", "by", *(f"{name.removeprefix(f'{kind} ')}: ms" for name in found))
    rows = [(*_who(name), *(_time(one["contenders"], name) for one in found.values())) for name in _names(found)]
    left_out = [f"`{name}` in {where} ({why})" for where, one in found.items() for name, why in one["left_out"].items()]
    return markdown(head, rows) + (f"\n\nLeft out: {'; '.join(left_out)}." if left_out else "")


def _time(contenders: dict, name: str) -> str:
    if name not in contenders:
        return "–"
    return "{} ({} to {})".format(*(milliseconds(contenders[name][key]) for key in ("median_s", "low_s", "high_s")))


def _ratios(kind: str, found: dict, ours: str) -> str:
    """Each peer's time over ours, formed round by round from the calls."""
    whose, what = _who(ours)
    head = (f"time over that of {whose}: {what}", "by", *(name.removeprefix(f"{kind} ") for name in found))
    peers = [name for name in _names(found) if name != ours]
    return markdown(
        head, [(*_who(name), *(_ratio(one["contenders"], name, ours) for one in found.values())) for name in peers]
    )


def _ratio(contenders: dict, over: str, under: str) -> str:
    if over not in contenders or under not in contenders:
        return "–"
    times = [Times(contenders[name]["calls_s"]).per_round() for name in (over, under)]
    found = ratio(*times)
    return spread(found.median, found.low, found.high)


def _others(found: dict) -> str:
    rows = [
        (name, one["contenders"][label]["what"], one["contenders"][label]["size"], _time(one["contenders"], label))
        for name, one in found.items()
        for label in one["contenders"]
    ]
    rows += [
        (name, f"`{label}`", "", f"left out: {why}")
        for name, one in found.items()
        for label, why in one["left_out"].items()
    ]
    return markdown(("in", "what", "size", "ms"), rows)


def _targets(rows: list[dict]) -> str:
    lines = [
        (
            row["number"],
            row["what"],
            row["measurement"],
            spread(row["median"], row["low"], row["high"]),
            f"{'≥' if row['sense'] == 'at least' else '≤'} {row['target']:g}",
            "reached" if row["reached"] else "missed",
        )
        for row in rows
    ]
    return markdown(("row", "ratio", "in", "median (quartiles)", "target", ""), lines)
