"""Where a trained model lies that a command is given: in a run's folder, in a file, or in the package."""

import difflib
import importlib.util
from pathlib import Path

from train.errors import UserError
from train.terminal import printable

SUFFIX = ".safetensors"
PARAMETERS = "params.safetensors"


def locate(name: str | Path) -> Path:
    """The folder of a run, or the file of a released or pretrained model; refused if it is none of these. Nothing heavy
    is imported.

    Args:
        name: a folder, a ``.safetensors`` file, or one of :func:`puppet_jax.list_pretrained`. A folder or file of that
            name goes before a pretrained model: write another path to it, such as ``./NAME``, to be sure.
    """
    path = Path(name)
    package = importlib.util.find_spec("puppet_jax")  # found, not imported
    folders = (package.submodule_search_locations if package else None) or []
    pretrained = {file.stem: file for folder in folders for file in sorted(Path(folder, "weights").glob(f"*{SUFFIX}"))}
    try:
        if path.is_dir() or (path.exists() and path.suffix == SUFFIX):
            return path
        found = f"is no folder, and no {SUFFIX} file" if path.exists() else "does not exist"
    except (OSError, ValueError) as error:  # a name that is too long, or no name at all
        found = f"cannot be read ({error})"
    if str(name) in pretrained and found == "does not exist":
        return pretrained[str(name)]
    near = difflib.get_close_matches(str(name), pretrained, n=1)
    raise UserError(
        f"{printable(name)} {found}, expected the folder of a run (python -m train names it in its last line), a "
        f"released {SUFFIX} file, or a pretrained model ({', '.join(pretrained)})"
        f"{f'; did you mean {near[0]}?' if near else ''}"
    )


def parameters_file(path: Path) -> Path:
    """The file with the parameters of what :func:`locate` has found; refused if the run has none yet."""
    if path.suffix == SUFFIX and not path.is_dir():
        return path
    file = path / PARAMETERS
    if not file.exists():
        raise UserError(f"{printable(file)}: no such file yet; the run writes it at the end of its first epoch")
    return file
