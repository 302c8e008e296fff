"""Every way the desk says no, in one shape: `{"error": {"code", "message"}}`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy.exc as sqlalchemy_errors
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, compile_path

from billhook.errors import Refused, SettingsError, TryAgain
from billhook.store.database import is_store_away

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
        401: "The key is missing, unknown or revoked.",
        403: "Only the operator's key may do this.",
        404: "There is no such thing, or it belongs to another merchant.",
        408: "The request did not arrive in time.",
        409: "The thing is not in a state in which this can be done.",
        413: "The body is larger than it may be: 64 KiB, if nothing else is said.",
        422: "A field is missing or cannot be what was sent.",
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
        *("endpoints_too_many", "secrets_too_many", "finding_state"),
    }
)
"""Codes of what would be right at another time."""

_OF_STATUS = {404: "not_found", 405: "method_not_allowed"}


def answer(error: Exception) -> JSONResponse:
    """The response that an error becomes. An error that is not the caller's fault is logged, without details in the
    response."""
    match error:
        case Refusal():
            return _response(error.status, error.code, str(error), error.headers)
        case Refused() if error.code == "template_busy":
            return _unavailable(error.code, str(error))
        case Refused():
            return _response(409 if error.code in _OF_STATE else 422, error.code, str(error))
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            message = str(error.detail)
            return _response(error.status_code, _OF_STATUS.get(error.status_code, "unreadable"), message, error.headers)
        case SettingsError():
            log.error("a setting is missing or wrong", extra={"reason": str(error)})
            return _unavailable("not_configured", "The desk is not set up for this; its operator finds why in the log.")
        case TryAgain():
            log.warning("storage did not answer", extra={"reason": str(error)})
            return _unavailable("storage_unavailable", "The document storage does not answer. Ask again.")
        case _ if is_store_away(error):
            log.error("the database is away", extra={"reason": str(error)})
            return _unavailable("store_unavailable", "The database does not answer. Ask again.")
    log.error("request failed", exc_info=error)
    return _response(500, "internal", "The desk failed; its log says why.")


def _unavailable(code: str, message: str) -> JSONResponse:
    return _response(503, code, message, {"Retry-After": RETRY_AFTER_SECONDS})


def _invalid(error: RequestValidationError) -> JSONResponse:
    problems = error.errors()
    if any(problem["loc"][0] == "path" for problem in problems):
        return answer(Refusal(404, "not_found", "There is no such thing: that is not an id billhook makes."))
    if any(problem["type"] == "json_invalid" for problem in problems):
        return answer(Refusal(400, "not_json", "The body is not JSON."))
    lines = [f"{_field(problem['loc'])}: {problem['msg']}" for problem in problems[:10]]
    return _response(422, "invalid", "; ".join(lines))


def _field(location: tuple[Any, ...]) -> str:
    """Where in the request, e.g. `body.event_types.0`; a caller may have named the field anything."""
    text = ".".join(str(part) for part in location)
    return "".join(char if char.isprintable() else "?" for char in text)[:200]


def _response(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status, dict(headers or {}))


def _methods(app: FastAPI, request: Request) -> set[str]:
    """What the path can be asked for: the framework names the methods of its first route alone."""
    fitting = (route for route in app.routes if route.matches(request.scope)[0] is not Match.NONE)
    served = {method for route in fitting for method in getattr(route, "methods", None) or ()}
    documented = (  # among them what is answered before FastAPI's routes
        item for path, item in app.openapi()["paths"].items() if compile_path(path)[0].match(request.scope["path"])
    )
    return served | {method.upper() for item in documented for method in item if method != "parameters"}


def install(app: FastAPI) -> None:
    async def handle(request: Request, error: Exception) -> JSONResponse:
        response = answer(error)
        if response.status_code == 405:
            response.headers["Allow"] = ", ".join(sorted(_methods(app, request)))
        return response

    for kind in (
        Refusal,
        Refused,
        SettingsError,
        TryAgain,
        RequestValidationError,
        HTTPException,
        sqlalchemy_errors.SQLAlchemyError,
    ):
        app.add_exception_handler(kind, handle)
