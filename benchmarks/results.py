"""The raw figures of a part, saved after every step so that a run which was ended goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import machine
from model.files import write_json

T = TypeVar("T")


class Results:
    """The steps of one part: `step` computes one, or takes it from the file.

    Args:
        folder: of the JSON files.
        part: the file's name.
        settings: what the figures depend on; a file made with others is begun anew.
    """

    def __init__(self, folder: Path, part: str, settings: dict[str, Any]) -> None:
        self.path = folder / f"{part}.json"
        self._data = read(folder, part) or {}
        if self._data.get("settings") != settings:
            self._data = {
                "part": part,
                "settings": settings,
                "started": _now(),
                "finished": None,
                "steps": {},
            }

    @property
    def finished(self) -> bool:
        """Whether every step is there."""
        return self._data["finished"] is not None

    def step(self, name: str, compute: Callable[[], T]) -> T:
        """The outcome of a step, which must be what JSON can hold.

        A step remembers the code, the machine and the load that it began under.
        """
        steps = self._data["steps"]
        if name not in steps:
            load = machine.load()
            begun = _now()
            value = compute()
            steps[name] = {
                "value": value,
                "begun": begun,
                "ended": _now(),
                "commit": machine.commit(),
                "load_before": load,
            }
            self._data |= {"machine": machine.describe(), "versions": machine.versions()}
            self._save()
        kept: T = steps[name]["value"]
        return kept

    def has(self, name: str) -> bool:
        """Whether a step is there already."""
        return name in self._data["steps"]

    def finish(self, **fields: Any) -> None:
        """Record that all steps are there, with what else belongs to them."""
        self._data |= fields
        self._data["finished"] = _now()
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self._data)


def read(folder: Path, part: str) -> dict[str, Any] | None:
    """What a part left; None if it never ran."""
    path = folder / f"{part}.json"
    if not path.is_file():
        return None
    data: dict[str, Any] = json.loads(path.read_bytes())
    return data


def values(data: dict[str, Any]) -> dict[str, Any]:
    """The outcomes of the steps, by name."""
    return {name: step["value"] for name, step in data["steps"].items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
