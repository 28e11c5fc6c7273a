"""What is installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Of this package; "0" in a checkout that is not installed."""
    try:
        return version("fashionbert")
    except PackageNotFoundError:
        return "0"
