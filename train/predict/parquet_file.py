"""Predictions as a Parquet file: collected as lines of JSON beside it, and written whole at the end.

A Parquet file cannot be appended to, so ``FILE.jsonl`` is what a later process continues. While it exists it holds
everything that the Parquet file holds, and more.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from train import atomic_file
from train.errors import UserError
from train.predict.jsonl_file import about_path, check, whole_lines, write_about
from train.runs.reading import parse_object
from train.terminal import printable

KEY = b"puppet_jax.predictions"
# Lines that are in memory at a time.
ROWS = 8192


def pyarrow() -> Any:
    """The package, with its Parquet part.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "--output: the Python package pyarrow is missing, which writes Parquet; install it with: pip install "
            "pyarrow. Or name a file that ends in .jsonl"
        ) from error
    return pyarrow


def lines_path(path: Path) -> Path:
    """The path of ``FILE.jsonl``."""
    return path.with_name(path.name + ".jsonl")


def unpack(path: Path, about: dict[str, Any]) -> bool:
    """Turn a Parquet file into lines of JSON again, to continue it; does nothing if there are lines, or no file.

    Returns:
        whether the Parquet file holds all lines.

    Raises:
        UserError: the file comes from something else, or not from this command.
    """
    lines = lines_path(path)
    if lines.exists() or not path.exists():
        return False
    pa = pyarrow()
    try:
        with (
            pa.parquet.ParquetFile(path) as table,
            atomic_file.replacing(lines) as temporary,
            open(temporary, "w") as file,
        ):
            metadata = table.schema_arrow.metadata or {}
            if KEY not in metadata:
                raise UserError(
                    f"--output: {printable(path)} is there already, and not from this command; name another file"
                )
            found = parse_object(metadata[KEY].decode(errors="replace"), printable(path))
            check(path, found, about)
            for part in table.iter_batches(ROWS):
                for row in part.to_pylist():
                    file.write(json.dumps({name: value for name, value in row.items() if value is not None}) + "\n")
            write_about(lines, found)  # first: it is harmless without lines
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"--output: {printable(path)} cannot be read ({printable(reason)}); name another file"
        ) from error
    return True


def pack(path: Path, about: dict[str, Any]) -> None:
    """The Parquet file of all lines, whole or not at all."""
    pa = pyarrow()
    each = pa.struct([("class", pa.string()), ("probability", pa.float64())])
    schema = pa.schema(
        [
            ("image", pa.string()),
            ("class", pa.string()),
            ("probability", pa.float64()),
            ("complexity_bits", pa.float64()),
            ("depth", pa.int32()),
            ("top", pa.list_(each)),
            ("error", pa.string()),
        ],
        metadata={KEY: json.dumps(about)},
    )
    try:
        with (
            atomic_file.replacing(path) as temporary,
            open(temporary, "wb") as file,
            pa.parquet.ParquetWriter(file, schema) as writer,
        ):
            for rows in _parts(lines_path(path)):
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    except OSError as error:
        raise UserError(
            f"--output: {printable(path)} cannot be written ({error.strerror or error}); the predictions are in "
            f"{printable(lines_path(path))}: put that right, and the same command goes on from there"
        ) from error


def drop_lines(path: Path) -> None:
    """Delete the lines, which the Parquet file holds."""
    lines = lines_path(path)
    lines.unlink()  # first: lines without FILE.about would be refused, FILE.about without lines is harmless
    about_path(lines).unlink(missing_ok=True)


def _parts(lines: Path) -> Iterator[list[dict[str, Any]]]:
    rows = map(json.loads, whole_lines(lines))
    while part := list(islice(rows, ROWS)):
        yield _storable(part)


def _storable(value: Any) -> Any:
    """Parquet's strings are UTF-8: bytes of a file's name that are not become escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_storable(each) for each in value]
    return {name: _storable(each) for name, each in value.items()} if isinstance(value, dict) else value
