"""The whole report as one page, in the order in which a reader asks."""

import dataclasses
import fnmatch
from collections.abc import Callable

from bench.report import accuracy, claims, export, folder, gpu, memory, puppetize, scaling, speed, training
from bench.report.results import AGE, AGES, Results
from bench.report.words import Language


@dataclasses.dataclass(frozen=True)
class Section:
    """Files that one function renders.

    Attributes:
        title: of the section.
        pattern: of the files' names.
        command: that writes such a file.
        render: what is in a file, as Markdown.
    """

    title: str
    pattern: str
    command: str
    render: Callable[[dict, Language], str]


SECTIONS = (
    Section("Speed on the CPU", "speed*.json", "python -m bench speed", speed.render),
    Section("Speed on a GPU", "gpu*.json", "python bench/gpu.py --output bench/results/gpu.json", gpu.render),
    Section("Scaling", "scaling.json", "python -m bench scaling", scaling.render),
    Section("Memory of a training step", "memory.json", "python -m bench memory", memory.render),
    Section("Accuracy on CIFAR-10", "accuracy_*.json", "python -m bench accuracy", accuracy.study),
    Section(
        "One epoch of CIFAR-10", "cifar10_one_epoch.json", "python -m bench recipe --data cifar10", accuracy.one_epoch
    ),
    Section("Accuracy on digits", "digits.json", "python -m bench recipe", accuracy.digits),
    Section("Any CNN as a puppet", puppetize.FILE, "python -m bench puppetize", puppetize.render),
    Section("Precision", "precision_*.json", "python -m bench precision RUN", training.precision_table),
    Section("Exported model", "export.json", "python -m bench export", export.render),
    Section("Prediction of a folder", "predict_*.json", "python -m bench predict", folder.render),
    Section("Trainer", "trainer_*.json", "python -m bench trainer", training.trainer),
    Section("Huge pages", "huge_pages.json", "python -m bench pages", training.huge_pages),
)
_TITLE = "What was measured"
_HEAD = """\
Rendered by `python -m bench report` from the files in [results](results); every number below is read from one of them,
but for those in the column of claims. Conventional: the kernels of a neural ODE, generated for every image. Proposed:
continuous convolution. Static: stored kernels, one a layer, every layer computed for every image.

Lines that begin with "{age}" compare a result's revision, by git, with the last commit that touched what it
measures (`bench/report/measures.py`), at the time of rendering. Nothing else here depends on the time."""


def render(results: Results) -> str:
    """The page, ending in one line feed."""
    say = results.say
    other = say("[日本語](REPORT.ja.md)")
    parts = [f"# {say(_TITLE)}", other, say(_HEAD, age=say(AGE).strip())]
    parts += [f"## {say('What the sources claim')}", claims.render(results)]
    for section in SECTIONS:
        parts.append(f"## {say(section.title)}")
        names = results.names(section.pattern)
        if not names:
            told = "**`results/{pattern}` is missing**: `{command}` writes it."
            parts.append(say(told, pattern=section.pattern, command=section.command))
        for name in names:
            parts += [f"### {name}"] if len(names) > 1 else []
            parts.append(results.part(name, section.render))
    known = [section.pattern for section in SECTIONS]
    if others := [n for n in results.names() if not any(fnmatch.fnmatchcase(n, pattern) for pattern in known)]:
        told = say("No section reads these files: {names}.", names=", ".join(others))
        parts += [f"## {say('Not rendered')}", told]
    return "\n\n".join(parts) + "\n"


def without_ages(page: str) -> str:
    """The page without the lines that depend on the time of rendering."""
    return "".join(line for line in page.splitlines(keepends=True) if not line.startswith(AGES))
