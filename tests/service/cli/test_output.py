from __future__ import annotations

import io
import re
import sys

import pytest

from model.progress import progress_bars
from service.cli.output import note


def test_a_note_stands_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bars() as bars:
        bars.add_task("training", total=3)
        bars.refresh()
        note("a note [1]")
    line_taken_back = re.escape("\r\x1b[2K")
    assert re.search(line_taken_back + r"a note \[1\]\s*\n", terminal.getvalue())
