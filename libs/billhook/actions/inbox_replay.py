"""Replaying what billhook received: events of the inbox are processed again, at once or as a job; and what that would
change, tried and taken back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from billhook.actions.inbox_events import Event, Interpretation, entry_of, events_of, interpret, take_effect
from billhook.errors import BillhookError
from billhook.store import book, queues
from billhook.store.database import Database, Tx
from billhook.store.inbox import events_by_id
from billhook.store.messages import count_messages
from billhook.store.replay_windows import look
from billhook.store.replays import Replay, add_replay

MOST_NAMED: Final = 1000
"""Events that are replayed at once, without a job."""

_BATCH: Final = 200
_MOST_FAILING: Final = 20


@dataclass
class Preview:
    """What a replay would do."""

    events: int = 0
    """That it would process again."""
    by_type: Counter[str] = field(default_factory=Counter)
    objects: int = 0
    """Of the book, that would change."""
    messages: int = 0
    """That merchants would hear."""
    deliveries: int = 0
    documents: int = 0
    dunning_cases: int = 0
    ignored: int = 0
    """Events that mean nothing to billhook."""
    to_ask: int = 0
    """Events that only their provider can settle: what they would change is not known."""
    failing: dict[str, str] = field(default_factory=dict)
    """Events that would fail again, and why: the first of them."""
    more: bool = False
    """There are more events than were tried."""

    @property
    def changes_nothing(self) -> bool:
        return not (self.objects or self.messages or self.deliveries or self.documents or self.dunning_cases)

    def shown(self) -> dict[str, Any]:
        """As people see it."""
        return {**vars(self), "by_type": dict(self.by_type.most_common()), "changes_nothing": self.changes_nothing}


def replay_events(tx: Tx, ids: Collection[str], *, by: str, now: datetime) -> dict[str, list[str]]:
    """Process these again; returns the ids to ring for. What is due already is left as it is."""
    return queues.replay(tx, "inbox", ids, by=by, now=now)


def begin_replay(tx: Tx, replay: Replay) -> dict[str, list[str]]:
    """Let a job begin (`store.replays.event_replay` makes one); returns the ids to ring for."""
    add_replay(tx, replay)
    return {"replays": [replay.id]}


def preview_job(database: Database, replay: Replay, now: datetime, *, limit: int) -> Preview:
    """What a job that has not begun would change, tried over its first `limit` events and taken back."""
    found = Preview()
    for ids in _walk(database, replay, limit + 1):
        found.more = found.events + len(ids) > limit
        _try(database, ids[: limit - found.events], found, now)
    return found


def preview_events(database: Database, ids: Sequence[str], now: datetime) -> Preview:
    """What processing these again would change, tried and taken back."""
    found = Preview()
    for start in range(0, len(ids), _BATCH):
        _try(database, ids[start : start + _BATCH], found, now)
    return found


def _walk(database: Database, replay: Replay, most: int) -> Iterator[list[str]]:
    last = False
    while not last and most > 0:
        with database.read() as tx:
            window = look(tx, replay, {}, end=replay.until, room=min(_BATCH, most))
        replay, last, most = replace(replay, cursor=window.cursor), window.last, most - len(window.rows)
        yield [row["id"] for row in window.rows]


class _TakenBack(Exception):
    """Rolls the transaction back."""


def _try(database: Database, ids: Sequence[str], found: Preview, now: datetime) -> None:
    """Do it, count what is different afterwards, and roll back. The provider is not asked."""
    if not ids:
        return
    try:
        with database.begin() as tx:
            done = _interpreted(events_of(tx, [dict(row) for row in events_by_id(tx, ids)]), found)
            keys = {entry_of(event, change).key for event, meaning in done for change in meaning.changes}
            caused = [event.id for event, _ in done]
            before, said = book.versions(tx, keys), count_messages(tx, caused)
            rings = take_effect(tx, done, now)
            after = book.versions(tx, keys)
            found.objects += sum(version != before.get(key) for key, version in after.items())
            found.messages += count_messages(tx, caused) - said
            found.deliveries += len(rings.get("deliveries", ()))
            found.documents += len(rings.get("documents", ()))
            found.dunning_cases += len(set(rings.get("dunning_cases", ())))
            raise _TakenBack
    except _TakenBack:
        return


def _interpreted(events: Sequence[Event], found: Preview) -> list[tuple[Event, Interpretation]]:
    done = []
    for event in events:
        found.events += 1
        found.by_type[event.type] += 1
        try:
            meaning = interpret(event)
        except BillhookError as error:
            if len(found.failing) < _MOST_FAILING:
                found.failing[event.id] = str(error)
            continue
        if meaning is None:
            found.ignored += 1
        elif not meaning.settled:
            found.to_ask += 1
        elif meaning.changes:
            done.append((event, meaning))
    return done
