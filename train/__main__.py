"""``python -m train``: finds the command and runs it.

Exit codes, of all commands:

=============  =========================================================================================
0              done
1              done in part: the loss diverged or another process was lost (train); images could not be
               read (predict)
2              something to put right: a flag, a data set, a folder, a file; the message says what
129, 130, 143  ended by SIGHUP (a closed terminal), by Ctrl-C, by SIGTERM
141            the reader of the output closed it, as ``| head`` does
=============  =========================================================================================
"""

import contextlib
import importlib
import os
import signal
import sys
from typing import Any

import tyro

from train import host
from train.commands import evaluate, export, predict, release
from train.config import Train, in_paragraphs
from train.errors import UserError, missing, told
from train.steps import interrupt
from train.terminal import printable

# The options of each command, and the module in train/commands/ that runs it. These import what takes seconds (jax,
# matplotlib) only after they have checked their arguments, so that help and refusals come at once.
COMMANDS = {
    "train": (Train, "train"),
    "eval": (evaluate.Evaluate, "evaluate"),
    "predict": (predict.Predict, "predict"),
    "release": (release.Release, "release"),
    "export": (export.Export, "export"),
}

OVERVIEW = """\
commands: python -m train [COMMAND] …, each with a --help of its own
    [train] [FLAGS]     train a model, with the flags below
    eval RUN            measure a run's model again on its data set
    predict RUN IMAGE…  class, probability, complexity and depth of images
    release RUN         a file for puppet_jax.load_pretrained, with a model card
    export RUN FILE     one file that runs by jax alone, without this project
RUN is the folder of a run; for eval, predict and export also a pretrained
model's name, or a released .safetensors
exit codes: 0 done; 1 done in part (diverged; images that could not be read); 2
    something to put right; 129 terminal closed; 130 interrupted; 141 output
    closed by its reader; 143 terminated
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments`` (``None`` for the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    host.keep_streams()
    try:
        try:
            with interrupt.raised():
                return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where a closed pipe is caught
    except BrokenPipeError:
        if host.is_own():
            # Discard what is still buffered, which the interpreter would otherwise fail to write at its end.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as error:
        return _end(error, f"error: {error}", error.code)
    except ModuleNotFoundError as error:
        return _end(error, f"error: {missing(error)}", 2)
    except OSError as error:  # a full disk, a folder without permission, a name that is too long
        where = f"{printable(error.filename)}: " if error.filename else ""
        return _end(error, f"error: {where}{error.strerror or error}", 2)
    except KeyboardInterrupt as error:
        return _end(error, "\ninterrupted", 128 + getattr(error, "signum", signal.SIGINT))
    except Exception as error:
        if (why := host.no_backend()) is None:
            raise
        return _end(error, f"error: {why}", 2)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        if {"-h", "--help"} & set(arguments):
            print(OVERVIEW, flush=True)
        arguments = ["train", *arguments]
    options: Any
    settings: Any = {"prog": "python -m train", "config": (tyro.conf.FlagCreatePairsOff,)}
    if arguments[0] == "train":
        options = tyro.cli(Train, args=arguments[1:], **settings)
    else:
        kinds: dict[str, Any] = {name: kind for name, (kind, _) in COMMANDS.items()}
        for kind in kinds.get(arguments[0], Train).__mro__[:-1]:
            in_paragraphs(kind)
        options = tyro.extras.subcommand_cli_from_dict(kinds, args=arguments, **settings)
    name = next(name for kind, name in COMMANDS.values() if type(options) is kind)
    module = importlib.import_module(f"train.commands.{name}")
    # Training reads its flags again, over the settings of the run that they name.
    return module.launch(arguments[1:]) if name == "train" else module.run(options)


def _end(error: BaseException, text: str, code: int) -> int:
    print(told(text, error), file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    host.ask_for_huge_pages()
    host.keep_programs()
    os.environ["MPLBACKEND"] = "agg"  # figures are files, whatever window system is named there, or missing
    sys.exit(main())
