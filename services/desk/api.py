"""The desk's API but for publishing: FastAPI's routes, behind `authentication.py`, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute, Route

from billhook.errors import ANSWER_SCHEMA
from billhook.rules.book.kinds import KINDS
from billhook.runtime.api_pages import api_page
from billhook.runtime.env import Env
from services.desk import bodies, handlers, published, refusals
from services.desk.authentication import Authentication, Callers
from services.desk.dependencies import BEARER
from services.desk.examples import add_examples
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
    merchant_views,
    merchants,
    messages,
    own_invoices,
    reconciliation,
    replays,
    sources,
)
from services.desk.routes.publishing import PATH

TITLE = "billhook desk"
VERSION = "1"
SUBJECTS = (
    *(merchants, merchant_views, invoicing_settings, sources, endpoints, endpoint_actions, events, book),
    *(invoices, own_invoices, credit_notes, documents, hosted, exports, mails),
    *(messages, replays, dead_letters, dunning, reconciliation),
)


def api(env: Env, callers: Callers, probes: Sequence[Route]) -> FastAPI:
    app = FastAPI(title=TITLE, version=VERSION, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.env = env
    app.router.routes.extend([*_routes(), *api_page(TITLE), *probes])
    app.openapi = _document  # type: ignore[method-assign]
    handlers.install(app)
    app.add_middleware(Authentication, callers=callers, clock=env.clock)
    return app


@cache
def _routes() -> Sequence[BaseRoute]:
    """The same for every desk of a process: what FastAPI works out of them takes as long as a hundred requests."""
    router = APIRouter()
    for subject in SUBJECTS:
        router.include_router(subject.router, dependencies=[BEARER], responses=refusals.DECLARED)
    router.include_router(hosted.public)
    return tuple(router.routes)


@cache
def _document() -> dict[str, Any]:
    """With what the values of the book, and those that routes read, say of their own fields."""
    document = get_openapi(title=TITLE, version=VERSION, routes=_routes())
    schemas = document["components"]["schemas"]
    references, fields = _book_schemas()
    schemas.update({**fields, **bodies.schemas()})
    schemas["Error"] = ANSWER_SCHEMA
    document["paths"][PATH]["post"] = deepcopy(published.OPERATION)
    add_examples(document)
    schemas["EntryShown"]["anyOf"] = list(references.values())
    schemas["InvoiceShown"]["allOf"] = [references["invoice"]]
    schemas["CreditNoteShown"]["allOf"] = [references["credit_note"]]
    return document


def _book_schemas() -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """A reference for each kind, and the schemas they refer to."""
    references, fields = msgspec.json.schema_components(KINDS.values(), ref_template="#/components/schemas/{name}")
    return dict(zip(KINDS, references, strict=True)), fields
