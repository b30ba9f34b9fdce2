"""Where the numbers of a result file come from: command, date, machine, revision."""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Origin:
    """What was measured together: command, date and revision, and of a file's measurements those it is true of."""

    command: str
    date: str
    revision: str | None
    of: tuple[str, ...] = ()


def origins(data: dict) -> list[Origin]:
    """The origins that a file names, in its order: one, or one for each revision that its parts were measured at."""
    inner = {**data.get("measurements", {}), **data.get("quantities", {})}
    parts = [(name, part) for name, part in inner.items() if "revision" in part]
    parts += [("run", run) for run in data.get("runs", ()) if "revision" in run]
    if not parts:
        return [_origin(data, data.get("revision"))]
    found: dict[Origin, list[str]] = {}
    for name, part in parts:
        # A run's own command differs from all others'; the file's made them all.
        whose = data if name == "run" else {**data, **part}
        found.setdefault(_origin(whose, part["revision"]), []).append(name)
    return [dataclasses.replace(origin, of=tuple(names)) for origin, names in found.items()]


def lines(name: str, data: dict) -> list[str]:
    """The file, its origins, and the machine, as the items of a list."""
    found = origins(data)
    first = f"- File: [{name}](results/{name}); {_machine(data)}{_versions(data)}."
    told = [
        f"- Measured by `{each.command}`, {each.date}, revision {short(each.revision)}{_of(each, found)}."
        for each in found
    ]
    return [first, *told]


def short(revision: str | None) -> str:
    """The first eight digits, and a "+" if files differed from the commit."""
    if not revision:
        return "not recorded"
    commit, changed, _ = revision.partition("+")
    return commit[:8] + changed


def _origin(data: dict, revision: str | None) -> Origin:
    command = data.get("command")
    if command is None and (commands := [run["command"] for run in data.get("runs", ()) if "command" in run]):
        command = f"{commands[0]} and {len(commands) - 1} more" if len(commands) > 1 else commands[0]
    # A folder's place on the machine is nobody's business.
    command = "not recorded" if command is None else re.sub(r"(?<=[\s='\"])/[^\s'\"]*/", "…/", command)
    return Origin(command, data.get("date", "date not recorded"), revision)


def _of(origin: Origin, every: list[Origin]) -> str:
    if len(every) == 1 or not origin.of:
        return ""
    if set(origin.of) == {"run"}:
        return f" ({len(origin.of)} run{'s' if len(origin.of) > 1 else ''})"
    return f" ({'; '.join(origin.of)})"


def _machine(data: dict) -> str:
    machine = data.get("machine")
    device = f"{data['device']}, " if "device" in data else ""
    if not isinstance(machine, dict):
        return device + (str(machine) if machine else "machine not recorded")
    cores = machine.get("cores_used", machine.get("cores"))
    return f"{device}{machine.get('processor') or 'processor not recorded'}, {cores} core{'s' if cores != 1 else ''}"


def _versions(data: dict) -> str:
    versions = data.get("versions") or {name: data[name] for name in ("jax",) if name in data}
    told = [f"{name} {versions[name]}" for name in ("python", "jax", "torch") if name in versions]
    return f"; {', '.join(told)}" if told else ""
