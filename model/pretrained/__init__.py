"""The models that come with the package: each folder here is an exported bundle."""

from __future__ import annotations

from pathlib import Path

from model.errors import BundleError

FOLDER = Path(__file__).parent


def pretrained(name: str = "small") -> Path:
    """The bundle of a model that comes with the package.

    Raises:
        BundleError: this installation has no such model; it names those that there are.
    """
    there = sorted(manifest.parent.name for manifest in FOLDER.glob("*/manifest.json"))
    if name not in there:
        raise BundleError(
            f"this installation carries no model {name!r} (it has {', '.join(there) or 'none'}): "
            "give --bundle or set FASHIONBERT_BUNDLE to one of your own"
        )
    return FOLDER / name
