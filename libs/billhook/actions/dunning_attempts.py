"""Beginning an attempt to collect, and what its end means for its case, in a transaction that the caller opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from billhook.actions.book_update import NewWork, merged
from billhook.actions.dunning import Closing, close, close_all
from billhook.actions.dunning_mails import write_to_customer
from billhook.actions.dunning_news import calendar_of, next_attempt_at, tell
from billhook.rules.dunning import Cause, after
from billhook.rules.payment_attempts import Answer, Trigger
from billhook.store.database import Tx
from billhook.store.dunning_cases import Case, NewStep, add_steps, change_case, moved, wake_case
from billhook.store.dunning_policies import PolicyVersion
from billhook.store.own_invoices import OWN
from billhook.store.payment_attempts import Attempt, add_attempt, count_attempts
from billhook.store.schema import new_id

_CAUSES: Final[dict[str, Cause]] = {
    "soft": "declined",
    "hard": "declined_for_good",
    "requires_action": "action_required",
    "method_missing": "method_missing",
    "refused": "declined",
    "nothing": "declined",
}


def begin_attempt(
    tx: Tx, case: Case, version: PolicyVersion, trigger: Trigger, now: datetime, *, by: str | None = None
) -> NewWork:
    """Make an attempt, due at once. Nothing where one is under way already; the caller holds the case."""
    source_id = version.source_id if case.source_id == OWN else case.source_id
    if source_id is None:
        return {}  # nobody to charge: own invoices without a source are only reminded of
    attempt_id = new_id("att")
    attempt = Attempt(
        id=attempt_id,
        merchant_id=case.merchant_id,
        case_id=case.id,
        source_id=source_id,
        account=case.account,
        invoice_id=case.invoice_id,
        trigger=trigger,
        number=count_attempts(tx, case.id) + 1,
        idempotency_key=f"billhook-{attempt_id}",
        status="created",
        amount=case.amount,
        currency=case.currency,
        created_at=now,
        created_by=by,
        traceparent=case.traceparent,
    )
    if not add_attempt(tx, attempt):
        return {}
    add_steps(tx, [NewStep(case, f"attempt_{trigger}", by, f"attempt {attempt.number}")], now)
    return {"payment_attempts": [attempt.id]}


def attempts_succeeded(tx: Tx, succeeded: Sequence[tuple[Case, Attempt]], now: datetime) -> NewWork:
    """The cases are recovered. Where the provider's event has said so before, it is only noted by which attempt."""
    closings = []
    for case, attempt in succeeded:
        if case.stage == "recovered" and case.recovered_attempt is None:
            change_case(tx, case, replace(case, recovered_attempt=attempt.number))
        else:
            detail = f"attempt {attempt.number}"
            closings.append(Closing(case, "paid", detail=detail, recovered_attempt=attempt.number))
    return close_all(tx, closings, now)


def attempt_failed(
    tx: Tx,
    case: Case,
    version: PolicyVersion,
    attempt: Attempt,
    answer: Answer,
    now: datetime,
    *,
    public: str | None = None,
) -> NewWork:
    """What a failed attempt, or one that needs the customer, means for the case. It is looked at again at once."""
    if answer.code == "customer_deleted":
        return close(tx, case, "customer_deleted", now, detail=answer.message)
    if not case.open:
        return {}
    before = case
    if answer.wait is not None:
        case = replace(case, policy_attempts=max(case.policy_attempts, _passed_by(case, version, now + answer.wait)))
    cause = _CAUSES[answer.kind]
    if cause == "declined" and next_attempt_at(case, version) is None:
        cause = "attempts_used_up"
    stage = after(case.stage, cause) or case.stage
    changed = moved(case, stage, cause, now, decline_code=answer.code, pay_url=case.pay_url or answer.action_url)
    change_case(tx, before, changed)
    wake_case(tx, case.id, now)
    said = ": ".join(word for word in (answer.code, answer.message) if word)
    add_steps(tx, [NewStep(changed, cause, detail=f"attempt {attempt.number}: {said}"[:500])], now)
    parts: list[NewWork] = [tell(tx, "dunning.attempt_failed", changed, version, now), {"dunning_cases": [case.id]}]
    next_at = next_attempt_at(changed, version)
    if next_at is not None:
        parts.append(tell(tx, "dunning.attempt_scheduled", changed, version, now))
    if version.policy.remind_after_failure:
        occasion = f"attempt:{attempt.number}"
        parts.append(write_to_customer(tx, changed, version, "failed", occasion, now, next_at=next_at, public=public))
    return merged(parts)


def _passed_by(case: Case, version: PolicyVersion, until: datetime) -> int:
    """How many attempts of the policy are due before then: nobody makes them."""
    return sum(at < until for at in calendar_of(case, version).attempts)
