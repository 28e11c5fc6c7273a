"""Places where a test kills the process, to see that what is on disk is right at each of them."""

from __future__ import annotations

import os

VARIABLE = "FASHIONBERT_CRASH_AT"
EXIT_CODE = 86


def crash_point(name: str) -> None:
    """End the process at once, without any cleaning up, if `FASHIONBERT_CRASH_AT` names this."""
    if os.environ.get(VARIABLE) == name:
        os._exit(EXIT_CODE)
