"""The base of what a request is read into: fields that it does not know are faults."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

_MAX_FIELDS = 64  # no schema has half as many


class Strict(BaseModel):
    """A body, or an object in one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, fields: Any) -> Any:
        """Refuse an object of very many fields at once: each unknown one would be an error."""
        if isinstance(fields, dict) and len(fields) > _MAX_FIELDS:
            raise PydanticCustomError(
                "too_many_fields",
                "the object has {fields} fields: send those that are documented",
                {"fields": f"{len(fields):,}"},
            )
        return fields
