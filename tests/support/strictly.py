"""OpenAI's own types as judges: without their leniency, which takes any field and nearly any type."""

from typing import Any

from pydantic import BaseModel


def unknown(kind: type[BaseModel], raw: Any) -> list[str]:
    """The names of the fields of `raw`, a `kind`, that no type knows. Raises pydantic's `ValidationError` where one has a wrong type."""
    names: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, BaseModel):
            names.extend(value.model_extra or ())
            for name in type(value).model_fields:
                look(getattr(value, name))
        elif isinstance(value, list):
            for one in value:
                look(one)

    look(kind.model_validate(raw, strict=True))
    return names
