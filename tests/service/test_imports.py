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
found = {"torch", "transformers"} & {name.partition(".")[0] for name in sys.modules}
assert not found, f"imported: {found}"
"""


def test_serving_needs_neither_torch_nor_transformers() -> None:
    run("import service.api.app, service.cli, index.build, model.engine" + CHECK)


def test_nor_does_a_search(bundle: Bundle, snapshot_root: Path) -> None:
    arguments = ["search", "red", "--bundle", str(bundle.path), "--snapshots", str(snapshot_root)]
    printed = run(
        f"from service.cli import app\napp({[*arguments, '--json']!r}, standalone_mode=False)"
        + CHECK
    )
    assert '"hits"' in printed
