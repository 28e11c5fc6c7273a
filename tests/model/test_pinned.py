"""Page-locked memory, from a runtime that takes it from the C library: no GPU is needed."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from typing import Any

import numpy as np
import pytest

from model.bundle import Bundle
from model.engine import Engine
from model.pinned import PinnedMemory, host_memory, plain
from model.row_matcher import RowMatcher
from model.samples import noise


class Runtime:
    """`cudaHostAlloc` and `cudaFreeHost` over the C library's memory.

    `error` is what `cudaGetLastError` would say, as it does until it was asked.
    """

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.error = 0
        self.held: dict[int, int] = {}
        self.asked: list[tuple[int, int]] = []
        pointer = ctypes.POINTER(ctypes.c_void_p)
        allocator = ctypes.CFUNCTYPE(ctypes.c_int, pointer, ctypes.c_size_t, ctypes.c_uint)
        self.cudaHostAlloc = allocator(self._allocate)
        self.cudaFreeHost = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(self._free)
        self.cudaGetLastError = ctypes.CFUNCTYPE(ctypes.c_int)(self._last_error)
        self._c = ctypes.CDLL(None)
        self._c.malloc.restype = ctypes.c_void_p
        self._c.malloc.argtypes = [ctypes.c_size_t]
        self._c.free.argtypes = [ctypes.c_void_p]

    def _allocate(self, address: Any, size: int, flags: int) -> int:
        self.asked.append((size, flags))
        if self.status:
            self.error = self.status
            return self.status
        found = self._c.malloc(size)
        address[0] = found
        self.held[found] = size
        return 0

    def _last_error(self) -> int:
        error, self.error = self.error, 0
        return error

    def _free(self, address: int) -> int:
        del self.held[address]
        self._c.free(address)
        return 0


def test_it_is_of_the_runtime_and_can_be_written() -> None:
    runtime = Runtime()
    found = PinnedMemory(runtime).allocate(1000)
    assert found.shape == (1000,)
    assert found.dtype == np.uint8
    assert found.flags.writeable
    assert runtime.held == {found.ctypes.data: 1000}
    assert runtime.asked == [(1000, 1)]  # portable
    found[:] = 7
    assert found.sum() == 7000


def test_it_is_freed_with_the_last_array_of_it() -> None:
    runtime = Runtime()
    memory = PinnedMemory(runtime)
    first, second = memory.allocate(64), memory.allocate(128)
    part = first.view(np.float32)[4:8].reshape(2, 2)
    del first
    gc.collect()
    assert sorted(runtime.held.values()) == [64, 128]
    part[:] = 1.5
    del part
    gc.collect()
    assert list(runtime.held) == [second.ctypes.data]


def test_where_no_more_can_be_locked_it_is_plain(caplog: pytest.LogCaptureFixture) -> None:
    runtime = Runtime(status=2)  # cudaErrorMemoryAllocation
    memory = PinnedMemory(runtime)
    with caplog.at_level(logging.WARNING, "fashionbert.engine"):
        found = [memory.allocate(1 << 20) for _ in range(3)]
    for each in found:
        each[:] = 3  # it is there
    assert runtime.error == 0, "whoever asks next would take it for a failure of its own"
    (record,) = caplog.records
    assert "1,048,576 bytes" in record.getMessage()
    assert "error 2" in record.getMessage()
    assert not runtime.held
    runtime.status = 0
    again = memory.allocate(16)  # what another process gave back is taken
    assert list(runtime.held) == [again.ctypes.data]


def test_passes_are_gathered_into_it_again_and_again(row_bundle: Bundle) -> None:
    engine, runtime = Engine(row_bundle, threads=1), Runtime()
    samples = noise(engine.image_size, 12)
    texts = engine.encode_texts(samples.texts).states
    images = engine.encode_images(samples.pixels).states
    wanted = engine.match(texts, images)
    engine._rows = RowMatcher(engine._matcher, PinnedMemory(runtime).allocate)
    np.testing.assert_array_equal(engine.match(texts, images), wanted)
    sizes = [size for size, _ in runtime.asked]
    assert len(sizes) >= 4
    assert all(size & (size - 1) == 0 for size in sizes)
    for count in (12, 7, 11):
        found = engine.match(texts[:count], images[:count])
        np.testing.assert_allclose(found, wanted[:count], atol=1e-5)
    assert len(runtime.asked) == len(sizes)  # nothing more was needed
    del engine
    gc.collect()
    assert not runtime.held


def test_a_processor_has_plain_memory() -> None:
    assert host_memory("cpu") is plain
    assert plain(10).shape == (10,)


def test_a_gpu_without_the_runtime_s_library(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with caplog.at_level(logging.WARNING, "fashionbert.engine"):
        assert host_memory("cuda") is plain
    assert "libcudart.so.12" in caplog.text
    assert "longer" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="the C library has another name")
def test_a_library_that_is_not_the_runtime_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, runtime = ctypes.CDLL, Runtime()
    libraries = {"libcudart.so.12": real("libc.so.6"), "libcudart.so.13": runtime}
    monkeypatch.setattr(ctypes, "CDLL", libraries.__getitem__)
    found = host_memory("cuda")(32)
    assert list(runtime.held) == [found.ctypes.data]
