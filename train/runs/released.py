"""What the file of a released model says about it, as a run's parameters would say it."""

import dataclasses
import json
from typing import Any

from puppet_jax._pretrained import FORMAT, KEY
from train.config import Config
from train.errors import UserError
from train.runs.reading import parse_object

__all__ = ["KEY", "as_run"]


def as_run(text: str, name: str) -> dict[str, Any]:
    """The description of a released file in the form of a run's (``config``, ``model``, ``images``), to be checked like
    one; and as ``released`` all that the file says.

    Args:
        text: the JSON that the file has under :data:`KEY`.
        name: of the file, for errors.

    Raises:
        UserError: it is of another version, or something is missing.
    """
    about = parse_object(text, name)
    if about.get("format") != FORMAT:
        raise UserError(f"{name}: of another version (format {str(about.get('format'))[:60]!r}, expected {FORMAT!r})")
    try:
        made, recipe = about["create"], about["recipe"]
        known = {field.name for field in dataclasses.fields(Config)}  # the recipe may be of another version
        config = {key: value for key, value in recipe.items() if key in known}
        # The preset's own options are among those told here, so that a later version's do not count.
        config |= {
            "data": about["data"],
            "preset": made.get("name"),
            "puppeteer": made["puppeteer"],
            "puppeteer_options": json.dumps(made["puppeteer_options"]),
            "measurement": made["measurement"],
        }
        config |= {key: made.get(key) for key in ("model", "batch_norm", "compression", "width")}
        model = {"num_classes": made["num_classes"], "in_channels": made["in_channels"]}
        model["image_size"] = about["image_size"]
        images = {"size": about["image_size"], "class_names": about["class_names"]}
        earlier = [run | {"recipe": recipe | run["but"]} for run in about.get("earlier", [])]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{name}: its header is damaged ({type(error).__name__}: {error})") from error
    return {"config": config, "model": model, "images": images, "earlier": earlier, "released": about}
