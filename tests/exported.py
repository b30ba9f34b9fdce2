"""Export files made to be something else, and the module path without this repository."""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

import puppet_jax as pj

PICKLED = (
    b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\n" + b"cos\n"
)


def rewritten(file, path, change=lambda metadata, contents: None, compression=zipfile.ZIP_STORED):
    """The file with something changed and every checksum right again."""
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(contents.pop("metadata.json"))
    change(metadata, contents)
    metadata["files"] = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in {"metadata.json": json.dumps(metadata), **contents}.items():
            archive.writestr(name, content)
    return path


def program_of(function):
    exported = jax.export.export(jax.jit(function), platforms=("cpu",))(jnp.eye(3))
    return bytes(exported.serialize())


def entry(name, value):
    return lambda metadata, contents: metadata.update({name: value})


def part(name, value):
    return lambda metadata, contents: contents.update({name: value() if callable(value) else value})


def kept_paths():
    """What of the module path is not this repository: flatbuffers may be installed beside."""
    root = str(Path(pj.__file__).parents[1])
    paths = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.abspath(each) != root]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
