"""Whether a value is what an OpenAPI description says, as far as ours goes: the words that it uses, and no others."""

from __future__ import annotations

import re
from typing import Any

KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
WORDS = set("$ref type properties required additionalProperties items pattern minimum maximum enum default description".split())


def breaches(schema: dict[str, Any], value: Any, schemas: dict[str, Any], where: str = "$") -> list[str]:
    """Every place where `value` is not what `schema` says."""
    if "$ref" in schema:
        return breaches(schemas[schema["$ref"].rpartition("/")[2]], value, schemas, where)
    assert not set(schema) - WORDS, f"{where}: this checker does not know {set(schema) - WORDS}"
    kinds = schema.get("type", list(KINDS))
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not any(isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool)) for kind in kinds):
        return [f"{where}: {value!r} is not of type {kinds}"]
    found: list[str] = []
    if isinstance(value, str) and "pattern" in schema and re.search(schema["pattern"], value) is None:
        found.append(f"{where}: {value!r} does not match {schema['pattern']}")
    if isinstance(value, int | float) and value < schema.get("minimum", value):
        found.append(f"{where}: {value} is below {schema['minimum']}")
    if isinstance(value, list):
        for at, item in enumerate(value):
            found += breaches(schema.get("items", {}), item, schemas, f"{where}[{at}]")
    if isinstance(value, dict):
        found += [f"{where}: {name} is missing" for name in schema.get("required", []) if name not in value]
        others = schema.get("additionalProperties", {})
        for name, item in value.items():
            of = schema.get("properties", {}).get(name, others)
            found += [f"{where}: {name} is not in the schema"] if of is False else breaches(of, item, schemas, f"{where}.{name}")
    return found
