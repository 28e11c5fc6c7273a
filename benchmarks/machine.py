"""What the figures were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.settings import ROOT

_PACKAGES = (
    "fashionbert",
    "onnxruntime",
    "onnxruntime-gpu",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "tokenizers",
    "fastapi",
    "uvicorn",
    "torch",
    "transformers",
    "httpx",
)
_LSCPU = {
    "Model name": "processor",
    "CPU family": "family",
    "Model": "model",
    "CPU(s)": "cores",
    "Thread(s) per core": "threads_per_core",
    "L1d cache": "l1d",
    "L2 cache": "l2",
    "L3 cache": "l3",
    "Hypervisor vendor": "hypervisor",
}
#: Of the flags, those that decide how fast matrices are multiplied.
_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8")


def describe() -> dict[str, Any]:
    """Processor, memory and system, as `lscpu` and `/proc` tell."""
    found: dict[str, Any] = {}
    listed = subprocess.run(
        ["lscpu", "--json"], check=True, capture_output=True, env={**os.environ, "LC_ALL": "C"}
    )
    for field, data in _flat(json.loads(listed.stdout)["lscpu"]):
        if field in _LSCPU:
            found[_LSCPU[field]] = data
        if field == "Flags":
            found["flags"] = [flag for flag in _FLAGS if flag in data.split()]
    memory = Path("/proc/meminfo").read_text(encoding="ascii").split()
    found["memory_gib"] = round(int(memory[1]) / 1024**2, 1)
    found["usable_cores"] = len(os.sched_getaffinity(0))
    found["kernel"] = platform.release()
    found["python"] = platform.python_version()
    return found


def _flat(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The fields of `lscpu --json`, newer versions of which nest them."""
    flat = []
    for entry in entries:
        flat.append((entry["field"].rstrip(":"), entry.get("data") or ""))
        flat += _flat(entry.get("children", []))
    return flat


def versions() -> dict[str, str]:
    """Of the packages that the project runs on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit that is checked out, `-dirty` where files differ from it; None outside git."""
    command = ["git", "describe", "--always", "--dirty", "--match", "no-tag-but-the-hash"]
    try:
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def load() -> list[float]:
    """The load averages: what else had the machine's cores."""
    return [round(one, 2) for one in os.getloadavg()]
