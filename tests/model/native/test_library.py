from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from model.native import library
from model.native.library import NEEDED, NotCompiledError, check_processor, load
from model.native.sources import digest


@pytest.fixture
def fresh() -> Iterator[None]:
    """Loads anew, and leaves nothing of it."""
    load.cache_clear()
    yield
    load.cache_clear()


def cpus(folder: Path, flags: str) -> Path:
    file = folder / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    return file


def test_a_processor_with_all_it_needs(tmp_path: Path) -> None:
    check_processor("x86_64", cpus(tmp_path, " ".join(sorted(NEEDED)) + " amx_int8"))


@pytest.mark.parametrize(
    ("machine", "flags", "told"),
    [
        ("x86_64", "sse2 avx2", "no avx512_vnni, avx512bw"),
        ("x86_64", " ".join(sorted(NEEDED - {"avx512_vnni"})), "no avx512_vnni$"),
        ("aarch64", "", "aarch64 processor"),
    ],
)
def test_other_processors(machine: str, flags: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(NotCompiledError, match=told):
        check_processor(machine, cpus(tmp_path, flags))


def test_where_nothing_tells(tmp_path: Path) -> None:
    with pytest.raises(NotCompiledError, match="does not tell"):
        check_processor("x86_64", tmp_path / "none")


@pytest.mark.usefixtures("fresh")
def test_it_was_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "check_processor", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotCompiledError, match="with a C compiler"):
        load()


@pytest.mark.usefixtures("fresh")
def test_something_else_lies_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "_matcher.so"
    file.write_bytes(b"no library")
    monkeypatch.setattr(library, "check_processor", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(file)))
    with pytest.raises(NotCompiledError, match="cannot be loaded"):
        load()


@pytest.mark.usefixtures("compiled", "fresh")
def test_code_of_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "digest", lambda: "0123456789abcdef")
    with pytest.raises(NotCompiledError, match="compiled from other sources"):
        load()


def test_a_changed_source_is_another(tmp_path: Path) -> None:
    own = Path(shutil.copytree(Path(library.__file__).parent, tmp_path / "native"))
    assert digest(own) == digest()
    for name in ("simd.h", "matcher.c", "structures.py"):
        before = digest(own)
        (own / name).write_bytes((own / name).read_bytes() + b"\n")
        assert digest(own) != before
