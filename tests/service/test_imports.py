from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from model.bundle import Bundle


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CHECK = """
import sys
found = {{{}}} & {{name.partition(".")[0] for name in sys.modules}}
assert not found, f"imported: {{found}}"
"""
TRAINING = CHECK.format("'torch', 'transformers'")
SEARCHING = CHECK.format("'torch', 'transformers', 'faiss', 'onnxruntime', 'onnx', 'pyarrow'")


def test_serving_needs_neither_torch_nor_transformers() -> None:
    run("import service.api.app, service.cli.app, index.build, model.engine" + TRAINING)


def test_no_help_waits_for_what_searches() -> None:
    run("import service.cli.app" + SEARCHING)


def test_nor_does_a_search(bundle: Bundle, snapshot_root: Path) -> None:
    arguments = ["search", "red", "--bundle", str(bundle.path), "--snapshots", str(snapshot_root)]
    printed = run(
        f"from service.cli.app import app\napp({[*arguments, '--json']!r}, standalone_mode=False)"
        + TRAINING
    )
    assert '"hits"' in printed


def test_a_process_that_encodes_imports_little() -> None:
    """It imports what started it too: the command line's `__main__`."""
    unneeded = "'typer', 'rich', 'pydantic', 'faiss', 'onnx', 'pyarrow', 'torch'"
    run("import index.processes, service.cli.__main__" + CHECK.format(unneeded))
