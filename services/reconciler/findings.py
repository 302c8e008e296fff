"""What becomes of differences: suspicions, the second look, and what is written and told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import msgspec

from billhook.errors import KeyRefused, Unprocessable
from billhook.events import FindingNews, RunNews
from billhook.providers.listing import ListedEvent
from billhook.providers.provider import ProviderApi
from billhook.rules.book.objects import BookObject
from billhook.rules.reconcile import Drift, Observed, compare, news_of, persists, repairs_itself, seen_again, told
from billhook.store.consistency.checks import check_of
from billhook.store.database import Database, Tx
from billhook.store.deliveries import address
from billhook.store.held_objects import held_objects
from billhook.store.messages import Message, add_messages
from billhook.store.reconciliation import (
    SUSPECTED,
    Finding,
    Run,
    add_finding,
    change_finding,
    delete_finding,
    findings_of,
)
from billhook.store.schema import new_id
from services.reconciler.comparing import Looked

HEALED = "healed"
"""Written as the author of a repair that nobody made: both sides agree again by themselves."""


@dataclass(frozen=True)
class Verdict:
    """What the second look says of one suspicion."""

    finding: Finding
    persists: bool | None
    """None: the book has moved since; look once more."""
    drift: Drift | None
    version: str
    remote: BookObject | None
    asked_at: datetime


@dataclass(frozen=True)
class Settled:
    confirmed: list[Finding] = field(default_factory=list)
    repairs: list[tuple[str, Observed]] = field(default_factory=list)
    """What the book is to be told, of which account, and merchants hear of."""
    inside: list[Finding] = field(default_factory=list)
    """What billhook's own rows are to be made to agree on."""


def verdict(database: Database, api: ProviderApi, finding: Finding, now: datetime) -> Verdict:
    """Look again. Raises `TryAgain`."""
    remote: BookObject | None
    try:
        remote = api.fetch(finding.kind, finding.external_id, account=finding.account)
    except KeyRefused:
        return Verdict(finding, None, None, finding.local_version, None, now)
    except Unprocessable:
        remote = None
    with database.read() as tx:
        found = held_objects(tx, finding.source_id, finding.kind, [finding.external_id], account=finding.account)
    held = found.get(finding.external_id)
    drift = compare(held.value if held else None, remote)
    version = held.version if held else ""
    lasting = persists(finding.local_version, finding.seen, version, drift)
    return Verdict(finding, lasting, drift, version, remote, now)


def keep_missing_events(tx: Tx, run: Run, events: Sequence[ListedEvent], now: datetime) -> list[Finding]:
    """Findings of events that never came: taking them into the inbox repairs them. A known one is told of once."""
    state = "repaired" if run.repairs else "confirmed"
    known = findings_of(tx, run.source_id, run.account, {("event", event.external_id) for event in events})
    new = []
    for event in events:
        before = known.get(("event", event.external_id))
        if before is None:
            finding = _finding(run, Drift("event", event.external_id, "missing_event"), state, "", None, now)
            add_finding(tx, replace(finding, differences={"type": [None, event.type]}, decided_by=_decider(run, state)))
            new.append(finding)
        else:
            change_finding(tx, before.id, state=state, last_seen_at=now, run_id=run.id)
    return new


def keep_suspicions(tx: Tx, run: Run, looked: Looked, now: datetime) -> None:
    """Write what differs at first sight; what is known and agrees again is healed."""
    keys = {*looked.agreed, *((one.drift.kind, one.drift.external_id) for one in looked.suspicions)}
    known = findings_of(tx, run.source_id, run.account, keys)
    for one in looked.suspicions:
        before = known.get((one.drift.kind, one.drift.external_id))
        if before is None:
            add_finding(tx, _finding(run, one.drift, SUSPECTED, one.version, one.stake, now))
        else:
            seen = told(one.drift)
            change_finding(tx, before.id, suspected_by=run.id, local_version=one.version, seen=seen, last_seen_at=now)
    for key in looked.agreed:
        if key in known:
            _agrees(tx, known[key], now)


