"""What people and the schedule do about reconciliation: begin a run, accept a finding, repair one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import msgspec

from billhook.actions.inside_repairs import repair_inside
from billhook.decoding import decode
from billhook.errors import BillhookError, KeyRefused, Refused, TryAgain, Unprocessable
from billhook.outlets.objects import Objects
from billhook.providers import PROVIDERS
from billhook.providers.listing import ListedEvent
from billhook.queue.handler import Rings
from billhook.rules.book.objects import BookObject
from billhook.rules.export import text_row
from billhook.rules.reconcile import OBSERVED, OPEN, UNSIGNED, Drift, Observed, news_of
from billhook.runtime.clock import Clock
from billhook.runtime.provider_apis import ProviderApis, can_be_asked
from billhook.store import book
from billhook.store.consistency.checks import CHECKS, check_of
from billhook.store.database import Database, Tx
from billhook.store.documents import documents_by_id
from billhook.store.held_objects import held_objects
from billhook.store.inbox import Arrival, events_by_id, get_conflict
from billhook.store.inbox import accept as accept_events
from billhook.store.own_invoices import OWN
from billhook.store.reconciliation import (
    IMPORT,
    Finding,
    NewRun,
    add_run,
    change_finding,
    get_finding,
    list_findings,
)
from billhook.store.schema import new_id
from billhook.store.sources import Source, get_source

EVENTS: Final = "events"
"""The list that is compared with the inbox; all others are compared with the book."""

SETTLE: Final = timedelta(minutes=2)
"""How long an event may be on its way before it counts as missing, and between a first look and the second."""

_NO_BYTES: Final = b""
"""In the place of a digest: what comes from a list has the bytes of no webhook, which so is no conflict with it."""


def run_of(
    whose: Source | str,
    since: datetime,
    now: datetime,
    *,
    by: str,
    until: datetime | None = None,
    lists: Sequence[str] | None = None,
    repairs: bool = True,
    slot: str | None = None,
) -> NewRun:
    """A run over what was made from `since` to before `until`, leaving out what is still settling. Of a source: its
    provider's lists, where that can be asked, and what billhook made of them; of a merchant, by its id: what billhook
    itself is the source of. Raises `Refused` for what cannot be compared."""
    known = lists_of(whose)
    if isinstance(whose, str):
        merchant_id, source_id = whose, OWN
        # A slot is a source's, and this one is every merchant's.
        slot = None if slot is None else f"{merchant_id} {slot}"
    else:
        merchant_id, source_id = whose.merchant_id, whose.id
        if not can_be_asked(whose) and any(name not in known for name in lists or ()):
            raise Refused(
                "source_cannot_be_asked",
                f"The source {whose.id} has no API key, or its provider has no API to be asked. Without one these can"
                f" be compared: {', '.join(known)}.",
            )
    for name in lists or ():
        if name not in known:
            raise Refused("list_unknown", f"There is no list {name!r} to compare: use {', '.join(known)}.")
    end = min(until or now, now - SETTLE).astimezone(UTC)
    if since >= end:
        raise Refused(
            "range_empty", f"`since` must be earlier than `until`, and than {SETTLE.seconds // 60} minutes ago."
        )
    return NewRun(
        merchant_id=merchant_id,
        source_id=source_id,
        since=since.astimezone(UTC),
        until=end,
        lists=list(dict.fromkeys(lists or known)),
        repairs=repairs,
        by=by,
        slot=slot,
    )


def lists_of(whose: Source | str) -> list[str]:
    """What can be compared of a source, or of what billhook itself made for a merchant."""
    if isinstance(whose, str):
        return [name for name, check in CHECKS.items() if check.own is not False]
    provider = PROVIDERS.get(whose.provider)  # a source may be older than the list
    api = provider.api if provider is not None and can_be_asked(whose) else None
    inside = [name for name, check in CHECKS.items() if check.own is not True]
    return [*((EVENTS, *api.lists) if api and api.lists else ()), *inside]


def import_of(
    source: Source,
    since: datetime,
    now: datetime,
    *,
    by: str,
    until: datetime | None = None,
    lists: Sequence[str] | None = None,
    tells: bool = False,
) -> NewRun:
    """A run that fills the book with what the provider has and the book has not. Merchants are told nothing of it,
    unless `tells`. Raises `Refused`."""
    api = PROVIDERS[source.provider].api if can_be_asked(source) else None
    if api is None or not api.lists:
        raise Refused(
            "source_cannot_be_asked", f"The source {source.id} has no API key, or its provider has no API to be asked."
        )
    for name in lists or ():
        if name not in api.lists:
            raise Refused("list_unknown", f"There is no list {name!r} to import: use {', '.join(api.lists)}.")
    run = run_of(source, since, now, by=by, until=until, lists=lists or list(api.lists))
    return replace(run, mode=IMPORT, tells=tells)


def begin_run(tx: Tx, new: NewRun, now: datetime) -> str:
    """Make a run by hand, which is due at once; returns its id."""
    run_id = add_run(tx, new, now)
    assert run_id is not None, "a run by hand has a slot of its own"
    return run_id


def take_in(tx: Tx, source: Source, events: Sequence[ListedEvent], now: datetime) -> list[str]:
    """Put events that never came into the inbox, as if they had; returns the ids to ring for."""
    return _arrive(tx, source, [(e.account, e.external_id, e.type, e.body) for e in events], now)


def tell_book(tx: Tx, source: Source, seen: Sequence[tuple[str, Observed]], now: datetime) -> list[str]:
    """Put objects as the provider showed them, each with its account, into the inbox, from where they go the way of
    every event; returns the ids to ring for. The same state seen twice is one event."""
    told = [(account, _name(one), OBSERVED, msgspec.json.encode(one)) for account, one in seen]
    return _arrive(tx, source, told, now)


def _name(seen: Observed) -> str:
    digest = hashlib.sha256(msgspec.json.encode(seen.object, order="deterministic")).hexdigest()[:16]
    name = f"observed:{seen.kind}:{seen.object['external_id']}"[:200]
    return f"{name}:{int(seen.asked_at.timestamp())}:{digest}"


FINDING_COLUMNS: Final = (
    *("id", "merchant_id", "source_id", "kind", "external_id", "finding_class", "state", "differences"),
    *("amount", "currency", "run_id", "first_seen_at", "last_seen_at", "decided_by", "decided_at", "account"),
)


def export_findings(
    database: Database, merchant_id: str | None, states: Collection[str], form: Literal["csv", "jsonl"]
) -> Iterator[bytes]:
    """All of them, newest first, a page at a time: amounts in minor units, differences as JSON."""
    if form == "csv":
        yield (",".join(FINDING_COLUMNS) + "\r\n").encode()
    before = None
    while True:
        with database.read() as tx:
            page = list_findings(tx, merchant_id=merchant_id, states=states, before=before, limit=EXPORT_PAGE)
        for one in page:
            shown = {name: getattr(one, name) for name in FINDING_COLUMNS}
            yield msgspec.json.encode(shown) + b"\n" if form == "jsonl" else text_row(_cell(shown[n]) for n in shown)
        if len(page) < EXPORT_PAGE:
            return
        before = page[-1].id


EXPORT_PAGE: Final = 500


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode().strip('"')


def accept_finding(tx: Tx, finding: Finding, *, by: str, now: datetime) -> None:
    """Say that a difference is as it should be: it is not told again until it is another one."""
    _check_open(finding)
    change_finding(tx, finding.id, state="accepted", decided_by=by, decided_at=now)


def repair_finding(
    database: Database,
    apis: ProviderApis,
    clock: Clock,
    finding: Finding,
    *,
    by: str,
    objects: Callable[[], Objects] | None = None,
) -> Rings:
    """Ask the provider once more and tell the book, or make billhook's own work again; returns the ids to ring for. A
    damaged document needs the storage. Repairing twice is repairing once."""
    _check_open(finding)
    if check_of(finding.kind) is not None and finding.finding_class not in _ASKED_ABOUT:
        return _repair_inside(database, clock, finding, by, objects)
    with database.read() as tx:
        source = get_source(tx, finding.source_id)
        subjects = _subjects(tx, source, finding)
    if source is None or not can_be_asked(source):
        raise Refused(
            "not_repairable",
            "Only an object of a source with an API key can be repaired: accept what has to stay so.",
        )
    asked_at = clock()
    values = [(account, _shown(database, apis, source, account, *named)) for account, *named in subjects]
    with database.begin() as tx:
        now = clock()
        if not _decided(tx, finding, by, now):
            return {}
        news = _news(finding)
        seen = [(account, Observed.of(one, asked_at, news(one))) for account, one in values if one is not None]
        return {"inbox": tell_book(tx, source, seen, now)}


_ASKED_ABOUT: Final = frozenset({"conflict", "double_retry_owner"})
"""Findings of billhook's own work that only the provider can settle."""


