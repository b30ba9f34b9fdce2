"""``python bench/c_code.py MODEL.onnx MODEL.c``: an ONNX file of one image as C99 that allocates nothing.

emx-onnx-cgen writes the C, with an array of its own for every intermediate result. Here they share one static array,
each in it from the call that writes it to the last one that reads it.
"""

import math
import re
import subprocess
import sys
from pathlib import Path

_BYTES = {"bool": 1, "int8_t": 1, "uint8_t": 1, "int32_t": 4, "float": 4, "int64_t": 8, "double": 8}
_ARRAY = re.compile(r"^    (\w+) (tmp\w+?)((?:\[\d+\])+);\n", flags=re.M)
_COPIES = re.compile(r"    node\d+_(?:reshape|squeeze|unsqueeze)\((tmp\w+), (tmp\w+)\);")


def write(model: Path, file: Path) -> int:
    """Write the C, whose function is named as the file, and return how many bytes its static array has."""
    inside = "--large-temp-threshold", "0", "--large-weight-threshold", "0", "--no-restrict-arrays"
    command = [sys.executable, "-m", "emx_onnx_cgen", "compile", *inside, "--model-name", file.stem, model, file]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    code, memory = _sharing(file.read_text())
    file.write_text(code)
    return memory


def _sharing(code: str) -> tuple[str, int]:
    begin = code.rindex("\nvoid ") + 1
    head, body = code[:begin], code[begin:]
    arrays = {name: (kind, [int(n) for n in re.findall(r"\d+", sizes)]) for kind, name, sizes in _ARRAY.findall(body)}
    lines = _ARRAY.sub("", body).splitlines(keepends=True)
    used: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        for each in re.findall(r"\btmp\w+", line):
            used.setdefault(each, [number, number])[1] = number
    same = {each: each for each in used}  # what takes the place of another array, of which it is a copy
    for number, line in enumerate(lines):
        if (copy := _COPIES.match(line)) and used[same[copy[1]]][1] == number:
            same[copy[2]] = same[copy[1]]
            used[same[copy[1]]][1] = used[copy[2]][1]
    places: dict[str, tuple[int, int]] = {}
    size_of = {each: 16 * -(-_BYTES[kind] * math.prod(sizes) // 16) for each, (kind, sizes) in arrays.items()}
    for each in sorted(dict.fromkeys(same.values()), key=size_of.__getitem__, reverse=True):
        place = 0
        for other, (start, end) in sorted(places.items(), key=lambda item: item[1]):
            alive = used[other][0] <= used[each][1] and used[each][0] <= used[other][1]
            if alive and start < place + size_of[each] and place < end:
                place = end
        places[each] = place, place + size_of[each]
    memory = max(end for _, end in places.values())
    pointers = []
    for each, (kind, sizes) in arrays.items():
        rest, place = "".join(f"[{n}]" for n in sizes[1:]), places[same[each]][0] // 16
        pointers.append(f"    {kind} (*{each}){rest} = (void *)(memory + {place});\n")
    static = f"static struct {{ double pair[2]; }} memory[{memory // 16}];\n\n"
    return "".join([head, static, lines[0], *pointers, *lines[1:]]), memory


if __name__ == "__main__":
    print(f"memory: {write(*map(Path, sys.argv[1:])):,} bytes, static")
