"""Beginning an attempt to collect, and what its end means for its case, in a transaction that the caller opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from billhook.actions.book_update import merged
from billhook.actions.dunning import Closing, close_all
from billhook.actions.dunning_mails import CaseMail, write_to_customers
from billhook.actions.dunning_news import calendar_of, next_attempt_at, tell_all
from billhook.queue.handler import Rings
from billhook.rules.dunning import Cause, after
from billhook.rules.payment_attempts import Answer, Trigger
from billhook.store.database import Tx
from billhook.store.dunning_cases import Case, NewStep, add_steps, change_case, change_cases, moved
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
) -> Rings:
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


def attempts_succeeded(tx: Tx, succeeded: Sequence[tuple[Case, Attempt]], now: datetime) -> Rings:
    """The cases are recovered. Where the provider's event has said so before, it is only noted by which attempt."""
    closings = []
    for case, attempt in succeeded:
        if case.stage == "recovered" and case.recovered_attempt is None:
            change_case(tx, case, replace(case, recovered_attempt=attempt.number))
        else:
            detail = f"attempt {attempt.number}"
            closings.append(Closing(case, "paid", detail=detail, recovered_attempt=attempt.number))
    return close_all(tx, closings, now)


@dataclass(frozen=True)
class Failure:
    """An attempt that failed, or needs the customer."""

    case: Case
    version: PolicyVersion
    attempt: Attempt
    answer: Answer


def attempts_failed(tx: Tx, failures: Sequence[Failure], now: datetime, *, public: str | None = None) -> Rings:
    """What failed attempts mean for their cases, of which each has one here. These are looked at again at once."""
    gone = [one for one in failures if one.answer.code == "customer_deleted"]
    parts = [close_all(tx, [Closing(one.case, "customer_deleted", detail=one.answer.message) for one in gone], now)]
    open_ones = [one for one in failures if one.answer.code != "customer_deleted" and one.case.open]
    after_them = [(one, _after_failure(one, now)) for one in open_ones]
    woken = {"due_at": now, "token": None}
    change_cases(tx, [(one.case, case, woken) for one, case in after_them])
    add_steps(tx, [_failed_step(one, case) for one, case in after_them], now)
    news: list[tuple[str, Case, PolicyVersion]] = []
    mails = []
    for one, case in after_them:
        version = one.version
        next_at = next_attempt_at(case, version)
        if one.attempt.status != "requires_action":  # that it needs the customer was told, and is one failure
            news.append(("dunning.attempt_failed", case, version))
        if next_at is not None:
            news.append(("dunning.attempt_scheduled", case, version))
        if version.policy.remind_after_failure:
            mails.append(CaseMail(case, version, "failed", f"attempt:{one.attempt.number}", next_at))
    parts += [tell_all(tx, news, now), write_to_customers(tx, mails, now, public=public)]
    return merged([*parts, {"dunning_cases": [case.id for _, case in after_them]}])


def _after_failure(failure: Failure, now: datetime) -> Case:
    case, version, answer = failure.case, failure.version, failure.answer
    if answer.wait is not None:
        case = replace(case, policy_attempts=max(case.policy_attempts, _passed_by(case, version, now + answer.wait)))
    cause = _CAUSES[answer.kind]
    if cause == "declined" and next_attempt_at(case, version) is None:
        cause = "attempts_used_up"
    stage = after(case.stage, cause) or case.stage
    return moved(case, stage, cause, now, decline_code=answer.code, pay_url=case.pay_url or answer.action_url)


def _failed_step(failure: Failure, case: Case) -> NewStep:
    said = ": ".join(word for word in (failure.answer.code, failure.answer.message) if word)
    return NewStep(case, case.cause or "declined", detail=f"attempt {failure.attempt.number}: {said}"[:500])


def _passed_by(case: Case, version: PolicyVersion, until: datetime) -> int:
    """How many attempts of the policy are due before then: nobody makes them."""
    return sum(at < until for at in calendar_of(case, version).attempts)
