"""`manifest.json` of a snapshot: what it is, what made it, and the checksum of every file.

items.parquet                                    the products: id, title, text, pictures, attributes
image_states.npy      int8    [pictures, P, H]   states of each picture, quantised
image_scales.npy      float32 [pictures, P]      one scale a vector
image_embeddings.npy  float32 [pictures, E]      recall embeddings, unit length
image_products.npy    int32   [pictures]         the product's row, ascending
image_offsets.npy     int64   [pictures + 1]     where in images.bin a picture starts
images.bin                                       the pictures as served, one after the other
text_states.npy       int8    [tokens, H]        states of all texts, without padding
text_scales.npy       float32 [tokens]
text_offsets.npy      int64   [products + 1]     where in text_states.npy a text starts
text_embeddings.npy   float32 [products, E]
image.faiss, text.faiss                          recall over pictures and over texts
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.recall_rules import RULES, Rule
from model.errors import SnapshotError
from model.files import sha256_of, write_json

FORMAT = 1
AGAIN = "build it again with `fashionbert index build`"


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers that every array's shape follows from; `text_tokens` over all texts."""

    products: int
    pictures: int
    text_tokens: int
    hidden_size: int
    patches: int
    recall_size: int

    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """File name to dtype and shape."""
        m, n, h, p, e = (
            self.pictures,
            self.products,
            self.hidden_size,
            self.patches,
            self.recall_size,
        )
        return {
            "image_states.npy": ("int8", (m, p, h)),
            "image_scales.npy": ("float32", (m, p)),
            "image_embeddings.npy": ("float32", (m, e)),
            "image_products.npy": ("int32", (m,)),
            "image_offsets.npy": ("int64", (m + 1,)),
            "text_states.npy": ("int8", (self.text_tokens, h)),
            "text_scales.npy": ("float32", (self.text_tokens,)),
            "text_offsets.npy": ("int64", (n + 1,)),
            "text_embeddings.npy": ("float32", (n, e)),
        }


FILES = (
    "items.parquet",
    "images.bin",
    "image.faiss",
    "text.faiss",
    *Sizes(0, 0, 0, 0, 0, 0).arrays(),
)


@dataclass(frozen=True, slots=True)
class File:
    """Size and checksum of one file."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds.

    `created` is ISO 8601 in UTC. `recall` names the rule of each modality. `key` is a hash of all
    that the build was made from. Of the log of writes (`index.delta_log`) the snapshot has those up
    to number `folded` in it; those up to `superseded` were dropped for the feed, and the others
    are put on top of every later build, too. `truncated_texts` were longer than the model reads:
    at most so many where the snapshot is `compacted`. Of the last build `skipped_pictures` could
    not be decoded, and `dropped_products` had no other.
    """

    name: str
    created: str
    model_id: str
    text_template: str | None
    catalogue: str
    key: str
    sizes: Sizes
    recall: dict[str, Rule]
    truncated_texts: int
    skipped_pictures: int
    dropped_products: int
    files: dict[str, File]
    folded: int = 0
    superseded: int = 0
    format: int = FORMAT

    @property
    def compacted(self) -> bool:
        """Whether writes were folded in since the last build."""
        return self.folded > self.superseded

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(file.bytes for file in self.files.values())


def describe_files(folder: Path) -> dict[str, File]:
    """Size and checksum of every file of a snapshot that is being built."""
    return {name: File((folder / name).stat().st_size, sha256_of(folder / name)) for name in FILES}


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Save a manifest, with a checksum of itself."""
    fields = dataclasses.asdict(manifest)
    write_json(folder / "manifest.json", {**fields, "checksum": _checksum(fields)})


def _checksum(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a snapshot.

    Raises:
        SnapshotError: it is missing, damaged, or of another format.
    """
    path = folder / "manifest.json"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SnapshotError(
            f"{folder} is no snapshot (manifest.json: {error.strerror}): {AGAIN}"
        ) from error
    try:
        fields = json.loads(data)
        stated = fields.pop("checksum")
        if fields["format"] != FORMAT:
            raise SnapshotError(
                f"{path} has format {fields['format']!r}, this version reads {FORMAT}: {AGAIN}"
            )
        if stated != _checksum(fields) or data != _encode({**fields, "checksum": stated}):
            raise ValueError("its checksum does not agree")
        fields["sizes"] = Sizes(**fields["sizes"])
        fields["files"] = {name: File(**file) for name, file in fields["files"].items()}
        manifest = Manifest(**fields)
        if set(manifest.files) != set(FILES) or set(manifest.recall) != {"image", "text"}:
            raise ValueError("it does not name the files of a snapshot")
        if not set(manifest.recall.values()) <= set(RULES):
            raise ValueError(f"recall rules {manifest.recall}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SnapshotError(f"{path} is damaged ({error}): {AGAIN}") from error
    return manifest


def _encode(value: dict[str, Any]) -> bytes:
    """The bytes that `write_json` writes: a flipped byte may also be a blank."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """See that every file is there and has its size.

    Raises:
        SnapshotError: naming the first that does not.
    """
    for name, file in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise SnapshotError(f"{path} is missing: {AGAIN}")
        size = path.stat().st_size
        if size != file.bytes:
            raise SnapshotError(
                f"{path} has {size:,} bytes, {file.bytes:,} were written: it was cut short or "
                f"changed; copy the snapshot again, or {AGAIN}"
            )


def check_hashes(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its checksum; reads all of them.

    Raises:
        SnapshotError: naming the first that was changed.
    """
    for name, file in manifest.files.items():
        try:
            found = sha256_of(folder / name)
        except OSError as error:
            raise SnapshotError(
                f"{folder / name} cannot be read ({error.strerror or error}): let this user read "
                f"it; if the disk fails, copy the snapshot again, or {AGAIN}"
            ) from error
        if found != file.sha256:
            raise SnapshotError(
                f"{folder / name} is damaged (its sha256 is not the manifest's): copy the "
                f"snapshot again, or {AGAIN}"
            )
