"""The hot route's entry in the OpenAPI document. FastAPI does not serve that route, so it cannot describe it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from billhook.errors import ANSWER_SCHEMA
from billhook.providers import PROVIDERS

_RECEIPT = {
    "type": "object",
    "required": ["id", "status"],
    "properties": {
        "id": {"type": "string", "description": "billhook's id of the event, also when it was sent before."},
        "status": {"enum": ["accepted", "duplicate", "conflict"]},
    },
}
_REFUSALS = {
    400: "The body is not the provider's JSON, or has no id.",
    401: "The signature is missing, malformed, stale, from the future, or made with another secret.",
    404: "There is no such source.",
    405: "Only POST is allowed.",
    413: "The body is larger than 1 MiB.",
    408: "The request did not arrive in time.",
    415: "The content type is not JSON, or the body is compressed.",
    503: "The event could not be stored; Retry-After says when to send again.",
}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "description": description}


_EXAMPLE = {"type": "customer.created", "data": {"external_id": "cus_1", "name": "Ada Lovelace"}}
"""Of a source of the provider `standard`; the others post what they please."""

_OPERATION: dict[str, Any] = {
    "operationId": "post_event",
    "summary": "Post one signed event",
    "description": "A 2xx means the event is durable. A known id answers 2xx again.",
    "parameters": [
        {"name": "source_id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[^/]+$"}},
        *(
            _header(name, f"For sources of the provider `{provider.name}`: {what}.")
            for provider in PROVIDERS.values()
            for name, what in provider.headers.items()
        ),
    ],
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}, "example": _EXAMPLE}},
    },
    "responses": {
        "200": _json("The event is stored.", _RECEIPT),
        **{str(status): _json(description, ANSWER_SCHEMA) for status, description in _REFUSALS.items()},
    },
}


def describe(app: FastAPI) -> None:
    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version="1", routes=app.routes)
            schema["paths"]["/v1/sources/{source_id}/events"] = {"post": _OPERATION}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
