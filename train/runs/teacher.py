"""Distillation: the trained model that another one learns from."""

from typing import Any

from train.config import ResolvedConfig
from train.errors import UserError
from train.runs import run_folder
from train.runs.source import PARAMETERS, locate
from train.runs.trained import Trained, open_run


def teacher_of(config: ResolvedConfig, shape: dict[str, Any]) -> Trained | None:
    """What ``config.teacher`` names; for a run that is resumed, the same as it began with.

    Args:
        shape: what the new model is made for (:func:`train.build.build`).

    Raises:
        UserError: it cannot be opened, is still being trained, is for other images or classes, or is not what the run
            began with.
    """
    if config.teacher is None:
        return None
    source = locate(config.teacher)
    if source.is_dir() and not run_folder.finished(source):
        raise UserError(
            f"--teacher {config.teacher}: this run has not ended, and what it teaches would change; train it to its "
            f"end, or name a copy of its {PARAMETERS}"
        )
    trained = open_run(source)
    for name, needed in shape.items():
        if (told := trained.about["model"].get(name)) != needed:
            raise UserError(f"--teacher {config.teacher}: {name} is {told} of the teacher, {needed} of the data")
    if config.resume is not None:
        recorded = run_folder.described(config.resume).teacher
        if recorded not in (None, trained.digest()):
            raise UserError(
                f"--teacher {config.teacher}: not the model that the run began to learn from; put that back, or "
                "train anew"
            )
    return trained
