"""The desk's refusals where FastAPI answers: what it finds wrong with a request, and what a route raises."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy.exc as sqlalchemy_errors
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, compile_path

from billhook.errors import Refused, SettingsError, TryAgain
from services.desk import refusals
from services.desk.refusals import Refusal

HANDLED: Final[tuple[type[Exception], ...]] = (
    *(Refusal, Refused, SettingsError, TryAgain, RequestValidationError, HTTPException),
    sqlalchemy_errors.SQLAlchemyError,
)
"""What the applications of the desk answer themselves."""


def told(error: Exception) -> Refusal:
    """How an error is told, also one that FastAPI raised."""
    return _invalid(error) if isinstance(error, RequestValidationError) else refusals.refusal_of(error)


def _invalid(error: RequestValidationError) -> Refusal:
    problems = error.errors()
    if any(problem["loc"][0] == "path" for problem in problems):
        return Refusal(404, "not_found", "There is no such thing: that is not an id billhook makes.")
    if any(problem["type"] == "json_invalid" for problem in problems):
        return Refusal(400, "not_json", "The body is not JSON.")
    lines = [f"{_field(problem['loc'])}: {problem['msg']}" for problem in problems[:10]]
    return Refusal(422, "invalid", "; ".join(lines))


def _field(location: tuple[Any, ...]) -> str:
    """Where in the request, e.g. `body.event_types.0`; a caller may have named the field anything."""
    text = ".".join(str(part) for part in location)
    return "".join(char if char.isprintable() else "?" for char in text)[:200]


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
        response = refusals.answer(told(error))
        if response.status_code == 405:
            response.headers["Allow"] = ", ".join(sorted(_methods(app, request)))
        return response

    for kind in HANDLED:
        app.add_exception_handler(kind, handle)
