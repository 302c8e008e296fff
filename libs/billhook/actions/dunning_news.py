"""How a dunning case is told: to the merchant's endpoints, and what becomes of the customer's standing.

Each case is announced from beginning to end. It begins with `dunning.case_opened` and ends with one of
`dunning.recovered`, `.exhausted` or `.canceled`; what comes between is for those who want to follow it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from billhook.events import DunningNews, StandingNews
from billhook.queue.handler import Rings
from billhook.rules.dunning import Stage
from billhook.rules.dunning_calendar import Calendar, Progress
from billhook.rules.standing import standing_of
from billhook.store.database import Tx
from billhook.store.deliveries import address
from billhook.store.dunning_cases import Case, debts_of
from billhook.store.dunning_policies import PolicyVersion
from billhook.store.messages import Message, add_messages
from billhook.store.standings import set_standings, told_standings

ENDS: Final[dict[Stage, str]] = {
    "recovered": "dunning.recovered",
    "exhausted": "dunning.exhausted",
    "canceled": "dunning.canceled",
}


def calendar_of(case: Case, version: PolicyVersion) -> Calendar:
    return Calendar(version.policy, case.opened_at, ZoneInfo(case.zone))


def progress_of(case: Case, *, in_flight: bool = False) -> Progress:
    return Progress(
        stage=case.stage,
        opened_at=case.opened_at,
        grace_until=case.grace_until,
        ends_at=case.ends_at,
        suspended=case.suspended_at is not None,
        attempts=case.policy_attempts,
        reminders=case.reminders,
        attempt_reminders=case.attempt_reminders,
        in_flight=in_flight,
    )


def next_attempt_at(case: Case, version: PolicyVersion) -> datetime | None:
    """When the policy tries again, as it looks now."""
    if not case.open:
        return None
    steps = calendar_of(case, version).steps(progress_of(case))
    return next((step.at for step in steps if step.kind == "attempt"), None)


def tell(tx: Tx, event_type: str, case: Case, version: PolicyVersion, now: datetime) -> Rings:
    return tell_all(tx, [(event_type, case, version)], now)


def tell_all(tx: Tx, told: Sequence[tuple[str, Case, PolicyVersion]], now: datetime) -> Rings:
    return _say(tx, [_news(event_type, case, version, now) for event_type, case, version in told], now)


def _news(event_type: str, case: Case, version: PolicyVersion, now: datetime) -> Message:
    news = DunningNews(
        id=case.id,
        source=case.source_id,
        account=case.account or None,
        invoice=case.invoice_id,
        invoice_external_id=case.invoice,
        invoice_number=case.number,
        customer=case.customer,
        subscription=case.subscription,
        currency=case.currency,
        amount=case.amount,
        stage=case.stage,
        cause=case.cause,
        policy=version.policy.name,
        opened_at=case.opened_at,
        grace_until=case.grace_until,
        ends_at=case.ends_at,
        closed_at=case.closed_at,
        next_attempt_at=next_attempt_at(case, version),
        decline_code=case.decline_code,
        pay_url=case.pay_url,
        final_action=case.final_action if case.stage == "exhausted" else None,
    )
    return _message(case, event_type, "dunning_case", case.id, news, now)


def tell_standings(tx: Tx, cases: Sequence[Case], now: datetime) -> Rings:
    """Send the standing of these cases' customers as it is now, where it differs from what the merchant was told
    last."""
    of: dict[str, dict[str, Case]] = defaultdict(dict)
    for case in cases:
        if case.customer is not None:
            of[case.merchant_id].setdefault(case.customer, case)
    said = [one for merchant_id in sorted(of) for one in _standings(tx, merchant_id, of[merchant_id], now)]
    return _say(tx, said, now)


def _standings(tx: Tx, merchant_id: str, of: dict[str, Case], now: datetime) -> list[Message]:
    told, owed = told_standings(tx, merchant_id, of), debts_of(tx, merchant_id, of)
    # The clock that wakes a case may be a moment behind the one that is asked here.
    stand = {customer: standing_of(owed[customer], now + timedelta(milliseconds=250)) for customer in of}
    changed = {customer: one for customer, one in stand.items() if one.state != told[customer]}
    set_standings(tx, merchant_id, {customer: one.state for customer, one in changed.items()}, now)
    said = []
    for customer, standing in changed.items():
        news = StandingNews(
            id=of[customer].customer_id or customer,
            customer=customer,
            state=standing.state,
            since=standing.since,
            until=standing.until,
            reason=standing.reason,
            invoices=standing.invoices,
        )
        said.append(_message(of[customer], "customer.standing_changed", "standing", news.id, news, now))
    return said


def _message(
    case: Case, event_type: str, kind: str, object_id: str, news: DunningNews | StandingNews, now: datetime
) -> Message:
    body = msgspec.json.encode({"type": event_type, "timestamp": now, "data": news})
    return Message.own(
        case.merchant_id,
        event_type,
        kind,
        object_id,
        body,
        now,
        customer=case.customer,
        subscription=case.subscription,
        traceparent=case.traceparent,
    )


def _say(tx: Tx, said: Sequence[Message], now: datetime) -> Rings:
    return {"deliveries": address(tx, add_messages(tx, said, now), now)} if said else {}
