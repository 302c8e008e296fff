"""Dead letters: found by queue, merchant and reason; replayed one by one or many at once, after a dry run; discarded
with a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import Response

from billhook.actions.dead_letters import discard_dead_letters, replay_dead_letters
from billhook.actions.ringing import ring
from billhook.store import dead_letters as store
from billhook.store import queues
from billhook.store.database import Tx
from billhook.store.dunning_cases import get_case
from billhook.store.merchants import get_merchant
from billhook.store.operator_actions import list_actions
from billhook.store.queues import QUEUES
from services.desk.console.lists import PAGE, Filters, filters_of, is_more
from services.desk.console.rendering import page
from services.desk.console.session import Acting, EnvIn, OperateIn, SessionIn
from services.desk.dependencies import Id
from services.desk.refusals import Refusal, not_found

router = APIRouter()

AT_ONCE: Final = 1000
"""Letters that one click replays: one short transaction."""

SHOWN: Final = 10
"""Letters that a dry run names."""

PLACES: Final = {"inbox": "/events/", "deliveries": "/deliveries/", "dunning_cases": "/dunning/"}
"""Where the console shows the work itself."""


@router.get("/dead-letters")
def list_letters(request: Request, env: EnvIn, session: SessionIn) -> Response:
    filters = filters_of(request)
    with env.database.read() as tx:
        found = _list(tx, filters, before=filters.id("before"), limit=PAGE + 1)
    letters = found[:PAGE]
    more = filters.behind(letters[-1]["id"] if len(found) > PAGE else None)
    template = "dead_letters_rows.html" if is_more(request) else "dead_letters.html"
    return page(request, template, letters=letters, more=more, filters=filters, queues=list(QUEUES))


def _list(tx: Tx, filters: Filters, *, before: str | None = None, limit: int) -> list[Any]:
    return store.list_dead(
        tx,
        merchant_id=filters.id("merchant"),
        queue=filters.one_of("queue", QUEUES),
        before=before,
        limit=limit,
        only=store.reason_holds(filters.text("reason")),
    )


@router.get("/dead-letters/{letter_id}")
def show_letter(request: Request, env: EnvIn, session: SessionIn, letter_id: Id) -> Response:
    with env.database.read() as tx:
        letter = _find(tx, letter_id)
        work_id = letter["work_id"]
        stopped = queues.stopped(tx, work_ids=[work_id]) if letter["queue"] == "deliveries" else []
        place = PLACES.get(letter["queue"])
        if letter["queue"] == "dunning_cases" and get_case(tx, work_id) is None:
            place = None
        merchant = get_merchant(tx, letter["merchant_id"])
        actions = list_actions(tx, subject=letter_id, limit=20)
    return page(
        request,
        "dead_letter.html",
        letter=letter,
        merchant=merchant,
        work=None if place is None else place + work_id,
        stopped=stopped,
        actions=actions,
    )


def _find(tx: Tx, letter_id: str) -> Any:
    letter = store.get_dead(tx, letter_id)
    if letter is None:
        raise not_found("dead letter")
    return letter


@router.post("/dead-letters/{letter_id}/replay")
def replay(acting: OperateIn, letter_id: Id) -> Response:
    with acting.env.database.begin() as tx:
        letter = _open(_find(tx, letter_id))
        rings = replay_dead_letters(tx, [letter], by=acting.by, now=acting.env.clock())
        acting.note(tx, "dead_letter.replay", letter_id, letter["merchant_id"], work_id=letter["work_id"])
    ring(acting.env, rings)
    return acting.back(f"/dead-letters/{letter_id}", "The work is done again, with a new budget of attempts.")


@router.post("/dead-letters/{letter_id}/discard")
def discard(acting: OperateIn, letter_id: Id) -> Response:
    reason = acting.reason()
    with acting.env.database.begin() as tx:
        letter = _open(_find(tx, letter_id))
        discard_dead_letters(tx, [letter], by=acting.by, now=acting.env.clock())
        acting.note(tx, "dead_letter.discard", letter_id, letter["merchant_id"], reason=reason)
    return acting.back(f"/dead-letters/{letter_id}", "It is closed without its work being done.")


def _open(letter: Any) -> Any:
    if letter["resolved_at"] is not None:
        raise Refusal(409, "already_resolved", f"This letter was {letter['resolution']} by {letter['resolved_by']}.")
    return letter


@router.post("/dead-letters/many")
def many(request: Request, acting: OperateIn) -> Response:
    """What is chosen, or all that the filter finds: shown first, and done when it is said once more."""
    verb = acting.form.one("verb")
    filters = Filters({"reason": acting.form.one("holds"), **{n: acting.form.one(n) for n in ("queue", "merchant")}})
    chosen = acting.form.all("letter")
    if verb not in ("replay", "discard") or len(chosen) > AT_ONCE:
        raise Refusal(422, "invalid", "That is not what the list of dead letters sends.")
    if acting.form.one("sure"):
        if not chosen:
            raise Refusal(422, "none_chosen", "Nothing was chosen: begin at the list of dead letters.")
        return _do(acting, verb, filters, chosen)
    with acting.env.database.read() as tx:
        letters, refused = _chosen(tx, verb, filters, chosen)
    return page(
        request,
        "dead_letters_many.html",
        verb=verb,
        filters=filters,
        chosen=[letter["id"] for letter in letters],  # what fails while somebody reads the page is not meant
        letters=letters[:SHOWN],
        number=len(letters),
        most=AT_ONCE,
        refused=refused,
    )


def _chosen(tx: Tx, verb: str, filters: Filters, chosen: Sequence[str]) -> tuple[list[Any], list[queues.Stopped]]:
    """The letters that are meant, and the endpoints that keep some of them from being replayed."""
    if chosen:
        letters = store.list_dead(tx, limit=AT_ONCE, only=store.named(chosen))
    else:
        letters = _list(tx, filters, limit=AT_ONCE)
    if verb == "discard":
        return letters, []
    sent = [letter["work_id"] for letter in letters if letter["queue"] == "deliveries"]
    stopped = queues.stopped(tx, work_ids=sent) if sent else []
    held = queues.held_up(tx, sent) if stopped else set()
    return [letter for letter in letters if letter["work_id"] not in held], stopped


def _do(acting: Acting, verb: str, filters: Filters, chosen: Sequence[str]) -> Response:
    env, reason = acting.env, acting.reason() if verb == "discard" else ""
    rings: dict[str, list[str]] = {}
    with env.database.begin() as tx:
        letters, _ = _chosen(tx, verb, filters, chosen)
        if verb == "replay":
            rings = replay_dead_letters(tx, letters, by=acting.by, now=env.clock())
        else:
            discard_dead_letters(tx, letters, by=acting.by, now=env.clock())
        given = {name: value for name, value in filters.given.items() if value}
        acting.note(tx, f"dead_letters.{verb}", "many", count=len(letters), reason=reason, filter=given)
    ring(env, rings)
    done = "are done again" if verb == "replay" else "are closed"
    query = urlencode(given)
    return acting.back(f"/dead-letters{'?' if query else ''}{query}", f"{len(letters):,} {done}.")
