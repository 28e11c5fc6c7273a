"""What a snapshot is, in numbers: for `fashionbert index info`."""

from __future__ import annotations

from typing import Any

from index.snapshot import Snapshot


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as a JSON object.

    `recall` names the rule of each modality (see `index.recall`), `attributes` the type of each,
    and `files` the bytes of each. `truncated_texts` are at most so many where writes were folded in
    since the last build (`compacted`); `skipped_pictures` and `dropped_products` are that build's.
    """
    manifest = snapshot.manifest
    return {
        "name": manifest.name,
        "created": manifest.created,
        "model_id": manifest.model_id,
        "products": manifest.sizes.products,
        "pictures": manifest.sizes.pictures,
        "text_template": manifest.text_template,
        "recall": dict(manifest.recall),
        "attributes": dict(snapshot.items.attribute_types),
        "compacted": manifest.compacted,
        "truncated_texts": manifest.truncated_texts,
        "skipped_pictures": manifest.skipped_pictures,
        "dropped_products": manifest.dropped_products,
        "bytes": manifest.bytes,
        "bytes_per_product": round(manifest.bytes / manifest.sizes.products),
        "files": {name: file.bytes for name, file in manifest.files.items()},
    }
