"""The compiled part, once for each kind of processor; everything else is in pyproject.toml.

It is optional: without a C compiler, or for another processor, the package installs without it and
ONNX Runtime does its work. `model/native/library.py` asks the processor which one to load.
"""

import runpy
from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("model/native")
# Compiled in, so that code which is left over from other sources is not taken.
SOURCES = runpy.run_path(str(FOLDER / "sources.py"))["digest"](FOLDER)
FLAGS = ["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden"]
FEATURES = {
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
}

setup(
    ext_modules=[
        Extension(
            f"model._matcher_{build}",  # loaded by ctypes, so it needs no Python headers
            [str(FOLDER / "matcher.c")],
            depends=[str(header) for header in sorted(FOLDER.glob("*.h"))],
            define_macros=[("SOURCES", SOURCES)],
            extra_compile_args=[*FLAGS, *features],
            libraries=["m"],
            optional=True,
        )
        for build, features in FEATURES.items()
    ]
)
