"""One page of a provider's list beside what the inbox or the book has of it. Reads, and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from billhook.decoding import decode
from billhook.providers.listing import ListedEvent, ListedObject, Page, PlaceLost
from billhook.providers.provider import ProviderApi
from billhook.rules.book.objects import BookObject
from billhook.rules.reconcile import Drift, at_stake, compare
from billhook.store.database import Database, Tx
from billhook.store.held_objects import Held, held_objects, made_between
from billhook.store.reconciliation import IMPORT, Run, events_known
from billhook.store.work import DEAD

MOST_MISSING = 1000
"""Objects of the book that one page may leave out; with more, something is wrong with the list."""

MOST_KEPT = 1000
"""Ids of one second that are kept from page to page. Of more than that, some are looked at twice."""

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Suspicion:
    """A difference at first sight."""

    drift: Drift
    version: str
    """Of the book's object; empty where the book has none."""
    stake: tuple[int, str] | None
    """How much money it is about."""
    remote: BookObject | None = None
    """As the provider shows it."""


@dataclass(frozen=True)
class Looked:
    """What a page showed."""

    compared: int
    missing_events: tuple[ListedEvent, ...] = ()
    suspicions: tuple[Suspicion, ...] = ()
    agreed: tuple[tuple[str, str], ...] = ()
    """Kind and id of what is the same on both sides."""
    notes: tuple[str, ...] = ()
    walked_to: str | None = None
    """Where the walk over the files stands now."""


def look_at_events(
    database: Database, api: ProviderApi, run: Run, connected_at: datetime
) -> tuple[Looked, dict[str, Any]]:
    """What of the provider's events is not in the inbox. Those from before its source was connected were for nobody
    here."""
    since = max(run.since, connected_at)
    if since >= run.until:
        return Looked(0), {"cursor": None}
    page = api.list_events(since=since, until=run.until, cursor=run.cursor, account=run.account)
    keys = {(event.account, event.external_id): event for event in page.items}
    with database.read() as tx:
        known = events_known(tx, run.source_id, keys)
    missing = tuple(event for key, event in keys.items() if key not in known)
    # What came and was given up is the business of another check.
    agreed = tuple(("event", key[1]) for key, (_, state) in known.items() if state != DEAD)
    return Looked(len(keys), missing, (), agreed, _notes(page)), {"cursor": page.cursor}


def look_at_objects(
    database: Database, api: ProviderApi, run: Run, name: str, connected_at: datetime
) -> tuple[Looked, dict[str, Any]]:
    """How the objects of a page differ from the book's, and which the book has and the page has not. What was made
    before the source was connected, and the book never had, is history: an import takes it."""
    place = _Place("", []) if run.cursor is None else decode(run.cursor, _Place)
    upper = run.window_end or run.until
    try:
        page = api.list_objects(
            name, since=run.since, until=run.until, cursor=place.cursor or None, account=run.account
        )
    except PlaceLost:
        # By its time the walk finds on where it was; what shares the last second is compared again.
        page = api.list_objects(name, since=run.since, until=upper, account=run.account)
    lower = _lower(page, run)
    suspected: list[Suspicion] = []
    agreed: list[tuple[str, str]] = []
    passed = 0
    unread = [one.external_id for one in page.unread]
    with database.read() as tx:
        for kind in api.lists[name]:
            shown = {item.value.external_id: item.value for item in page.items if item.value.kind == kind}
            held = held_objects(tx, run.source_id, kind, shown, account=run.account)
            if lower is not None:
                held |= _left_out(tx, run, kind, lower, upper, {*shown, *unread, *place.shown})
            for external_id in sorted({*shown, *held}):
                local, remote = held.get(external_id), shown.get(external_id)
                drift = compare(local.value if local else None, remote)
                if drift is None:
                    agreed.append((kind, external_id))
                elif _is_history(drift, remote, run, connected_at):
                    passed += 1
                else:
                    value = remote or (local.value if local else None)
                    suspected.append(Suspicion(drift, local.version if local else "", at_stake(value), remote))
    looked = Looked(len(suspected) + len(agreed) + passed, (), tuple(suspected), tuple(agreed), _notes(page))
    following = None
    if page.cursor is not None:
        before = place.shown if lower in (None, upper) else []
        last = [item.value.external_id for item in page.items if lower is None or (item.value.created or upper) < lower]
        kept = list(dict.fromkeys([*before, *unread, *last]))[:MOST_KEPT]
        following = msgspec.json.encode(_Place(page.cursor, kept)).decode()
    return looked, {"cursor": following, "window_end": lower or upper}


def _is_history(drift: Drift, remote: BookObject | None, run: Run, connected_at: datetime) -> bool:
    if drift.finding_class != "missing_local" or run.mode == IMPORT:
        return False
    return remote is not None and remote.created is not None and remote.created < connected_at


class _Place(msgspec.Struct, array_like=True):
    """Where a walk through a provider's list stands."""

    cursor: str
    shown: list[str]
    """What was shown of the second in which the last page ended: the rest of that second is on the next one."""


def _lower(page: Page[ListedObject], run: Run) -> datetime | None:
    """Down to where the page shows everything. Times may be whole seconds: what shares the last one may be on the next
    page."""
    if page.cursor is None:
        return run.since
    times = [item.value.created for item in page.items if item.value.created is not None]
    return min(times) + _SECOND if times else None


def _left_out(tx: Tx, run: Run, kind: str, lower: datetime, upper: datetime, shown: set[str]) -> dict[str, Held]:
    found = made_between(tx, run.source_id, kind, lower, upper, limit=MOST_MISSING, account=run.account)
    return {external_id: held for external_id, held in found.items() if external_id not in shown}


def _notes(page: Page[Any]) -> tuple[str, ...]:
    return tuple(f"not compared: {one.external_id}: {one.reason}" for one in page.unread)
