"""The entry of `POST /v1/messages` in the OpenAPI document: FastAPI does not serve it, so it cannot describe it."""

from __future__ import annotations

from typing import Any, Final

from services.desk import bodies, refusals
from services.desk.headers import REPLAYED
from services.desk.routes.publishing import MessagePublished, NewMessage

OPERATION: Final[dict[str, Any]] = {
    "tags": ["messages"],
    "summary": "Publish Message",
    "description": "Publish an event to the endpoints that want it, once for each key.",
    "operationId": "publish_message",
    "security": [{"HTTPBearer": []}],
    "parameters": [
        {
            "name": "merchant_id",
            "in": "query",
            "required": False,
            "description": "Whose it shall be. Needed with the operator's key, else left out.",
            "schema": {"type": "string", "pattern": "^[a-z]{2,8}_[0-9a-f]{32}$"},
        },
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": True,
            "description": "Yours for this event. The same request under the same key is answered again, and published"
            " once.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]([ -~]*[!-~])?$"},
        },
    ],
    **bodies.asks(NewMessage),
    "responses": {
        "201": {"description": "It is durable, and on its way.", **bodies.answers(MessagePublished)},
        "200": {
            "description": "It was published before, under this key.",
            "headers": {REPLAYED: {"schema": {"type": "string", "enum": ["true"]}}},
            **bodies.answers(MessagePublished),
        },
        **{str(status): answer for status, answer in refusals.DECLARED.items()},
    },
}
