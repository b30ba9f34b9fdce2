"""Builds the CPU convolution where there is a C++ compiler; without one the package works, with XLA's own (slower)."""

import importlib.util
import sys
from pathlib import Path

from setuptools import Extension, setup

_HERE = Path("puppet_jax/convolution/native")


def extensions() -> list[Extension]:
    jaxlib = importlib.util.find_spec("jaxlib")
    if jaxlib is None or sys.platform == "win32":  # XLA's headers; GCC's and Clang's vector types
        return []
    return [
        Extension(
            "puppet_jax.convolution.native._program",
            sources=[str(_HERE / "convolution.cc")],
            depends=[str(_HERE / name) for name in ("factors.inc", "kernels.inc", "tiles.inc", "winograd.inc")],
            include_dirs=[str(Path(jaxlib.submodule_search_locations[0]) / "include")],
            extra_compile_args=["-std=c++20", "-O3", "-DNDEBUG", "-w"],
            language="c++",
            optional=True,
        )
    ]


setup(ext_modules=extensions())
