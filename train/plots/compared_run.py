"""What is compared of a run: its configuration, its learning curves and its result, read from its folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.errors import UserError
from train.runs.reading import Metrics, number, open_folder, read_json, read_metrics
from train.terminal import printable

# What says where and how a run is made, not what it trains: train.config.FREE but for the data (a test compares them),
# which is not imported because that imports jax, and reading text files should not take seconds.
NOT_TRAINED = {"out", "overwrite", "data_dir", "resume", "keep", "checkpoint_steps", "devices"}
NOT_TRAINED |= {"distributed", "coordinator", "process_id", "process_count"}
LONGEST_LABEL = 60


@dataclass(frozen=True)
class ComparedRun:
    """What is compared of a run.

    Attributes:
        metrics: at least one epoch.
        evaluated_on: what its reported images are called.
        accuracy, loss: of the reported images, after the last epoch.
        parameters: how many are stored; ``None`` if no file says.
        compression: against the static twin; ``None`` if no file says.
        finished: whether it has a summary.
        state: in words.
    """

    folder: Path
    config: dict[str, Any]
    metrics: Metrics
    evaluated_on: str
    accuracy: float
    loss: float
    parameters: float | None
    compression: float | None
    finished: bool
    state: str


def read_run(folder: Path) -> ComparedRun:
    """What is compared of the run in a folder.

    Raises:
        UserError: it is not a run's folder, or not one epoch of it can be read.
    """
    metrics = read_metrics(open_folder(folder) / "metrics.jsonl")
    if not metrics.lines:
        raise UserError(f"{printable(folder)}: no epoch in its metrics.jsonl that can be read")
    config, summary, notes = {}, {}, []
    for name in ("config.json", "summary.json"):
        try:
            content = read_json(folder / name)
        except UserError:
            if (folder / name).exists():
                notes.append(f"{name} damaged")
            continue
        if name == "summary.json":
            summary = content
        elif isinstance(content.get("config"), dict):
            config = content["config"]
    last = metrics.lines[-1]
    finished = number(summary, "test_accuracy") is not None
    if not finished:
        planned = number(config, "epochs")
        of = f" of {planned:.0f}" if planned is not None and planned >= last["epoch"] else ""
        notes.insert(0, f"unfinished, epoch {last['epoch']:.0f}{of}")
    if metrics.damaged:
        notes.append(f"{len(metrics.damaged)} damaged lines")
    parameters = number(summary, "parameters", "total")
    if parameters is None:
        from train.runs.trained import stored  # imports jax, which takes seconds, so only where no summary says it

        parameters = stored(folder)
    evaluated_on = summary.get("evaluated_on", config.get("evaluate_on"))
    accuracy, loss = number(summary, "test_accuracy"), number(summary, "test_loss")
    return ComparedRun(
        folder=folder,
        config=config,
        metrics=metrics,
        evaluated_on=evaluated_on if evaluated_on in ("test", "validation") else "test",
        accuracy=last["test_accuracy"] if accuracy is None else accuracy,
        loss=last["test_loss"] if loss is None else loss,
        parameters=parameters,
        compression=number(summary, "compression"),
        finished=finished,
        state="; ".join(notes) or "finished",
    )


def labels(runs: Sequence[tuple[Path, dict[str, Any]]]) -> list[str]:
    """A name for each run: what differs between the configurations, and the folder where that does not tell.

    Args:
        runs: folder and configuration of each.
    """
    # A field that some run lacks is of another version, so its value there is not known.
    known = [config for _, config in runs if config]
    fields = [name for name in (known or [{}])[0] if name not in NOT_TRAINED and all(name in each for each in known)]
    differing = [name for name in fields if len({repr(config[name]) for config in known}) > 1]
    texts = [", ".join(_setting(name, config[name]) for name in differing if name in config) for _, config in runs]
    folders = [folder.name or str(folder.resolve()) for folder, _ in runs]
    if len(set(folders)) < len(folders):
        folders = [str(folder) for folder, _ in runs]
    result = []
    for text, folder in zip(texts, folders, strict=True):
        if not text or len(text) > LONGEST_LABEL:
            text = folder
        elif texts.count(text) > 1:
            text = f"{text} ({folder})"
        result.append(printable(text))
    return result


def _setting(name: str, value: Any) -> str:
    if name == "data" and isinstance(value, str):
        return Path(value).name if Path(value).is_absolute() else value
    # These values explain themselves.
    return str(value) if name in ("data", "preset", "model", "puppeteer") else f"{name.replace('_', ' ')} {value}"
