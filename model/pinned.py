"""Page-locked memory of the host, from which a GPU copies without the driver's own copy between.

ONNX Runtime's Python makes none in the versions for CUDA 12 (1.23 to 1.26), so it is asked of the
CUDA runtime itself, whose library is in the process once a session is on the GPU (`cudaHostAlloc`,
https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__MEMORY.html). Copies from it are the
same calls: the driver knows such addresses. Where there is none to be had, plain memory does the
same, slower.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Gives so many bytes, uint8 [n], that hold anything.
Allocate = Callable[[int], NDArray[np.uint8]]

_LIBRARIES = ("libcudart.so.12", "libcudart.so.13")
_PORTABLE = 1  # cudaHostAllocPortable: page-locked for every context, whichever thread asks

_logger = logging.getLogger("fashionbert.engine")


def plain(size: int) -> NDArray[np.uint8]:
    """Memory as NumPy has it."""
    return np.empty(size, dtype=np.uint8)


def host_memory(device: str) -> Allocate:
    """What gives the memory that passes on a device are gathered into.

    Args:
        device: `cpu`, whose memory is plain, or `cuda`.
    """
    if device != "cuda":
        return plain
    for name in _LIBRARIES:
        try:
            return PinnedMemory(ctypes.CDLL(name)).allocate
        except (OSError, AttributeError):  # no such file, or another library of that name
            continue
    _logger.warning(
        "host memory is not page-locked, as %s cannot be loaded: copies to the GPU take longer",
        " or ".join(_LIBRARIES),
    )
    return plain


class PinnedMemory:
    """Page-locked memory. Safe to use from several threads.

    Args:
        runtime: the CUDA runtime's library.

    Raises:
        AttributeError: it has not the three functions.
    """

    def __init__(self, runtime: Any) -> None:
        self._allocate, self._free = runtime.cudaHostAlloc, runtime.cudaFreeHost
        self._forget = runtime.cudaGetLastError
        self._allocate.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_uint]
        self._free.argtypes = [ctypes.c_void_p]
        self._allocate.restype = self._free.restype = ctypes.c_int
        self._refused = False

    def allocate(self, size: int) -> NDArray[np.uint8]:
        """So many bytes, freed when nobody has an array of them any more.

        Plain memory where the system has no more to lock: the log says so, once.
        """
        address = ctypes.c_void_p()
        status = self._allocate(ctypes.byref(address), size, _PORTABLE)
        if status != 0 or address.value is None:
            self._forget()  # else ONNX Runtime finds it after a kernel, and fails its pass
            if not self._refused:
                _logger.warning(
                    "%s bytes of host memory cannot be page-locked (cudaHostAlloc: error %d): "
                    "copies to the GPU take longer",
                    f"{size:,}",
                    status,
                )
            self._refused = True
            return plain(size)
        memory = (ctypes.c_ubyte * size).from_address(address.value)
        # Not at the end of the process, where CUDA may be gone and the system frees it anyway.
        weakref.finalize(memory, self._free, address).atexit = False
        return np.frombuffer(memoryview(memory), dtype=np.uint8)
