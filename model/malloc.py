"""Memory that the C library keeps for the next step, where it would give it back and ask again."""

from __future__ import annotations

import ctypes

# malloc.h of glibc
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_NEVER = -1


def keep_freed_memory() -> bool:
    """Keep what this process frees, from now on, as its own.

    glibc maps each large block anew and gives it back when it is freed. A training step on a
    processor frees and asks for the same gigabytes, which the system then fills with noughts page
    by page: it takes 1.3 times as long (docs/EXPERIMENTS.md). The price is that the process's size
    stays what it was at its largest.

    Returns:
        Whether that was done: not on a C library that has no `mallopt`.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
