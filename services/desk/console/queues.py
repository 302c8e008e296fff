"""Queues: what waits in each, and stopping one and letting it go on."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from billhook.actions.diagnosis import queues_shown
from billhook.store.queue_pauses import pause, resume
from billhook.store.queues import QUEUES
from services.desk.console.rendering import page
from services.desk.console.session import AdminIn, EnvIn, SessionIn
from services.desk.refusals import Refusal, not_found

router = APIRouter()


@router.get("/queues")
def list_queues(request: Request, env: EnvIn, session: SessionIn) -> Response:
    with env.database.read() as tx:
        found = queues_shown(tx, env.clock())
    return page(request, "queues.html", queues=found)


@router.post("/queues/{queue}/pause")
def stop(acting: AdminIn, queue: str) -> Response:
    reason = acting.reason()
    with acting.env.database.begin() as tx:
        if not pause(tx, _known(queue), reason, acting.env.clock(), by=acting.by):
            raise Refusal(409, "already_paused", f"{queue} is paused already.")
        acting.note(tx, "queue.pause", queue, reason=reason)
    return acting.back("/queues", f"{queue} is paused: what is in hand is finished, and nothing more is taken.")


@router.post("/queues/{queue}/resume")
def go_on(acting: AdminIn, queue: str) -> Response:
    with acting.env.database.begin() as tx:
        if not resume(tx, _known(queue)):
            raise Refusal(409, "not_paused", f"{queue} is not paused.")
        acting.note(tx, "queue.resume", queue)
    return acting.back("/queues", f"{queue} goes on.")


def _known(queue: str) -> str:
    if queue not in QUEUES:
        raise not_found("queue")
    return queue
