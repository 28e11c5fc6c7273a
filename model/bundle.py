"""The bundle: the directory that an export leaves and that everything online runs from.

    manifest.json       what the model is, and the sha256 of every other file
    tokenizer.json
    text_encoder.onnx   input_ids, attention_mask [B, T]     → states [B, T, H], embedding [B, E]
    image_encoder.onnx  pixels uint8 [B, S, S, 3]            → states [B, P, H], embedding [B, E]
    matcher.onnx        text_states int8 [B, T, H], text_scales [B, T],
                        image_states int8 [B, P, H], image_scales [B, P]   → logit [B]

The matcher takes states as they are stored, int8 with a scale a vector, and de-quantises them
itself; a scale of 0 is padding. Either side may have batch 1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.errors import BundleError
from model.files import sha256_of, write_json

FORMAT = 1
FILES = ("tokenizer.json", "text_encoder.onnx", "image_encoder.onnx", "matcher.onnx")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds.

    `calibration` is (slope, intercept): probability = sigmoid(slope · logit + intercept).
    `text_template` is what the model was trained on, a default for feeds that name none.
    """

    model_id: str
    hidden_size: int
    patches: int
    recall_size: int
    image_size: int
    max_text_tokens: int
    joint_from: int
    precision: str
    calibration: tuple[float, float]
    files: dict[str, str]
    text_template: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def _check_types(manifest: Manifest) -> None:
    """Refuse with a ValueError what JSON can hold and the engine would trip over."""
    sizes = ("hidden_size", "patches", "recall_size", "image_size", "max_text_tokens", "joint_from")
    for name in sizes:
        value = getattr(manifest, name)
        if type(value) is not int or value < 0:
            raise ValueError(f"{name} is {value!r}")
    numbers = manifest.calibration
    if len(numbers) != 2 or not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"calibration is {numbers!r}")
    if not isinstance(manifest.files, dict):
        raise ValueError(f"files is {manifest.files!r}")


def model_id_of(files: dict[str, str]) -> str:
    """The model's name: a hash over the content of its files."""
    digest = hashlib.sha256("".join(f"{name}={files[name]}\n" for name in sorted(files)).encode())
    return f"fb-{digest.hexdigest()[:16]}"


def write_manifest(folder: Path, **fields: Any) -> Manifest:
    """Hash the files of an exported folder and write its `manifest.json`.

    Args:
        folder: holds `FILES` already.
        fields: of `Manifest`, less `files` and `model_id`.
    """
    files = {name: sha256_of(folder / name) for name in FILES}
    manifest = Manifest(model_id=model_id_of(files), files=files, **fields)
    write_json(folder / "manifest.json", dataclasses.asdict(manifest))
    return manifest


@dataclass(frozen=True, slots=True)
class Bundle:
    """An exported model on disk, checked."""

    path: Path
    manifest: Manifest

    @property
    def model_id(self) -> str:
        """`fb-` and 16 hex digits, made of the content."""
        return self.manifest.model_id

    @classmethod
    def open(cls, path: Path, *, verify: bool = True) -> Bundle:
        """Read a bundle's manifest and check its files.

        Args:
            path: the bundle's folder.
            verify: compare every file with its sha256.

        Raises:
            BundleError: it is missing, of another format, or a file of it is missing or changed.
        """
        source = path / "manifest.json"
        if not source.is_file():
            raise BundleError(
                f"{path} is no model bundle (it has no manifest.json): make one with "
                "`fashionbert export`"
            )
        try:
            fields = json.loads(source.read_bytes())
            if fields.get("format") != FORMAT:
                raise BundleError(
                    f"{source} has format {fields.get('format')}, this version reads {FORMAT}: "
                    "export the model again"
                )
            fields["calibration"] = tuple(fields["calibration"])
            manifest = Manifest(**fields)
            _check_types(manifest)
        except OSError as error:
            raise BundleError(f"{source} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BundleError(
                f"{source} is damaged ({error}): copy or export the bundle again"
            ) from error
        bundle = cls(path, manifest)
        if verify:
            bundle.verify()
        return bundle

    def verify(self) -> None:
        """Compare every file with the manifest.

        Raises:
            BundleError: naming the first file that is missing, changed or not readable.
        """
        files = self.manifest.files
        if set(files) != set(FILES) or model_id_of(files) != self.model_id:
            raise BundleError(
                f"{self.path / 'manifest.json'} does not agree with itself (its model id is not "
                "that of its files): copy or export the bundle again"
            )
        for name, digest in files.items():
            file = self.path / name
            if not file.is_file():
                raise BundleError(f"{file} is missing: copy or export the bundle again")
            try:
                found = sha256_of(file)
            except OSError as error:
                raise BundleError(f"{file} cannot be read: {error.strerror}") from error
            if found != digest:
                raise BundleError(
                    f"{file} has been changed since the export (its sha256 is not the manifest's): "
                    "copy or export the bundle again"
                )
