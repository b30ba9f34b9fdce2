"""A function by its name, ``package.module:function``: how a configuration or a file names a CNN or a puppeteer of the
user's own."""

import importlib
import re
import sys
from collections.abc import Callable
from typing import Any


def is_function_name(text: str) -> bool:
    """Whether a text has the form ``package.module:function``."""
    return bool(re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", text))


def named_function(name: str) -> Callable[..., Any]:
    """Import the function of that name.

    The name may come from somebody else's file, so modules of Python itself, which have functions that do harm, are
    refused. All else that can be imported runs when it is imported, as whatever is installed here.

    Raises:
        ValueError: it has another form, its module cannot be imported from here, or has no such function.
    """
    module, _, attribute = name.partition(":")
    if not is_function_name(name) or module.partition(".")[0] in sys.stdlib_module_names:
        raise ValueError(
            f"{name[:80]!r} names no function, expected MODULE:FUNCTION, for example my_package.nets:resnet20"
        )
    try:
        found = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:  # whatever the module raises
        raise ValueError(
            f"{name}: cannot be imported here ({type(error).__name__}: {error}); start in the folder that has "
            f"{module}, install its package, or put its folder into PYTHONPATH"
        ) from error
    if not callable(found):
        raise ValueError(f"{name}: is a {type(found).__name__}, expected a function")
    return found
