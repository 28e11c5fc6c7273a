"""Compile and register the device of `device.cpp`."""

from __future__ import annotations

import os
import subprocess
import types
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

NAME = "pretended"
_SOURCE = Path(__file__).with_name("device.cpp")


def register(folder: Path) -> torch.device:
    """Make the device known to torch, once in a process.

    Args:
        folder: where the compiled library is put, and taken from if it is newer than its source.

    Raises:
        subprocess.CalledProcessError: the C++ compiler, `CXX` or `c++`, ends with an error.
        FileNotFoundError: there is none.
    """
    library = folder / f"{NAME}-{torch.__version__}.so"
    if not library.exists() or library.stat().st_mtime < _SOURCE.stat().st_mtime:
        folder.mkdir(parents=True, exist_ok=True)
        _compile(library)
    torch.ops.load_library(library)
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _Module(NAME))
    torch.utils.generate_methods_for_privateuse1_backend()
    _save_through_host()
    return torch.device(NAME, 0)


def _compile(library: Path) -> None:
    part = library.with_suffix(f".{os.getpid()}")
    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-O1", "-w", "-shared", "-fPIC"]
    command += [f"-I{path}" for path in include_paths()]
    command += [str(_SOURCE), "-o", str(part), "-lc10", "-ltorch_cpu"]
    command += [f"-L{path}" for path in library_paths()]
    subprocess.run(command, check=True)
    part.replace(library)


class _Module(types.ModuleType):
    """`torch.pretended`, as torch and accelerate ask of it."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _save_through_host() -> None:
    """Let `torch.save` read the device's storages; for CUDA's it has code of its own."""
    of_others = torch.UntypedStorage.cpu

    def cpu(storage: torch.UntypedStorage) -> torch.UntypedStorage:
        if storage.device.type != NAME:
            return of_others(storage)
        values = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        return values.cpu().untyped_storage()

    torch.UntypedStorage.cpu = cpu
