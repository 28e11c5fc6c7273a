"""The base of what a request is read into: fields that it does not know are faults."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

#: The context in which a form's fields are validated: all of them are strings.
FORM = "form"

_MAX_FIELDS = 64  # no schema has half as many


def _of(name: str, *types: type) -> BeforeValidator:
    """Refuses JSON of other types, which pydantic would convert: `"1"` and `true` for 1."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if type(value) in types or value is None or info.context == FORM:
            return value
        raise PydanticCustomError(f"{name}_type", f"Input should be a valid {name}")

    return BeforeValidator(check)


#: Last in the annotation of a field that forms have too. A whole number may be written `3.0`.
AS_BOOLEAN, AS_INTEGER = _of("boolean", bool), _of("integer", int, float)
AS_NUMBER = _of("number", int, float)


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
