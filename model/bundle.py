"""The bundle: the directory that an export leaves and that everything online runs from.

    manifest.json       what the model is, the sha256 of every other file, and one of itself
    tokenizer.json
    text_encoder.onnx   input_ids, attention_mask [B, T]     → states [B, T, H], embedding [B, E]
    image_encoder.onnx  pixels uint8 [B, S, S, 3]            → states [B, P, H], embedding [B, E]
    matcher.onnx        text_states int8 [B, T, H], text_scales [B, T],
                        image_states int8 [B, P, H], image_scales [B, P]   → logit [B]

The matcher takes states as they are stored, int8 with a scale a vector, and de-quantises them
itself; a scale of 0 is padding. Either side may have batch 1. That of fp16 has inputs that choose
rows of both sides besides: `model.row_inputs`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from model.errors import BundleError
from model.files import replace_folder, sha256_of, sync_tree, write_json

FORMAT = 2
FILES = ("tokenizer.json", "text_encoder.onnx", "image_encoder.onnx", "matcher.onnx")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds.

    `calibration` is (slope, intercept): probability = sigmoid(slope · logit + intercept).
    `text_template` is what the model was trained on, a default for feeds that name none.
    `checksum` is over all the other fields.
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
    checksum: str = ""


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


def checksum_of(manifest: Manifest) -> str:
    """Hex digest over every field but the checksum itself.

    Apart from the model id, so that a new calibration or new figures leave that as it is: the
    states in a snapshot are made by the files alone.
    """
    fields = dataclasses.asdict(manifest)
    del fields["checksum"]
    fields = json.loads(json.dumps(fields))  # as they are read again: keys are strings there
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, **fields: Any) -> Manifest:
    """Hash the files of an exported folder and write its `manifest.json`.

    Args:
        folder: holds `FILES` already.
        fields: of `Manifest`, less `files`, `model_id`, `format` and `checksum`.
    """
    files = {name: sha256_of(folder / name) for name in FILES}
    manifest = Manifest(model_id=model_id_of(files), files=files, **fields)
    manifest = dataclasses.replace(manifest, checksum=checksum_of(manifest))
    write_json(folder / "manifest.json", dataclasses.asdict(manifest))
    return manifest


def bundle_place(folder: Path) -> Path:
    """The place of a bundle to be written, without links or dots.

    Args:
        folder: must not exist, or be empty, or hold an older bundle, which is to be replaced.

    Raises:
        BundleError: it holds something else, or can be seen not to be writable. So who exports
            hears of it before the work, not after.
    """
    try:
        place = Path(os.path.realpath(folder))
        if place.exists() and not place.is_dir():
            raise BundleError(f"{folder} is a file: choose another folder")
        if place.exists() and any(place.iterdir()) and not (place / "manifest.json").is_file():
            raise BundleError(f"{folder} holds something that is no bundle: choose another folder")
        if os.path.ismount(place):
            raise BundleError(
                f"{folder} is a mount point, and would be replaced as a whole: name a folder in it"
            )
        if Path.cwd().is_relative_to(place):  # the caller would stand in a folder that is gone
            raise BundleError(
                f"{folder} is the folder that this runs in, or around it, and would be replaced as "
                "a whole: name a folder inside it, or run this elsewhere"
            )
        standing = next(parent for parent in place.parents if parent.exists())
        if not standing.is_dir():
            raise BundleError(f"{standing} is a file: choose another folder than {folder}")
        if not os.access(standing, os.W_OK | os.X_OK):
            raise _unwritable(folder, f"nothing can be made in {standing}")
    except OSError as error:
        raise _unwritable(folder, error) from error
    return place


def _unwritable(folder: Path, why: object) -> BundleError:
    return BundleError(
        f"the bundle {folder} cannot be written ({why}): make room or choose another folder"
    )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Write a bundle beside its place; it takes the place when the block ends without an error.

    Args:
        folder: as `bundle_place` takes it.

    Raises:
        BundleError: as `bundle_place`, or it cannot be written. Then, as after any error inside
            the block, nothing is left of it and what stood there stands.
    """
    place = bundle_place(folder)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        yield part
        sync_tree(part)  # before the older one goes
        replace_folder(part, place, place.with_name(f".{place.name}.{os.getpid()}.old"))
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _way_to(folder: Path) -> str:
    """How to come to a bundle that is not there."""
    old = next(folder.parent.glob(f".{escape(folder.name)}.*.old"), None)
    if old is None or folder.exists():
        return "make one with `fashionbert export`"
    return f"an export that was killed at its end left the one before at {old}: rename it"


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
            verify: compare every file with its sha256; the manifest itself always is.

        Raises:
            BundleError: it is missing, of another format, or a file of it is missing or changed.
        """
        source = path / "manifest.json"
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
            checksum = checksum_of(manifest)
        except (FileNotFoundError, NotADirectoryError):
            raise BundleError(
                f"{path} is no model bundle (it has no manifest.json): {_way_to(path)}"
            ) from None
        except OSError as error:
            raise BundleError(f"{source} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BundleError(
                f"{source} is damaged ({error}): copy or export the bundle again"
            ) from error
        if manifest.checksum != checksum:
            raise BundleError(
                f"{source} has been changed since the export (its checksum is not that of its "
                "fields): copy or export the bundle again"
            )
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
