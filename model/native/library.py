"""The compiled code: found, and loaded where the processor runs it."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import platform
from dataclasses import dataclass
from pathlib import Path

from model.native.sources import digest
from model.processor import CPUS, is_x86, processor_flags

#: The builds, the fastest first, and what each is compiled for (setup.py), as Linux names it.
BUILDS = {
    "avx512": frozenset(("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma")),
    "avx2": frozenset(("avx2", "fma")),
}


class NotCompiledError(Exception):
    """There is no compiled matcher to use; says why."""


@dataclass(frozen=True, slots=True)
class Library:
    """One build.

    Args:
        build: its name.
        code: its functions, as matcher.c has them.
        panel: columns of a packed panel.
        together: values of K that lie together in 8 bits (products.h).
        least: the least value of an activation of 8 bits, which is 0 in ONNX.
    """

    build: str
    code: ctypes.CDLL
    panel: int
    together: int
    least: int


def builds_for_processor(machine: str = platform.machine(), cpus: Path = CPUS) -> list[str]:
    """The builds that this processor runs, the fastest first; at least one.

    Args:
        machine: the processor's architecture.
        cpus: Linux's list of processors.

    Raises:
        NotCompiledError: it runs none, or nothing tells.
    """
    if not is_x86(machine):
        raise NotCompiledError(f"it is not for this {machine} processor")
    flags = processor_flags(cpus)
    if not flags:
        raise NotCompiledError(f"{cpus} does not tell what this processor can do")
    builds = [build for build, needed in BUILDS.items() if needed <= flags]
    if not builds:
        missing = min((needed - flags for needed in BUILDS.values()), key=len)
        raise NotCompiledError(f"this processor has no {', '.join(sorted(missing))}")
    return builds


@functools.cache
def load() -> Library:
    """The fastest build that this processor runs, of those that there are.

    Raises:
        NotCompiledError: it was not compiled when the package was installed, the processor does not
            run it, or it is of another version.
    """
    builds = builds_for_processor()
    for build in builds[:-1]:
        try:
            return load_build(build)
        except NotCompiledError:
            continue
    return load_build(builds[-1])


def load_build(build: str) -> Library:
    """One of the builds that this processor runs.

    Raises:
        NotCompiledError: there is none that can be loaded.
    """
    found = importlib.util.find_spec(f"model._matcher_{build}")
    if found is None or found.origin is None:
        raise NotCompiledError(
            "it was not compiled when fashionbert was installed: with a C compiler there, install "
            "it again (pip install --force-reinstall --no-deps --no-cache-dir)"
        )
    try:
        code = ctypes.CDLL(found.origin)
        code.matcher_sources.restype = ctypes.c_char_p
        sources = code.matcher_sources().decode()
    except (OSError, AttributeError) as error:
        raise NotCompiledError(f"{found.origin} cannot be loaded: {error}") from error
    if sources != digest():
        raise NotCompiledError(
            f"{found.origin} was compiled from other sources than those that are here: install "
            "fashionbert again"
        )
    code.match_room.restype = ctypes.c_size_t
    code.match_pairs.restype = None
    packing = (code.matcher_panel(), code.matcher_together(), code.matcher_least())
    return Library(build, code, *packing)
