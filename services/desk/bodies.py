"""Bodies that are values of `billhook.rules`: the value itself is what is decoded, checked and documented."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Depends, Request
from fastapi.responses import Response

from billhook.actions.typed_json import decoded, whole
from billhook.errors import BodyRefused
from services.desk.refusals import Refusal

T = TypeVar("T", bound=msgspec.Struct)

_SCHEMAS = "#/components/schemas/{name}"

_asked: set[type[msgspec.Struct]] = set()
_answered: set[type[msgspec.Struct]] = set()


async def raw_body(request: Request) -> bytes:
    """The body as it came; `authentication.py` has limited its size."""
    return await request.body()


RawBody = Annotated[bytes, Depends(raw_body)]


def read(kind: type[T]) -> Callable[[bytes], T]:
    """A dependency. It runs in a thread: ten thousand lines must not hold up the requests of others."""

    def body(content: RawBody) -> T:
        try:
            return decoded(content, kind)
        except BodyRefused as error:
            raise Refusal(400, error.code, str(error)) from None

    return body


def asks(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads this value."""
    _asked.add(kind)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _reference(kind)}}}}


def answers(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The entry in the OpenAPI document for a response that is this value as JSON."""
    _answered.add(kind)
    return {"content": {"application/json": {"schema": _reference(kind)}}}


def answer(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(whole(value)), status, media_type="application/json")


def _reference(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"$ref": _SCHEMAS.format(name=kind.__name__)}


def schemas() -> dict[str, Any]:
    """The schemas of every value that a route asks for or answers with."""
    _, fields = msgspec.json.schema_components([*_asked, *_answered], ref_template=_SCHEMAS)
    _, asked = msgspec.json.schema_components(_asked, ref_template=_SCHEMAS)
    for name in asked:
        if "properties" in fields[name]:
            fields[name]["additionalProperties"] = False  # as `decoded` does
    return fields
