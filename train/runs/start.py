"""Fine-tuning: a new run that begins with the parameters of a trained model."""

from pathlib import Path
from typing import Any

import jax
from flax import nnx

import puppet_jax as pj
from train.build import outline
from train.config import OF_MODEL, Config, ResolvedConfig, recipe_of
from train.errors import UserError
from train.runs import parameters, run_folder
from train.runs.source import locate
from train.runs.trained import open_run


def defaults(source: Path, asked: Config) -> dict[str, Any]:
    """What a configuration takes over from the model that it starts from, where it does not say otherwise.

    Raises:
        UserError: the model cannot be opened.
    """
    config = open_run(source).config
    named = {"preset", "model"} if asked.model or asked.preset else set()
    return {field: getattr(config, field) for field in OF_MODEL if field not in named}


def begin_with(model: pj.PuppetCNN, config: ResolvedConfig, shape: dict[str, Any]) -> list[dict[str, Any]]:
    """Put the parameters of the model that ``config.start_from`` names into a new one, in place.

    With another number of classes, the parameters whose shape depends on it (the head) stay as they were drawn.

    Args:
        shape: what the new model is made for (:func:`train.build.build`).

    Returns:
        the runs that made those parameters, each begun with what the next in the list left: of each the ``digest`` of
        its model and its ``recipe``.

    Raises:
        UserError: it cannot be opened, is for images of other channels, does not fit, or is not what the run that is
            resumed began with.
    """
    trained = open_run(locate(config.start_from or ""))
    told = trained.about["model"]
    if told["in_channels"] != shape["in_channels"]:
        raise UserError(
            f"--start-from {config.start_from}: a model of images of {told['in_channels']} channels, the data have "
            f"{shape['in_channels']}; convert the images, or train anew"
        )
    runs = [{"digest": trained.digest(), "recipe": recipe_of(trained.config)}, *trained.earlier()]
    recorded = run_folder.described(config.resume).earlier if config.resume is not None else []
    if recorded and runs[0]["digest"] != recorded[0]["digest"]:
        raise UserError(
            f"--start-from {config.start_from}: not the model that the run began with; put that back, or train anew"
        )
    arrays = parameters.flat(nnx.state(trained.model, nnx.Param))
    if told["num_classes"] != shape["num_classes"]:
        other = outline(config, **shape | {"num_classes": told["num_classes"]})
        of_other, of_this = (_shapes(each) for each in (other, model))
        own = parameters.flat(nnx.state(model, nnx.Param))
        for name, of_head in of_this.items():
            if name in arrays and of_other.get(name) != of_head and arrays[name].shape == of_other.get(name):
                arrays[name] = own[name]
    try:
        parameters.assign(model, arrays)
    except UserError as error:
        raise UserError(f"--start-from {config.start_from}: {error}") from error
    return runs


def _shapes(model: pj.PuppetCNN) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(nnx.state(model, nnx.Param))
    return {parameters.parameter_name(path): leaf.shape for path, leaf in leaves}
