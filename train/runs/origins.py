"""The trained models that a run builds on: the one whose parameters it begins with, the one that it learns from."""

import sys
from pathlib import Path
from typing import Any

import jax
from flax import nnx

import puppet_jax as pj
from puppet_jax._pretrained import PARAMETERS, assign, flat, leaf_name
from train.config import OF_MODEL, Config, ResolvedConfig
from train.errors import UserError
from train.runs import run_folder
from train.runs.model_file import About, Trained, open_run, outline
from train.runs.source import locate


def defaults(source: Path, asked: Config) -> dict[str, Any]:
    """What a configuration takes over from the model that it starts from, where it does not say otherwise."""
    config = open_run(source).config
    named = {"preset", "model"} if asked.model or asked.preset else set()
    return {field: getattr(config, field) for field in OF_MODEL if field not in named}


def begin_with(model: pj.PuppetCNN, config: ResolvedConfig, about: About) -> str:
    """Put the parameters of the model that ``config.start_from`` names into a new one, in place.

    With other classes, or another order of them, the parameters whose shape depends on their number (the head) stay as
    they were drawn. ``about`` describes the new model.

    Returns:
        the digest of that model.
    """
    flag = f"--start-from {config.start_from}"
    trained = _open(flag, config.start_from or "", config)
    channels, needed = trained.about.create.in_channels, about.create.in_channels
    if channels != needed:
        raise UserError(
            f"{flag}: a model of images of {channels} channels, the data have {needed}; convert the images, or train "
            "anew"
        )
    arrays = flat(nnx.state(trained.model, nnx.Param))
    if trained.about.class_names != about.class_names:
        print(f"note: {flag}: its classes are others, so the head is drawn anew", file=sys.stderr)
        own, more = (_shapes(outline(about, about.create.num_classes + extra)) for extra in (0, 1))
        head = {name for name, shape in own.items() if more.get(name) != shape}
        arrays |= {name: array for name, array in flat(nnx.state(model, nnx.Param)).items() if name in head}
    try:
        assign(model, arrays)
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from error
    return trained.digest()


def teacher_of(config: ResolvedConfig, about: About) -> Trained | None:
    """What ``config.teacher`` names, for the model that ``about`` describes; refused if it is still being trained, is
    for other images or classes, or is not what a resumed run began with."""
    if config.teacher is None:
        return None
    flag = f"--teacher {config.teacher}"
    trained = _open(flag, config.teacher, config)
    if trained.source.is_dir() and not run_folder.finished(trained.source):
        raise UserError(
            f"{flag}: this run has not ended, and what it teaches would change; train it to its end, or name a copy of "
            f"its {PARAMETERS}"
        )
    both = [
        {"in_channels": x.create.in_channels, "image_size": x.image_size, "class_names": ", ".join(x.class_names)}
        for x in (trained.about, about)
    ]
    for name, told in both[0].items():
        if told != both[1][name]:
            raise UserError(f"{flag}: {name} is {told} of the teacher, {both[1][name]} of the data")
    if config.resume is not None and run_folder.described(config.resume).teacher not in (None, trained.digest()):
        raise UserError(f"{flag}: not the model that the run began to learn from; put that back, or train anew")
    return trained


def _open(flag: str, name: str, config: ResolvedConfig) -> Trained:
    try:
        return open_run(locate(name))
    except UserError as error:
        moved = "; if it lies elsewhere now, name that by the flag" if config.resume is not None else ""
        raise UserError(f"{flag}: {error}{moved}") from error


def _shapes(model: pj.PuppetCNN) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(nnx.state(model, nnx.Param))
    return {leaf_name(path): leaf.shape for path, leaf in leaves}
