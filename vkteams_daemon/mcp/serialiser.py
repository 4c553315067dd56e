"""Makes JSON of an answer: every text visible, and without the fields that say nothing; and the schema of that JSON.

The fields have the names of the library, and so of `vkteamsctl --output json`. A field is left out if it is None or has
its default (false, 0, an empty list), because an agent pays for every word; the schema allows it.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import date, datetime
from typing import Any

from pydantic import ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from vkteams_daemon.search.history.token_budget import tokens
from vkteams_daemon.system.text import visible

_FIRST_SENTENCE = re.compile(r"(?<=[.;])\s")


def to_json(value: Any) -> Any:
    """The JSON value of an answer, or of a part of one.

    Raises:
        TypeError: it holds a value of another type than the answers have, which could hide a text from `visible`.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, dict):
        return {to_json(name): to_json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    if is_dataclass(value):
        entries = [(field, getattr(value, field.name)) for field in fields(value)]
        return {field.name: to_json(entry) for field, entry in entries if not _is_left_out(field, entry)}
    raise TypeError(f"an answer holds a {type(value).__name__}, which has no form in JSON")


def to_text(value: Any) -> str:
    """The same as a text without spaces."""
    return json.dumps(to_json(value), ensure_ascii=False, separators=(",", ":"))


def token_cost(entry: Any) -> int:
    """About how many tokens a message, or another entry of a list, takes in an answer."""
    return tokens(to_text(entry))


@functools.cache
def schema(answer: type) -> dict[str, Any]:
    """The JSON Schema of a dataclass as `to_json` writes it, as short as it can be: an agent pays for it in every chat.

    The first sentence of the docstring below a field describes it. What is nested in the answer has fields with types,
    and what is nested deeper has only the names of its fields.

    Several tools answer the same class, and making its schema takes long. So the callers share it and do not change it.
    """
    # A dataclass of the standard library takes its configuration from the type that holds it.
    holder = TypeAdapter(list[answer], config=ConfigDict(use_attribute_docstrings=True))  # type: ignore[valid-type]
    whole = holder.json_schema(schema_generator=_Schema)
    definitions = whole["$defs"]
    definition = definitions[answer.__name__]
    fields = {name: _field(field, definitions, 0) for name, field in definition["properties"].items()}
    for name, field in fields.items():
        if text := definition["properties"][name].get("description"):
            field["description"] = _FIRST_SENTENCE.split(text, maxsplit=1)[0].rstrip(".;")
    required = [name for name in definition.get("required", []) if name in fields]
    return {"type": "object", "properties": fields, **({"required": required} if required else {})}


def _field(value: Any, definitions: dict[str, Any], depth: int) -> Any:
    """The schema of a value without title, description and default, and without references."""
    if isinstance(value, list):
        return [_field(entry, definitions, depth) for entry in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        properties = definitions[value["$ref"].rpartition("/")[2]]["properties"]
        if depth > 0:
            return {"type": "object", "description": ", ".join(properties)}
        return {"type": "object", "properties": {
            name: _field(field, definitions, depth + 1) for name, field in properties.items()
        }}  # fmt: skip
    if kept := [option for option in value.get("anyOf", []) if option.get("type") != "null"]:
        return _field(kept[0], definitions, depth) if len(kept) == 1 else {"anyOf": _field(kept, definitions, depth)}
    return {
        key: _field(entry, definitions, depth)
        for key, entry in value.items()
        if key not in ("title", "description", "default")
    }


def _is_left_out(field: Field[Any], value: Any) -> bool:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return value is None or value == default


class _Schema(GenerateJsonSchema):
    """A field that may be None may be left out, too."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return super().field_is_required(field, total) and field["schema"]["type"] != "nullable"
