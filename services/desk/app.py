"""The desk's ASGI application: authentication, the routes, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from billhook.errors import ANSWER_SCHEMA
from billhook.rules.book import KINDS
from billhook.runtime.env import Env
from billhook.runtime.group_commit import give_way
from billhook.runtime.health import Probes, probe_routes
from billhook.runtime.service import ASGIApp, Health
from services.desk import bodies, refusals
from services.desk.authentication import Authentication, Callers
from services.desk.dependencies import BEARER
from services.desk.routes import (
    book,
    credit_notes,
    dead_letters,
    documents,
    dunning,
    endpoint_actions,
    endpoints,
    events,
    exports,
    hosted,
    invoices,
    invoicing_settings,
    mails,
    merchants,
    messages,
    own_invoices,
    publishing,
    reconciliation,
    replays,
    sources,
)

SUBJECTS = (
    *(merchants, invoicing_settings, sources, endpoints, endpoint_actions, events, book),
    *(invoices, own_invoices, credit_notes, documents, hosted, exports, mails),
    *(messages, replays, dead_letters, dunning, reconciliation),
)


def build(env: Env, health: Health) -> ASGIApp:
    give_way()
    app = desk(env, health, probe_routes(Probes(env, health)))

    async def service(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    return service


def desk(env: Env, health: Health, probes: Sequence[BaseRoute] = ()) -> ASGIApp:
    """The API itself: FastAPI's routes, and before them the one that is asked the most."""
    callers, line = Callers(env), publishing.publishing_line(env)
    health.watch(lambda: line.problem or callers.line.problem)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        line.stop()
        callers.line.stop()

    app = FastAPI(
        title="billhook desk", version="1", lifespan=lifespan, docs_url="/docs", redoc_url=None, redirect_slashes=False
    )
    app.state.env = env
    for subject in SUBJECTS:
        app.include_router(subject.router, dependencies=[BEARER], responses=refusals.DECLARED)
    app.include_router(hosted.public)
    app.router.routes.extend(probes)
    refusals.install(app)
    app.add_middleware(Authentication, callers=callers)
    _describe(app)
    return publishing.PublishRoute(app, env, callers, line)


def _describe(app: FastAPI) -> None:
    """Add to the document what the values of the book, and those that routes read, say of their own fields."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = document["components"]["schemas"]
            references, fields = _book_schemas()
            schemas.update({**fields, **bodies.schemas()})
            schemas["Error"] = ANSWER_SCHEMA
            document["paths"][publishing.PATH]["post"] = publishing.OPERATION
            schemas["EntryShown"]["anyOf"] = list(references.values())
            schemas["InvoiceShown"]["allOf"] = [references["invoice"]]
            schemas["CreditNoteShown"]["allOf"] = [references["credit_note"]]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _book_schemas() -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """A reference for each kind, and the schemas they refer to."""
    references, fields = msgspec.json.schema_components(KINDS.values(), ref_template="#/components/schemas/{name}")
    return dict(zip(KINDS, references, strict=True)), fields
