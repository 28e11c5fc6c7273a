from __future__ import annotations

import subprocess
import sys

import pytest

#: Pages that the system gave while 64 MB were asked for, filled and freed, eight times.
_PROBE = """
import resource
import numpy as np
from model.malloc import keep_freed_memory
if {keep} and not keep_freed_memory():
    print("none")
    raise SystemExit
def fill():
    for value in range(8):
        np.full(64 << 20, value, dtype=np.uint8)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep: bool) -> int:
    command = [sys.executable, "-c", _PROBE.format(keep=keep)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if told == "none":
        pytest.skip("this C library has no mallopt")
    return int(told)


def test_what_was_freed_is_used_again() -> None:
    """A process of its own: it cannot be undone."""
    usual, kept = faults(keep=False), faults(keep=True)
    assert usual > 8 * 16  # of 2 MB where the system has such pages
    assert kept < usual / 10
