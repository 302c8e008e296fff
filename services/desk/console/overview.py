"""The overview: what comes in and goes out, what waits, what is wrong, and what came last."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from billhook.actions.diagnosis import complaints, queues_shown
from billhook.errors import BillhookError
from billhook.runtime.env import Env
from billhook.store.book import newest_invoices
from billhook.store.database import Tx
from billhook.store.dead_letters import list_dead
from billhook.store.dunning_cases import latest_cases
from billhook.store.figures import MOST, Rate, attempted, open_letters, received
from billhook.store.inbox import list_events
from services.desk.console.plots import Plot, bars, spans
from services.desk.console.rendering import page
from services.desk.console.session import EnvIn, SessionIn

router = APIRouter()


@dataclass(frozen=True)
class Range:
    """What the plots show."""

    lasting: timedelta
    each: timedelta
    words: str


HOUR: Final = Range(timedelta(hours=1), timedelta(minutes=2), "hour")
TEN_MINUTES: Final = Range(timedelta(minutes=10), timedelta(seconds=20), "ten minutes")
"""For an installation in which nothing was before: one sees it move."""

Ask = Callable[[Tx, Sequence[datetime], timedelta], list[Rate]]


class Remembered:
    """What happened in spans that are over is asked once: it does not change any more."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: dict[tuple[datetime, timedelta], Rate] = {}
        self._lock = threading.Lock()

    def of(self, tx: Tx, shown: Range, now: datetime) -> list[Rate]:
        starts = spans(now, shown.lasting, shown.each)
        with self._lock:
            known = {start: self._known[start, shown.each] for start in starts if (start, shown.each) in self._known}
        missing = [start for start in starts if start not in known]
        fresh = dict(zip(missing, self._ask(tx, missing, shown.each), strict=True))
        # A transaction that is still open may belong to a span that has just ended.
        over = {start: rate for start, rate in fresh.items() if start + shown.each < now - timedelta(seconds=30)}
        with self._lock:
            kept = {key: rate for key, rate in self._known.items() if key[1] != shown.each}
            self._known = kept | {(start, shown.each): rate for start, rate in (known | over).items()}
        return [(known | fresh)[start] for start in starts]


@dataclass(frozen=True)
class InAndOut:
    """What came in and what went out."""

    incoming: Remembered = field(default_factory=lambda: Remembered(received))
    outgoing: Remembered = field(default_factory=lambda: Remembered(attempted))


@router.get("/")
def overview(request: Request, env: EnvIn, session: SessionIn) -> Response:
    return page(request, "overview.html", **_figures(env, request.app.state.traffic))


@router.get("/overview/live")
def live(request: Request, env: EnvIn, session: SessionIn) -> Response:
    """The part of the page that is asked for again and again."""
    return page(request, "overview_live.html", **_figures(env, request.app.state.traffic))


def _figures(env: Env, traffic: InAndOut) -> dict[str, Any]:
    now = env.clock()
    with env.database.read() as tx:
        shown = HOUR
        came, went = traffic.incoming.of(tx, shown, now), traffic.outgoing.of(tx, shown, now)
        if not any(rate.count for rate in (*came[:-5], *went[:-5])):
            shown = TEN_MINUTES
            came, went = traffic.incoming.of(tx, shown, now), traffic.outgoing.of(tx, shown, now)
        queues = queues_shown(tx, now)
        letters = open_letters(tx)
        wrong = complaints(tx, queues, letters)
        events = list_events(tx, limit=8)
        dead = list_dead(tx, limit=4)
        invoices = newest_invoices(tx, merchant_id=None, status=None, number=None, before=None, limit=5).rows
        cases = latest_cases(tx, limit=4)
    problem = queue_problem(env)
    waiting = sum(queue.backlog.ready for queue in queues)
    oldest = max((queue for queue in queues if queue.pause is None), key=lambda queue: queue.oldest)
    return {
        "now": now,
        "plots": [_events_plot(came, shown), _webhooks_plot(went, shown)],
        "queues": queues,
        "waiting": waiting,
        "oldest": oldest,
        "wrong": wrong,
        "queue_problem": problem,
        "letters": sum(letters.values()),
        "most": MOST,
        "events": events,
        "dead": dead,
        "invoices": invoices,
        "cases": cases,
    }


def _events_plot(rates: Sequence[Rate], shown: Range) -> Plot:
    total, exact = sum(rate.count for rate in rates), all(rate.exact for rate in rates)
    label = f"Events received over the last {shown.words}, {total:,.0f} in all"
    return Plot("Events in", f"{'' if exact else '≈ '}{total:,.0f}", f"in the last {shown.words}", bars(rates, label))


def _webhooks_plot(rates: Sequence[Rate], shown: Range) -> Plot:
    total, failed = sum(rate.count for rate in rates), sum(rate.failed for rate in rates)
    exact = all(rate.exact for rate in rates)
    label = f"Attempts at webhooks over the last {shown.words}, {total:,.0f} in all, {failed:,.0f} failed"
    well = f", {100 * (1 - failed / total):.3g} % answered well" if total else ""
    figure = f"{'' if exact else '≈ '}{total:,.0f}"
    return Plot("Webhooks out", figure, f"in the last {shown.words}{well}", bars(rates, label))


def queue_problem(env: Env) -> str | None:
    """Why the bell cannot be rung, if so: then everything goes on, a little later."""
    try:
        env.broker.client.ping()
    except BillhookError:
        return None  # none is set for this process, so there is none that could be away
    except Exception as error:
        return str(error).partition("\n")[0] or type(error).__name__
    return None
