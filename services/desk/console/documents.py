"""Documents in place: the file itself, to be shown within a page of ours and nowhere else."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from billhook.outlets.objects import ObjectDiffers, ObjectMissing, document_name
from billhook.runtime.env import Env
from billhook.store.documents import documents_by_id
from services.desk.console.rendering import HEADERS
from services.desk.console.session import EnvIn, SessionIn
from services.desk.dependencies import Id
from services.desk.refusals import Refusal, not_found

router = APIRouter()


@router.get("/documents/{document_id}.pdf")
def get_pdf(env: EnvIn, session: SessionIn, document_id: Id) -> Response:
    with env.database.read() as tx:
        found = documents_by_id(tx, [document_id])
    if not found:
        raise not_found("document")
    return pdf_of(env, found[0], "'self'")


def pdf_of(env: Env, document: Any, frames: str) -> Response:
    """The file, to be shown by the browser; `frames` says in whose pages."""
    if document["state"] != "ready":
        raise Refusal(404, "document_not_ready", "It is still to be made, or could not be.")
    try:
        content = env.objects.get(document["object_key"], document["sha256"])
    except (ObjectDiffers, ObjectMissing) as error:
        raise Refusal(500, "document_damaged", "It was made, but its file is damaged or gone.") from error
    name = document_name(document["kind"], document["id"])
    headers = {
        **HEADERS,
        "Content-Disposition": f'inline; filename="{name}"',
        "Content-Security-Policy": f"default-src 'none'; style-src 'unsafe-inline'; object-src 'self';"
        f" frame-ancestors {frames}",
    }
    return Response(content, media_type="application/pdf", headers=headers)
