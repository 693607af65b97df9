"""Base class of the sections of campaign and cluster files."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


def _for_a_form(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Write a schema so that Prefect's form is what a person wants.

    What may be left out is a field that may stay empty, not a choice between a type and None; a word that cannot be
    another one is a select. What a section adds comes before what it shares with others. Positions keep that order
    where a database sorts keys, as PostgreSQL does.
    """
    fields = sorted(schema["properties"].items(), key=lambda item: item[0] not in vars(model)["__annotations__"])
    schema["properties"] = {
        name: {"position": position} | _without_none(_plain(field)) for position, (name, field) in enumerate(fields)
    }


def _plain(field: dict[str, Any]) -> dict[str, Any]:
    match field:
        case {"anyOf": [one, {"type": "null"}], **rest}:
            return {**one, **rest}
        case {"const": word, **rest}:
            return {"enum": [word], **rest}
    return field


def _without_none(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_none(value) for key, value in content.items() if value is not None}
    return [_without_none(value) for value in content] if isinstance(content, list) else content


def default_or_given(schema: dict[str, Any]) -> None:
    """Offer both: a box for JSON alone is never empty to Prefect's form, and a schedule would hold it, and its section.

    Of a section that a schedule holds, all that is not said there is the default, whatever the campaign says.
    """
    given = {"title": "Given", "type": schema.pop("type"), "additionalProperties": schema.pop("additionalProperties")}
    schema["anyOf"] = [{"title": "Default", "type": "object", "properties": {}, "additionalProperties": False}, given]


class Section(BaseModel):
    """Unknown keys are errors, NaN and infinity are no numbers, and values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=_for_a_form)