def _subjects(tx: Tx, source: Source | None, finding: Finding) -> list[tuple[str, str, str]]:
    """Account, kind and provider's id of what the provider is asked about."""
    if finding.finding_class == "double_retry_owner":
        row = book.get(tx, "invoice", finding.external_id)
        return [] if row is None else [(row["account"], "invoice", row["external_id"])]
    if finding.finding_class != "conflict" or source is None:
        return [(finding.account, finding.kind, finding.external_id)]
    conflict = get_conflict(tx, finding.external_id)
    first = events_by_id(tx, [conflict["inbox_id"]]) if conflict is not None else []
    account = first[0]["account"] if first else ""
    named: list[tuple[str, str, str]] = []
    for row in [*first, *([] if conflict is None else [conflict])]:
        try:
            headers = decode(row["headers"], dict[str, str])
            meaning = PROVIDERS[source.provider].translate(headers, row["body"], row["received_at"])
        except (BillhookError, msgspec.DecodeError):
            continue  # it says nothing that could be asked about
        named += [(account, change.object.kind, change.object.external_id) for change in meaning.changes]
    return list(dict.fromkeys(named))


def _news(finding: Finding) -> Callable[[BookObject], str | None]:
    if check_of(finding.kind) is not None:
        return lambda value: None
    drift = Drift(finding.kind, finding.external_id, finding.finding_class, finding.differences)  # type: ignore[arg-type]
    return lambda value: news_of(drift, value)


