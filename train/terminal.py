"""Text for a terminal: untrusted text made harmless, and aligned columns."""

import unicodedata
from collections.abc import Iterable, Sequence


def printable(text: object) -> str:
    """Text from a file, or a file's name, made safe for a terminal: unprintable characters become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def width(text: str) -> int:
    """Columns that printable text takes on a terminal: two for a wide character, none for a combining one."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    """One line of cells padded to their widths, aligned to the right where ``right`` says so; not padded at its end."""
    filled = []
    for cell, wanted, on_the_right in zip(cells, widths, right, strict=True):
        blanks = " " * (wanted - width(cell))
        filled.append(blanks + cell if on_the_right else cell + blanks)
    return "  ".join(filled).rstrip()


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool]) -> str:
    """Header and rows, each column as wide as its widest cell."""
    rows = [header, *rows]
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    return "\n".join(line(row, widths, right) for row in rows)
