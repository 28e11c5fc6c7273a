from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import onnxruntime as ort
import pytest

from model.bundle import Bundle
from model.engine import ENCODE_BATCH, MATCH_TOKENS
from model.errors import BundleError, FashionBertError
from model.sessions import cuda_options, open_session, prepare, providers


def test_what_cuda_is_started_with() -> None:
    common = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    assert cuda_options("fp32") == {**common, "use_tf32": "0"}
    assert cuda_options("fp16") == common
    assert cuda_options("fp16", 3_000_000_000) == {**common, "gpu_mem_limit": "1000000000"}


def test_on_a_processor_there_are_no_options() -> None:
    assert providers("cpu", "int8", 1) == [("CPUExecutionProvider", {})]


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(FashionBertError, match="device 'tpu': choose 'cpu' or 'cuda'"):
        providers("tpu")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        assert providers("cuda")[0][0] == "CUDAExecutionProvider"
    else:
        with pytest.raises(FashionBertError, match=r"no CUDA: install fashionbert\[gpu\]"):
            providers("cuda")


def test_int8_on_a_gpu_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prepare("cuda", "fp16", Path("bundle"))
        prepare("cpu", "int8", Path("bundle"))
        assert not caplog.records
        prepare("cuda", "int8", Path("bundle"))
    (record,) = caplog.records
    assert "no CUDA kernels" in record.getMessage()
    assert "fashionbert export --precision fp16" in record.getMessage()


def test_a_session_has_the_cores_it_is_given(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.eight_bit.sums_exactly", lambda: False)
    session = open_session(bundle.path / "matcher.onnx", providers("cpu"), 2)
    options = session.get_session_options()
    assert options.intra_op_num_threads == 2
    # Those that wait leave the cores to others.
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
    assert session.get_providers() == ["CPUExecutionProvider"]
    broken = tmp_path / "matcher.onnx"
    broken.write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"matcher\.onnx cannot be loaded"):
        open_session(broken, providers("cpu"), 1)


def test_a_gpu_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime goes on without it, and says nothing."""
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: session)
    using: list[tuple[str, dict[str, str]]] = [("CUDAExecutionProvider", {}), *providers("cpu")]
    with pytest.raises(FashionBertError, match="could not start CUDAExecutionProvider"):
        open_session(Path("matcher.onnx"), using, 1)


def test_each_device_has_passes_of_its_size() -> None:
    assert ENCODE_BATCH == {"cpu": 8, "cuda": 128}
    assert MATCH_TOKENS == {"cpu": 512, "cuda": 16_384}
