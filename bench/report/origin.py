"""Where the numbers of a result file come from: command, date, machine, revision."""

import dataclasses
import re

from bench.report.words import ENGLISH, Language


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


def lines(name: str, data: dict, say: Language = ENGLISH) -> list[str]:
    """The file, its origins, and the machine, as the items of a list."""
    found = origins(data)
    first = say("- File: [{name}](results/{name}); {about}.", name=name, about=machine(data, say) + _versions(data))
    told = [
        say(
            "- Measured by `{command}`, {date}, revision {revision}{of}.",
            command=say.known(each.command),
            date=say.known(each.date),
            revision=short(each.revision, say),
            of=_of(each, found, say),
        )
        for each in found
    ]
    return [first, *told]


def short(revision: str | None, say: Language = ENGLISH) -> str:
    """The first eight digits, and a "+" if files differed from the commit."""
    if not revision:
        return say("not recorded")
    commit, changed, _ = revision.partition("+")
    return commit[:8] + changed


def _origin(data: dict, revision: str | None) -> Origin:
    command = data.get("command")
    if command is None and (commands := [run["command"] for run in data.get("runs", ()) if "command" in run]):
        command = f"{commands[0]} and {len(commands) - 1} more" if len(commands) > 1 else commands[0]
    # A folder's place on the machine is nobody's business.
    command = "not recorded" if command is None else re.sub(r"(?<=[\s='\"])/[^\s'\"]*/", "…/", command)
    return Origin(command, data.get("date", "date not recorded"), revision)


def _of(origin: Origin, every: list[Origin], say: Language) -> str:
    if len(every) == 1 or not origin.of:
        return ""
    if set(origin.of) == {"run"}:
        return say(" (1 run)") if len(origin.of) == 1 else say(" ({n} runs)", n=len(origin.of))
    return say(" ({names})", names=say.several(origin.of))


def machine(data: dict, say: Language) -> str:
    """Device, processor and cores that a file names."""
    machine = data.get("machine")
    device = f"{data['device']}, " if "device" in data else ""
    if not isinstance(machine, dict):
        return device + (str(machine) if machine else say("machine not recorded"))
    cores = machine.get("cores_used", machine.get("cores"))
    processor = machine.get("processor") or say("processor not recorded")
    told = say("{processor}, 1 core", processor=processor) if cores == 1 else None
    return device + (told or say("{processor}, {n} cores", processor=processor, n=cores))


def _versions(data: dict) -> str:
    versions = data.get("versions") or {name: data[name] for name in ("jax",) if name in data}
    told = [f"{name} {versions[name]}" for name in ("python", "jax", "torch") if name in versions]
    return f"; {', '.join(told)}" if told else ""
