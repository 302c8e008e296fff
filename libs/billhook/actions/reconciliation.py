"""What people and the schedule do about reconciliation: begin a run, accept a finding, repair one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from billhook.errors import KeyRefused, Refused, TryAgain, Unprocessable
from billhook.providers import PROVIDERS
from billhook.providers.listing import ListedEvent
from billhook.rules.book import BookObject
from billhook.rules.reconcile import OBSERVED, OPEN, UNSIGNED, Observed
from billhook.runtime.clock import Clock
from billhook.runtime.provider_apis import api_of, can_be_asked
from billhook.store.database import Database, Tx
from billhook.store.inbox import Arrival
from billhook.store.inbox import accept as accept_events
from billhook.store.reconciliation import Finding, NewRun, add_run, change_finding, get_finding, held_objects
from billhook.store.schema import new_id
from billhook.store.sources import Source, get_source
from billhook.store.vault import Vault

EVENTS: Final = "events"
"""The list that is compared with the inbox; all others are compared with the book."""

SETTLE: Final = timedelta(minutes=2)
"""How long an event may be on its way before it counts as missing, and between a first look and the second."""

_NO_BYTES: Final = b""
"""In the place of a digest: what comes from a list has the bytes of no webhook, which so is no conflict with it."""


def run_of(
    source: Source,
    since: datetime,
    now: datetime,
    *,
    by: str,
    until: datetime | None = None,
    lists: Sequence[str] | None = None,
    repairs: bool = True,
    slot: str | None = None,
) -> NewRun:
    """A run of a source over what was made from `since` to before `until`, leaving out what is still settling. Raises
    `Refused` for what cannot be compared."""
    api = PROVIDERS[source.provider].api if can_be_asked(source) else None
    if api is None:
        raise Refused(
            "source_cannot_be_asked", f"The source {source.id} has no API key, or its provider has no API to be asked."
        )
    known = (EVENTS, *api.lists)
    for name in lists or ():
        if name not in known:
            raise Refused("list_unknown", f"There is no list {name!r} to compare: use {', '.join(known)}.")
    end = min(until or now, now - SETTLE).astimezone(UTC)
    if since >= end:
        raise Refused(
            "range_empty", f"`since` must be earlier than `until`, and than {SETTLE.seconds // 60} minutes ago."
        )
    return NewRun(
        merchant_id=source.merchant_id,
        source_id=source.id,
        since=since.astimezone(UTC),
        until=end,
        lists=list(dict.fromkeys(lists or known)),
        repairs=repairs,
        by=by,
        slot=slot,
    )


def begin_run(tx: Tx, new: NewRun, now: datetime) -> str:
    """Make a run by hand, which is due at once; returns its id."""
    run_id = add_run(tx, new, now)
    assert run_id is not None, "a run by hand has a slot of its own"
    return run_id


def take_in(tx: Tx, source: Source, events: Sequence[ListedEvent], now: datetime) -> list[str]:
    """Put events that never came into the inbox, as if they had; returns the ids to ring for."""
    return _arrive(tx, source, [(e.account, e.external_id, e.type, e.body) for e in events], now)


def tell_book(tx: Tx, source: Source, value: BookObject, asked_at: datetime, now: datetime) -> list[str]:
    """Put an object as the provider showed it into the inbox, from where it goes the way of every event. The same state
    seen twice is one event."""
    body = msgspec.json.encode(Observed.of(value, asked_at))
    digest = hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16]
    external_id = f"observed:{value.kind}:{value.external_id}:{int(asked_at.timestamp())}:{digest}"
    return _arrive(tx, source, [("", external_id[:255], OBSERVED, body)], now)


def accept_finding(tx: Tx, finding: Finding, *, by: str, now: datetime) -> None:
    """Say that a difference is as it should be: it is not told again until it is another one."""
    _check_open(finding)
    change_finding(tx, finding.id, state="accepted", decided_by=by, decided_at=now)


def repair_finding(database: Database, vault: Vault, clock: Clock, finding: Finding, *, by: str) -> list[str]:
    """Ask the provider once more and tell the book; returns the ids to ring for. Repairing twice is repairing once."""
    _check_open(finding)
    with database.read() as tx:
        source = get_source(tx, finding.source_id)
    if source is None or not can_be_asked(source) or finding.kind == "event":
        raise Refused(
            "not_repairable", "Only an object of a source with an API key can be repaired; replay what is in the inbox."
        )
    asked_at = clock()
    value = _shown(database, vault, source, finding)
    with database.begin() as tx:
        now = clock()
        current = get_finding(tx, finding.id, lock=True)
        if current is None or current.state not in OPEN:
            return []
        change_finding(tx, finding.id, state="repaired", decided_by=by, decided_at=now)
        return [] if value is None else tell_book(tx, source, value, asked_at, now)


def _shown(database: Database, vault: Vault, source: Source, finding: Finding) -> BookObject | None:
    """The object as its provider shows it; what that does not have any more, as deleted."""
    try:
        return api_of(source, vault).fetch(finding.kind, finding.external_id)
    except KeyRefused as error:
        raise Refused("key_refused", f"{error}.") from error
    except TryAgain as error:
        raise Refused("provider_unavailable", f"{error}. Try again.") from error
    except Unprocessable:
        with database.read() as tx:
            held = held_objects(tx, source.id, finding.kind, [finding.external_id]).get(finding.external_id)
        return None if held is None else msgspec.structs.replace(held.value, deleted=True)


def _check_open(finding: Finding) -> None:
    if finding.state not in OPEN:
        raise Refused("finding_state", f"The finding {finding.id} is {finding.state}: there is nothing to decide.")


def _arrive(tx: Tx, source: Source, events: Sequence[tuple[str, str, str, bytes]], now: datetime) -> list[str]:
    arrivals = [
        Arrival(
            new_id("evt"),
            source.merchant_id,
            source.id,
            account,
            external_id,
            event_type,
            UNSIGNED,
            body,
            _NO_BYTES,
            now,
        )
        for account, external_id, event_type, body in events
    ]
    return [receipt.id for receipt in accept_events(tx, arrivals, now) if receipt.outcome == "accepted"]