def _repair_inside(
    database: Database, clock: Clock, finding: Finding, by: str, objects: Callable[[], Objects] | None
) -> Rings:
    if finding.finding_class == "corrupt_document":
        if objects is None:
            raise Refused("not_repairable", "The document is drawn again by whoever has the storage: the desk can.")
        with database.read() as tx:
            keys = [row["object_key"] for row in documents_by_id(tx, [finding.external_id])]
        for key in keys:
            objects().set_aside(key)
    with database.begin() as tx:
        now = clock()
        return repair_inside(tx, finding, now, by=by) if _decided(tx, finding, by, now) else {}


def _decided(tx: Tx, finding: Finding, by: str, now: datetime) -> bool:
    """Mark it as repaired; False where somebody else came first."""
    current = get_finding(tx, finding.id, lock=True)
    if current is None or current.state not in OPEN:
        return False
    change_finding(tx, finding.id, state="repaired", decided_by=by, decided_at=now)
    return True


def _shown(
    database: Database, apis: ProviderApis, source: Source, account: str, kind: str, external_id: str
) -> BookObject | None:
    """The object as its provider shows it; what that does not have any more, as deleted."""
    try:
        return apis.of(source).fetch(kind, external_id, account=account)
    except KeyRefused as error:
        raise Refused("key_refused", f"{error}.") from error
    except TryAgain as error:
        raise Refused("provider_unavailable", f"{error}. Try again.") from error
    except Unprocessable:
        with database.read() as tx:
            held = held_objects(tx, source.id, kind, [external_id], account=account).get(external_id)
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
