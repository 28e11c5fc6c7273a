"""The compiled code: found, and loaded where the processor runs it."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import platform
from pathlib import Path

from model.native.sources import digest
from model.processor import CPUS, is_x86, processor_flags

#: What the code is compiled for (setup.py), as Linux names it.
NEEDED = frozenset(("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma"))


class NotCompiledError(Exception):
    """There is no compiled matcher to use; says why."""


def check_processor(machine: str = platform.machine(), cpus: Path = CPUS) -> None:
    """Whether this processor runs it.

    Args:
        machine: the processor's architecture.
        cpus: Linux's list of processors.

    Raises:
        NotCompiledError: it does not, or nothing tells.
    """
    if not is_x86(machine):
        raise NotCompiledError(f"it is not for this {machine} processor")
    flags = processor_flags(cpus)
    if not flags:
        raise NotCompiledError(f"{cpus} does not tell what this processor can do")
    missing = NEEDED - flags
    if missing:
        raise NotCompiledError(f"this processor has no {', '.join(sorted(missing))}")


@functools.cache
def load() -> ctypes.CDLL:
    """The library.

    Raises:
        NotCompiledError: it was not compiled when the package was installed, the processor does not
            run it, or it is of another version.
    """
    check_processor()
    found = importlib.util.find_spec("model._matcher")
    if found is None or found.origin is None:
        raise NotCompiledError(
            "it was not compiled when fashionbert was installed: with a C compiler there, install "
            "it again (pip install --force-reinstall --no-deps --no-cache-dir)"
        )
    try:
        library = ctypes.CDLL(found.origin)
        library.matcher_sources.restype = ctypes.c_char_p
        sources = library.matcher_sources().decode()
    except (OSError, AttributeError) as error:
        raise NotCompiledError(f"{found.origin} cannot be loaded: {error}") from error
    if sources != digest():
        raise NotCompiledError(
            f"{found.origin} was compiled from other sources than those that are here: install "
            "fashionbert again"
        )
    library.match_room.restype = ctypes.c_size_t
    library.match_pairs.restype = None
    return library
