"""The peers, each in a virtual environment of its own with pinned versions."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

#: torch for the processor, first: what comes after is then satisfied by it.
_TORCH = ("torch==2.13.0",)


@dataclass(frozen=True, slots=True)
class Peer:
    """A library or server to compare with.

    `steps` are installed one after the other; `shown` are the packages whose versions are recorded.
    """

    name: str
    steps: tuple[tuple[str, ...], ...]
    shown: tuple[str, ...]


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "sentence-transformers",
            (_TORCH, ("sentence-transformers==6.2.*",)),
            ("sentence-transformers", "torch", "transformers"),
        ),
        Peer("fastembed", (("fastembed==0.9.1",),), ("fastembed", "onnxruntime")),
        Peer(
            "infinity-torch",
            (_TORCH, ("infinity-emb[server,torch,optimum]==0.0.78", "transformers==4.57.6")),
            ("infinity-emb", "torch", "transformers"),
        ),
        Peer(
            "infinity-onnx",
            (
                _TORCH,
                (
                    "infinity-emb[server,optimum]==0.0.77",
                    "optimum[onnxruntime]==1.24.0",
                    "transformers==4.47.1",
                    "numpy<2",
                    "pyarrow<20",
                    "datasets<4",
                    "click<8.2",  # what this version's typer can read
                ),
            ),
            ("infinity-emb", "optimum", "onnxruntime", "transformers"),
        ),
    )
}


def ready(peers: Path, name: str) -> Path:
    """A peer's Python; its environment is made if it is not there in this composition.

    Args:
        peers: folder of all environments.
        name: a key of `PEERS`.
    """
    peer = PEERS[name]
    folder = peers / name
    python = folder / "bin" / "python"
    stamp = folder / ".ready"
    composition = hashlib.sha256(repr((peer.steps, sys.version)).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text(encoding="ascii") == composition:
        return python
    print(f"installing {name}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for step in peer.steps:
        subprocess.run([*pip, *step], check=True)
    stamp.write_text(composition, encoding="ascii")
    return python


def versions(peers: Path, name: str) -> dict[str, str]:
    """The versions of what matters in a peer's environment, which must be there."""
    python = peers / name / "bin" / "python"
    command = [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    found = {entry["name"].lower().replace("_", "-"): entry["version"] for entry in listed}
    return {package: found[package] for package in PEERS[name].shown if package in found}