def settle(tx: Tx, run: Run, verdicts: Sequence[Verdict], now: datetime) -> Settled:
    """Write what the second look says, and return what is newly confirmed and what the book is to be told."""
    settled = Settled()
    for one in verdicts:
        finding, drift = one.finding, one.drift
        if one.persists is None:
            seen = {} if drift is None else told(drift)
            change_finding(tx, finding.id, local_version=one.version, seen=seen)
            continue
        if drift is None:
            _agrees(tx, finding, now)
            continue
        state = seen_again(finding.state, finding.differences, told(drift))  # type: ignore[arg-type]
        if state == "reopened" and drift.finding_class != finding.finding_class:
            state = "confirmed"  # what was repaired is: this is another fault of the same thing
        inside = check_of(finding.kind) is not None
        # What billhook's own rows cannot be made to agree on by themselves is not tried at every run.
        again = state == "confirmed" or (state == "reopened" and not inside)
        mends = again and run.repairs and repairs_itself(drift.finding_class, drift.kind)
        if mends and one.remote is not None:
            settled.repairs.append((finding.account, Observed.of(one.remote, one.asked_at, news_of(drift, one.remote))))
        elif not inside:
            mends = False
        changed = replace(
            finding,
            finding_class=drift.finding_class,
            state="repaired" if mends else state,
            differences=told(drift),
            run_id=run.id,
            last_seen_at=now,
            suspected_by=None,
            decided_by=run.id if mends else finding.decided_by,
            decided_at=now if mends else finding.decided_at,
        )
        change_finding(tx, finding.id, **vars(changed))
        if mends and inside:
            settled.inside.append(changed)
        if finding.state in (SUSPECTED, "repaired", "accepted") and state != "accepted":
            settled.confirmed.append(changed)
    return settled


def _agrees(tx: Tx, finding: Finding, now: datetime) -> None:
    if finding.state == SUSPECTED:
        delete_finding(tx, finding.id)
    elif finding.state == "repaired" or (finding.kind == "event" and finding.finding_class == "missing_event"):
        change_finding(tx, finding.id, suspected_by=None, state="repaired")
    else:
        change_finding(tx, finding.id, suspected_by=None, state="repaired", decided_by=HEALED, decided_at=now)


def _finding(run: Run, drift: Drift, state: str, version: str, stake: tuple[int, str] | None, now: datetime) -> Finding:
    return Finding(
        id=new_id("fnd"),
        merchant_id=run.merchant_id,
        source_id=run.source_id,
        account=run.account,
        kind=drift.kind,
        external_id=drift.external_id,
        finding_class=drift.finding_class,
        state=state,
        differences=told(drift),
        seen=told(drift),
        local_version=version,
        amount=stake[0] if stake else None,
        currency=stake[1] if stake else None,
        run_id=run.id,
        suspected_by=run.id if state == SUSPECTED else None,
        first_seen_at=now,
        last_seen_at=now,
        decided_by=None,
        decided_at=None,
    )


def _decider(run: Run, state: str) -> str | None:
    return run.id if state == "repaired" else None


def tell(tx: Tx, run: Run, found: Sequence[Finding], now: datetime) -> list[str]:
    """Tell the merchant's endpoints of findings; returns the deliveries to ring for."""
    news = [
        FindingNews(
            id=one.id,
            source=one.source_id,
            account=one.account or None,
            finding_class=one.finding_class,
            state=one.state,
            kind=one.kind,
            external_id=one.external_id,
            fields=tuple(one.differences),
            amount=one.amount,
            currency=one.currency,
        )
        for one in found
    ]
    return _say(tx, run, "reconciliation.finding_confirmed", news, now)


def tell_of_run(tx: Tx, run: Run, state: str, now: datetime) -> list[str]:
    news = RunNews(
        id=run.id,
        source=run.source_id,
        state=state,
        since=run.since,
        until=run.until,
        compared=run.compared,
        confirmed=run.confirmed,
        repaired=run.repaired,
        notes=tuple(run.notes),
    )
    return _say(tx, run, "reconciliation.run_completed", [news], now)


def _say(tx: Tx, run: Run, event_type: str, news: Sequence[FindingNews | RunNews], now: datetime) -> list[str]:
    said = [
        Message.own(
            run.merchant_id,
            event_type,
            one.object,
            one.id,
            msgspec.json.encode({"type": event_type, "timestamp": now, "data": one}),
            now,
        )
        for one in news
    ]
    return address(tx, add_messages(tx, said, now), now)
