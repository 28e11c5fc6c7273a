"""The compiled part; everything else is in pyproject.toml.

It is optional: without a C compiler, or for another processor, the package installs without it and
ONNX Runtime does its work. `model/native/library.py` asks the processor before it loads it.
"""

import runpy
from pathlib import Path

from setuptools import Extension, setup

FOLDER = Path("model/native")
# Compiled in, so that code which is left over from other sources is not taken.
SOURCES = runpy.run_path(str(FOLDER / "sources.py"))["digest"](FOLDER)
FLAGS = ["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden"]
FEATURES = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma"]

setup(
    ext_modules=[
        Extension(
            "model._matcher",  # loaded by ctypes: no Python.h, so it needs no Python headers
            [str(FOLDER / "matcher.c")],
            depends=[str(header) for header in sorted(FOLDER.glob("*.h"))],
            define_macros=[("SOURCES", SOURCES)],
            extra_compile_args=[*FLAGS, *FEATURES],
            libraries=["m"],
            optional=True,
        )
    ]
)
