"""Distillation: the trained model that another one learns from."""

from typing import Any

import puppet_jax as pj
from train.config import ResolvedConfig
from train.errors import UserError
from train.runs.source import locate
from train.runs.trained import open_run


def teacher_of(config: ResolvedConfig, shape: dict[str, Any]) -> pj.PuppetCNN | None:
    """The model that ``config.teacher`` names, in evaluation mode.

    Args:
        shape: what the new model is made for (:func:`train.build.build`).

    Raises:
        UserError: it cannot be opened, or is for other images or classes.
    """
    if config.teacher is None:
        return None
    trained = open_run(locate(config.teacher))
    for name, needed in shape.items():
        if (told := trained.about["model"].get(name)) != needed:
            raise UserError(f"--teacher {config.teacher}: {name} is {told} of the teacher, {needed} of the data")
    return trained.model
