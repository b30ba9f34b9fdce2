"""``python -m train``: finds the command and runs it.

Exit codes, of all commands:

====  ==================================================================================================
0     done
1     done in part: the loss diverged or another process was lost (train); images (predict) or runs (plot) could
      not be read
2     something to put right: a flag, a data set, a folder, a file; the message says what
130   interrupted by Ctrl-C
141   the reader of the output closed it, as ``| head`` does
143   terminated by SIGTERM
====  ==================================================================================================
"""

import contextlib
import difflib
import importlib
import io
import os
import signal
import sys

from train.errors import UserError
from train.host import is_own
from train.huge_pages import ask_for_huge_pages
from train.steps.interrupt import installed
from train.terminal import printable

# The module in train/commands/ and the class of the options; train parses its arguments itself.
COMMANDS = {
    "train": ("train", ""),
    "eval": ("evaluate", "Evaluate"),
    "predict": ("predict", "Predict"),
    "plot": ("plot", "Plot"),
    "release": ("release", "Release"),
    "export": ("export", "Export"),
}

OVERVIEW = """\
commands: python -m train [COMMAND] …, each with a --help of its own
    [train] [FLAGS]        train a model, with the flags below
    eval RUN               measure a run's model again on its data set
    predict RUN IMAGE…     class, probability, complexity and depth of images in files and folders
    plot RUN…              compare runs in a figure and a table
    release RUN            write a run's model as a file for puppet_jax.load_pretrained, with a model card
    export RUN FILE        write a run's model as one file that runs without this project, by jax alone
RUN is the folder of a run; for eval, predict and export also a pretrained model's name, or a released .safetensors
exit codes: 0 done; 1 done in part (diverged; images or runs that could not be read); 2 something to put right;
    130 interrupted; 141 output closed by its reader; 143 terminated
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line ``arguments`` (``None`` for the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot show is shown escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # here, where a closed pipe is caught
    except BrokenPipeError:
        if is_own():
            # Discard what is still buffered, which the interpreter would otherwise fail to write at its end.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder without permission, a name that is too long
        where = f"{printable(error.filename)}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    command = "train"
    if arguments and not arguments[0].startswith("-"):
        command, *arguments = arguments
    if command == "train":
        if {"-h", "--help"} & set(arguments):
            print(OVERVIEW, flush=True)
        from train.commands.train import launch

        return launch(arguments)  # which handles signals itself
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"no command {printable(command)!r}, expected one of {', '.join(COMMANDS)}{meant}")
    with installed(lambda *_: sys.exit(143), (signal.SIGTERM,)):  # an exception, so that cleanup code runs
        return _parse_and_run(command, arguments)


def _parse_and_run(command: str, arguments: list[str]) -> int:
    # A command's module is imported only when the command is run, and imports what takes seconds (jax, matplotlib) only
    # after it has checked its arguments, so that help and refusals come at once.
    import tyro

    name, options = COMMANDS[command]
    module = importlib.import_module(f"train.commands.{name}")
    flags = (tyro.conf.FlagCreatePairsOff,)
    return module.run(
        tyro.cli(getattr(module, options), prog=f"python -m train {command}", args=arguments, config=flags)
    )


if __name__ == "__main__":
    ask_for_huge_pages()
    sys.exit(main())
