"""Pieces of JSON schema, and what the OpenAPI document says of one route."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
BOOLEAN: Schema = {"type": "boolean"}


def object_of(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, **more}


def list_of(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


ERROR = object_of(
    {
        "error": STRING,
        "code": STRING,
        "field": STRING,
        "limit": {},
        "index": INTEGER,
        "request_id": STRING,
    },
    ["error", "code"],
    additionalProperties=False,
)
OPENAI_ERROR = object_of(
    {
        "error": object_of(
            {"message": STRING, "type": STRING, "param": nullable(STRING), "code": STRING}
        )
    }
)


def json_content(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def route(
    summary: str,
    answer: Schema,
    *,
    body: Schema | None = None,
    parameters: list[Schema] | None = None,
    error: Schema = ERROR,
    is_body_required: bool = True,
) -> dict[str, Any]:
    """Arguments for `add_api_route`; `answer` and `body` are OpenAPI content maps."""
    extra: Schema = {}
    if body is not None:
        extra["requestBody"] = {"required": is_body_required, "content": body}
    if parameters:
        extra["parameters"] = parameters
    return {
        "summary": summary,
        "responses": {
            200: {"description": "OK", "content": answer},
            "default": {"description": "Any error of the table", "content": json_content(error)},
        },
        "openapi_extra": extra,
    }


def health(summary: str, schema: Schema) -> dict[str, Any]:
    """A probe: 503 has the body of 200, with the other value."""
    content = json_content(schema)
    return {
        "summary": summary,
        "responses": {
            200: {"description": "Yes", "content": content},
            503: {"description": "No", "content": content},
        },
    }


def form(file_field: str, fields: Schema, required: list[str]) -> Schema:
    properties = {file_field: {"type": "string", "format": "binary"}, **fields}
    schema = object_of(properties, [file_field, *required], additionalProperties=False)
    return {"multipart/form-data": {"schema": schema}}
