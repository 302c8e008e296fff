"""A merchant's own pages, for whoever holds the link that the API made: their endpoints, deliveries, invoices, and no
row of anybody else's.

The link is the session: its token is in the path of every page, so that the pages work in a frame of the merchant's
own site, where browsers send no cookies. It is good for a short while, and no page sends it anywhere.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from billhook.actions.endpoints import enable_endpoint, rotate
from billhook.actions.ringing import ring
from billhook.rules.endpoint_settings import OVERLAP_SECONDS
from billhook.runtime.env import Env
from billhook.store.database import Tx
from billhook.store.documents import documents_by_id
from billhook.store.endpoints import endpoints_of, list_endpoints, set_disabled
from billhook.store.merchant_views import MerchantView, find_merchant_view
from billhook.store.merchants import get_merchant
from billhook.store.messages import types_of
from billhook.store.operator_actions import note_action
from services.desk.console.deliveries import STATES, delivery_shown, find_deliveries, find_delivery, send_again
from services.desk.console.documents import pdf_of
from services.desk.console.endpoints import find_endpoint, ping_one, shown_of
from services.desk.console.invoices import STATUSES, find_invoices, invoice_shown, sheet_of
from services.desk.console.lists import filters_of, is_more
from services.desk.console.rendering import page
from services.desk.console.session import EnvIn, Form, FormIn, back, own_page
from services.desk.dependencies import Id
from services.desk.refusals import Refusal, not_found

router = APIRouter(prefix="/m/{token}")

MOST_ENDPOINTS: Final = 200


class Visit:
    """Somebody with a good link."""

    def __init__(self, request: Request, env: Env, view: MerchantView, token: str) -> None:
        self._request = request
        self.env = env
        self.view = view
        self.merchant_id = view.merchant_id
        self.root = f"/m/{token}"

    @property
    def by(self) -> str:
        return f"merchant's view {self.view.id}"

    @property
    def frames(self) -> str:
        """Whose pages may frame this one."""
        return " ".join(["'self'", *self.view.embed_origins])

    def page(self, request: Request, template: str, **values: Any) -> Response:
        with self.env.database.read() as tx:
            merchant = get_merchant(tx, self.merchant_id)
        response = page(
            request,
            template,
            frames=self.frames,
            root=self.root,
            view=self.view,
            owner=merchant,
            here=request.url.path,
            **values,
        )
        response.headers["Cross-Origin-Opener-Policy"] = "unsafe-none"
        return response

    def back(self, path: str, sentence: str) -> Response:
        return back(self._request, f"{self.root}{path}", sentence)

    def note(self, tx: Tx, action: str, subject: str) -> None:
        note_action(tx, action, subject, by=self.by, now=self.env.clock(), merchant_id=self.merchant_id)


def visiting(request: Request, env: EnvIn, token: str) -> Visit:
    with env.database.read() as tx:
        view = find_merchant_view(tx, token, env.clock())
    if view is None:
        raise Refusal(404, "not_found", "This link is over, or never was one. Open the page again where you found it.")
    return Visit(request, env, view, token)


VisitIn = Annotated[Visit, Depends(visiting)]


def changing(request: Request, visit: VisitIn) -> Visit:
    """Somebody whose link may change things. Only who has the link can send a form here, so it needs no other token."""
    own_page(request)
    if not visit.view.may_change:
        raise Refusal(403, "view_only", "This link only shows; it changes nothing.")
    return visit


ChangeIn = Annotated[Visit, Depends(changing)]


@router.get("")
def start(request: Request, visit: VisitIn) -> Response:
    filters = filters_of(request)
    with visit.env.database.read() as tx:
        endpoints = list_endpoints(tx, visit.merchant_id, limit=MOST_ENDPOINTS)
        window = find_deliveries(tx, filters, visit.merchant_id)
        known = endpoints_of(tx, {row["endpoint_id"] for row in window.rows})
        types = types_of(tx, {row["message_id"] for row in window.rows})
    return visit.page(
        request,
        "m_start.html",
        mine=endpoints,
        window=window,
        endpoints=known,
        types=types,
        more=None,
        filters=filters,
        states=STATES,
    )


@router.get("/deliveries")
def list_deliveries(request: Request, visit: VisitIn) -> Response:
    filters = filters_of(request)
    with visit.env.database.read() as tx:
        window = find_deliveries(tx, filters, visit.merchant_id)
        endpoints = endpoints_of(tx, {row["endpoint_id"] for row in window.rows})
        types = types_of(tx, {row["message_id"] for row in window.rows})
    return visit.page(
        request,
        "deliveries_rows.html" if is_more(request) else "m_deliveries.html",
        window=window,
        endpoints=endpoints,
        types=types,
        more=filters.behind(window.next),
        filters=filters,
        states=STATES,
    )


@router.get("/deliveries/{delivery_id}")
def show_delivery(request: Request, visit: VisitIn, delivery_id: Id) -> Response:
    with visit.env.database.read() as tx:
        shown = delivery_shown(tx, delivery_id, visit.merchant_id)
    return visit.page(request, "m_delivery.html", **shown)


@router.post("/deliveries/{delivery_id}/replay")
def replay(visit: ChangeIn, delivery_id: Id) -> Response:
    with visit.env.database.begin() as tx:
        row = find_delivery(tx, delivery_id, visit.merchant_id)
        rings = send_again(tx, row, by=visit.by, now=visit.env.clock())
        visit.note(tx, "delivery.replay", delivery_id)
    ring(visit.env, rings)
    return visit.back(f"/deliveries/{delivery_id}", "It is sent again.")


@router.get("/endpoints/{endpoint_id}")
def show_endpoint(request: Request, visit: VisitIn, endpoint_id: Id) -> Response:
    with visit.env.database.read() as tx:
        shown = shown_of(visit.env, tx, find_endpoint(tx, endpoint_id, visit.merchant_id))
    return visit.page(request, "m_endpoint.html", **shown, secret=None)


@router.post("/endpoints/{endpoint_id}/rotate")
def rotate_secret(request: Request, visit: ChangeIn, form: FormIn, endpoint_id: Id) -> Response:
    """The new secret is on this one page, and nowhere after it."""
    overlap = 0 if form.one("at_once") else OVERLAP_SECONDS
    with visit.env.database.begin() as tx:
        find_endpoint(tx, endpoint_id, visit.merchant_id)
        secret = rotate(visit.env, tx, endpoint_id, overlap_seconds=overlap, now=visit.env.clock())
        visit.note(tx, "endpoint.rotate", endpoint_id)
        shown = shown_of(visit.env, tx, find_endpoint(tx, endpoint_id, visit.merchant_id))
    return visit.page(request, "m_endpoint.html", **shown, secret=secret or shown["endpoint"]["public_key"])


@router.post("/endpoints/{endpoint_id}/test")
def test(visit: ChangeIn, endpoint_id: Id) -> Response:
    with visit.env.database.begin() as tx:
        due = ping_one(tx, find_endpoint(tx, endpoint_id, visit.merchant_id), visit.env)
        visit.note(tx, "endpoint.test", endpoint_id)
    ring(visit.env, {"deliveries": due})
    return visit.back(f"/deliveries/{due[0]}", "A ping is on its way.")


@router.post("/endpoints/{endpoint_id}/{verb}")
def stop_or_start(visit: ChangeIn, form: FormIn, endpoint_id: Id, verb: str) -> Response:
    if verb not in ("disable", "enable"):
        raise not_found("page")
    env, job = visit.env, None
    with env.database.begin() as tx:
        find_endpoint(tx, endpoint_id, visit.merchant_id)
        if verb == "disable":
            set_disabled(tx, endpoint_id, env.clock(), "disabled by its merchant")
        else:
            job = enable_endpoint(tx, endpoint_id, replay_held=_wants_held(form), by=visit.by, now=env.clock())
        visit.note(tx, f"endpoint.{verb}", endpoint_id)
    if job is not None:
        ring(env, {"replays": [job]})
    return visit.back(f"/endpoints/{endpoint_id}", f"It is {verb}d.")


def _wants_held(form: Form) -> bool:
    return bool(form.one("replay_held"))


@router.get("/invoices")
def list_invoices(request: Request, visit: VisitIn) -> Response:
    filters = filters_of(request)
    with visit.env.database.read() as tx:
        found = find_invoices(tx, filters, visit.merchant_id)
    return visit.page(
        request,
        "invoices_rows.html" if is_more(request) else "m_invoices.html",
        invoices=found.rows,
        more=filters.behind(found.next),
        back_to=found.searched_back_to,
        filters=filters,
        statuses=STATUSES,
    )


@router.get("/invoices/{invoice_id}")
def show_invoice(request: Request, visit: VisitIn, invoice_id: Id) -> Response:
    with visit.env.database.read() as tx:
        shown = invoice_shown(tx, invoice_id, visit.merchant_id)
    return visit.page(request, "m_invoice.html", **shown)


@router.get("/documents/{document_id}.pdf")
def get_pdf(visit: VisitIn, document_id: Id) -> Response:
    return pdf_of(visit.env, _document(visit, document_id), visit.frames)


@router.get("/documents/{document_id}/page")
def get_sheet(visit: VisitIn, document_id: Id) -> Response:
    return sheet_of(visit.env, _document(visit, document_id), visit.frames)


def _document(visit: Visit, document_id: str) -> Any:
    with visit.env.database.read() as tx:
        found = documents_by_id(tx, [document_id])
    if not found or found[0]["merchant_id"] != visit.merchant_id:
        raise not_found("document")
    return found[0]
