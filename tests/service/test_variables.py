from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.variables import warn_of_unknown_variables

ROOT = Path(__file__).parents[2]


def test_variables_that_nobody_reads_are_named_with_the_ones_that_may_be_meant(
    caplog: pytest.LogCaptureFixture,
) -> None:
    warn_of_unknown_variables(
        {
            "FASHIONBERT_RATELIMIT": "5",
            "FASHIONBERT_XYZZY": "1",
            "FASHIONBERT_RATE_BURST": "5",
            "fashionbert_max_k": "5",
            "FASHIONBERT_MAXK": "",  # as compose files hand on what is not set
            "RATELIMIT": "5",
        }
    )
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "not known, and so without effect: "
        "FASHIONBERT_RATELIMIT (did you mean FASHIONBERT_RATE_LIMIT?), FASHIONBERT_XYZZY"
    )


def test_no_variable_that_a_compose_file_or_a_command_knows_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = [
        *ROOT.glob("*.yml"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docs").rglob("*.py"),
        *(path for path in (ROOT / "docker").rglob("*") if path.is_file()),
        *(path for name in ("service", "index") for path in (ROOT / name).rglob("*.py")),
    ]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    names = set(re.findall(r"FASHIONBERT_[A-Z_]*[A-Z]", text))
    assert {"FASHIONBERT_IMAGE", "FASHIONBERT_BUNDLE_DIR", "FASHIONBERT_KEY"} <= names
    warn_of_unknown_variables(dict.fromkeys(names, "1"))
    assert caplog.records == []
