"""ONNX Runtime's sessions: which providers run a graph, and with which options."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import onnxruntime as ort

from model.eight_bit import exact_8_bit
from model.errors import BundleError, FashionBertError

#: The graphs of a bundle, each with a session, and so with an arena on the GPU, of its own.
_GRAPHS = 3

_logger = logging.getLogger("fashionbert.engine")


def cuda_options(precision: str, memory: int | None = None) -> dict[str, str]:
    """Options of the CUDA provider
    (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html).

    Args:
        precision: of the bundle.
        memory: most bytes on the GPU that the three graphs take together, a third each; by default
            all there are.
    """
    options = {
        # The default, EXHAUSTIVE, tries out all algorithms at each new batch size: in the middle of
        # somebody's request.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The default doubles the arena each time, whatever the GPU has to hold beside it.
        "arena_extend_strategy": "kSameAsRequested",
    }
    if precision == "fp32":
        # TF32's products have 10 bits: scores would not be within 1e-4 of the reference's.
        options["use_tf32"] = "0"
    if memory is not None:
        options["gpu_mem_limit"] = str(memory // _GRAPHS)
    return options


def providers(
    device: str, precision: str = "fp32", memory: int | None = None
) -> list[tuple[str, dict[str, str]]]:
    """What runs a graph, in order of preference, with options.

    Args:
        device: `cpu` or `cuda`.
        precision: of the bundle.
        memory: as of `cuda_options`.

    Raises:
        FashionBertError: there is no such device, or this ONNX Runtime knows no CUDA.
    """
    if device == "cpu":
        return [("CPUExecutionProvider", {})]
    if device != "cuda":
        raise FashionBertError(f"device {device!r}: choose 'cpu' or 'cuda'")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        raise FashionBertError(
            "device 'cuda' was asked for, but this ONNX Runtime has no CUDA: install "
            "fashionbert[gpu] on a machine with an NVIDIA driver, or use device 'cpu'"
        )
    return [
        ("CUDAExecutionProvider", cuda_options(precision, memory)),
        ("CPUExecutionProvider", {}),
    ]


def prepare(device: str, precision: str, bundle: Path) -> None:
    """What is to be done once before a bundle's graphs are loaded for a device."""
    if device != "cuda":
        return
    if hasattr(ort, "preload_dlls"):  # since 1.21: finds the CUDA that was installed as wheels
        ort.preload_dlls(directory="")
    if precision == "int8":
        _logger.warning(
            "the products of %s, which is in int8, have no CUDA kernels: ONNX Runtime computes "
            "them on the processor. Make a bundle for the GPU with `fashionbert export "
            "--precision fp16`",
            bundle,
        )


def open_session(
    file: Path, using: list[tuple[str, dict[str, str]]], threads: int
) -> ort.InferenceSession:
    """Load a graph.

    Args:
        file: of the graph.
        using: what `providers` gives.
        threads: processor cores of one pass.

    Raises:
        BundleError: the graph cannot be loaded.
        FashionBertError: the device cannot be started.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # Threads that spin between passes would take the cores from HTTP and FAISS.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    exact_8_bit(options)
    names: list[Any] = [name for name, _ in using]
    try:
        session = ort.InferenceSession(
            str(file), options, providers=names, provider_options=[each for _, each in using]
        )
    except Exception as error:  # ONNX Runtime's own classes share no base but Exception
        raise BundleError(f"{file} cannot be loaded: {error}") from error
    if names[0] not in session.get_providers():  # it falls back without a word
        raise FashionBertError(
            f"ONNX Runtime could not start {names[0]}: look for the driver and the CUDA "
            "libraries, or use device 'cpu'"
        )
    return session
