from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from benchmarks.check_gpu import Checks, apart, main
from model.bundle import Bundle
from model.precision import convert_bundle


def test_a_processor_computes_what_it_computes(
    bundle: Bundle,
    row_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.check_gpu._TEXTS", 8)
    half = convert_bundle(bundle, tmp_path / "fp16", "fp16")[0]
    status = main(["--device", "cpu", *(str(b.path) for b in (bundle, row_bundle, half))])
    told = capsys.readouterr().out
    assert status == 0, told
    assert "FAILED" not in told
    assert told.count("half on the device") == 2 * 3
    assert told.count("16 searches at a time") == 3
    assert told.count("bytes that are others") == 2
    assert "its matcher takes no rows" in told


def test_without_the_device_nothing_is_skipped(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        assert main([str(bundle.path)]) == 0
        return
    assert main([str(bundle.path)]) == 2
    assert "cannot be checked: recall device 'cuda'" in capsys.readouterr().err


def test_what_differs_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    checks = Checks()
    checks.below("one", 1e-5, 1e-4)
    checks.below("other", 1e-3, 1e-4)
    checks.below("none", float("nan"), 1e-4)
    assert checks.failed == 2
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "ok",
        "FAILED",
        "FAILED",
    ]
    vectors = np.eye(3, dtype=np.float32)
    assert apart(vectors, 2 * vectors) < 1e-12
    assert apart(vectors, vectors[[0, 2, 1]]) == 1
