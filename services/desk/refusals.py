"""Every way the desk says no, in one shape: `{"error": {"code", "message"}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from billhook.errors import Refused, SettingsError, TryAgain
from billhook.rules.limits import ROOM
from billhook.store.database import is_store_away, is_unwritable

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = "5"


class Refusal(Exception):
    """An answer that is not a 2xx."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


def not_found(what: str) -> Refusal:
    """The same answer for what does not exist and for what is another merchant's."""
    return Refusal(404, "not_found", f"There is no such {what}.")


def operator_only() -> Refusal:
    return Refusal(403, "operator_only", "Only the operator's key may do this.")


# Not as a model: FastAPI would say that the error of a page is HTML.
DECLARED: Final[dict[int | str, dict[str, Any]]] = {
    status: {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    for status, description in {
        400: "The request cannot be read.",
        401: "The key is missing, unknown, revoked or past its time.",
        403: "Only the operator's key may do this, or the key may only look, or only publish.",
        404: "There is no such thing, or it belongs to another merchant.",
        408: "The request did not arrive in time.",
        409: "The thing is not in a state in which this can be done.",
        413: "The body is larger than it may be: 64 KiB, if nothing else is said.",
        415: "The body is compressed.",
        422: "A field is missing or cannot be what was sent.",
        429: "More was asked than a merchant may, or too many wrong keys came; Retry-After says when to ask again.",
        500: "The desk failed; its log says why.",
        503: "Something the desk needs does not answer; Retry-After says when to ask again.",
    }.items()
}
"""What every route of the API can answer, for its document."""

_OF_STATE = frozenset(
    {
        *("invoice_state", "invoice_empty", "invoice_credited", "e_invoice_incomplete"),
        *("document_failed", "template_in_use"),
        *("dunning_state", "dunning_owner", "dunning_source", "dunning_key", "dunning_unanswered"),
        *("secrets_too_many", "finding_state"),
        *(f"{what}_too_many" for what in ROOM),
    }
)
"""Codes of what would be right at another time."""

_OF_STATUS = {404: "not_found", 405: "method_not_allowed"}


def answer(error: Exception) -> JSONResponse:
    """The response that an error becomes."""
    said = refusal_of(error)
    body = {"error": {"code": said.code, "message": str(said)}}
    return JSONResponse(body, said.status, dict(said.headers or {}))


def refusal_of(error: Exception) -> Refusal:
    """How an error is told. One that is not the caller's fault is logged, and told without details."""
    match error:
        case Refusal():
            return error
        case Refused() if error.code == "template_busy":
            return _unavailable(error.code, str(error))
        case Refused():
            return Refusal(409 if error.code in _OF_STATE else 422, error.code, str(error))
        case HTTPException():
            message = str(error.detail)
            return Refusal(error.status_code, _OF_STATUS.get(error.status_code, "unreadable"), message, error.headers)
        case SettingsError():
            log.error("a setting is missing or wrong", extra={"reason": str(error)})
            return _unavailable("not_configured", "The desk is not set up for this; its operator finds why in the log.")
        case TryAgain():
            log.warning("storage did not answer", extra={"reason": str(error)})
            return _unavailable("storage_unavailable", "The document storage does not answer. Ask again.")
        case _ if is_unwritable(error):
            return _unavailable("store_unavailable", "The database takes nothing more now. Ask again.")
        case _ if is_store_away(error):
            return _unavailable("store_unavailable", "The database does not answer. Ask again.")
    log.error("request failed", exc_info=error)
    return Refusal(500, "internal", "The desk failed; its log says why.")


def _unavailable(code: str, message: str) -> Refusal:
    return Refusal(503, code, message, {"Retry-After": RETRY_AFTER_SECONDS})
