"""schemathesis over the OpenAPI document of the running service: all its checks and phases.

Every case is drawn from what the document says, valid or not quite, and every answer is compared
with it: no 5xx, documented statuses, headers and bodies, what is valid taken and what is not
refused, nothing without a key. The cases are the same ones in every run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from service.security import new_key

HERE = Path(__file__).parent
PROGRAM = Path(sysconfig.get_path("scripts")) / "schemathesis"

#: Nothing is drawn from earlier answers, which have times in them, but what links say.
CONFIG = """
hooks = "{hooks}"
request-timeout = 60
workers = 1
continue-on-failure = true
suppress-health-check = ["all"]
warnings = false

[generation]
deterministic = true
max-examples = 8
no-shrink = true
database = "none"

[phases]
examples = {{ extra-data-sources = {{ responses = false }} }}
coverage = {{ extra-data-sources = {{ responses = false }}, unexpected-methods = ["PATCH"] }}
fuzzing = {{ extra-data-sources = {{ responses = false }}, error-feedback = {{ enabled = false }} }}
stateful = {{ generation = {{ max-examples = 12 }} }}
"""


def test_every_answer_is_as_documented(serve: Any, root: Path, tmp_path: Path) -> None:
    config = tmp_path / "schemathesis.toml"
    hooks = shutil.copy(HERE / "schemathesis_hooks.py", tmp_path)
    config.write_text(CONFIG.format(hooks=hooks), encoding="utf-8")
    secret, key = new_key("fuzz", "admin")
    with serve(snapshots=root, keys=key.line(), max_body_bytes=1_000_000) as running:
        address = f"{running.client.base_url}/openapi.json"
        options = ["--checks", "all", "--header", f"Authorization: Bearer {secret}"]
        done = subprocess.run(
            [PROGRAM, "--config-file", config, "run", address, *options],
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
        assert running.client.get("/readyz").status_code == 200
    assert "Tested: 13\n" in done.stdout
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in done.stdout
