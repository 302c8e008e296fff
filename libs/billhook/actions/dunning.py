"""What the book's facts mean for dunning: cases are opened, closed and woken, in the transaction of the fact.

A provider's events come late, twice and in any order. So a fact only says which cases to look at; what becomes of them
is decided by what the book holds of their invoices now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from billhook.actions.book_update import BookUpdate, merged
from billhook.actions.dunning_mails import CaseMail, withdraw, write_to_customers
from billhook.actions.dunning_news import (
    ENDS,
    calendar_of,
    next_attempt_at,
    progress_of,
    tell,
    tell_all,
    tell_standings,
)
from billhook.queue.handler import Rings
from billhook.rules.book.customer import Customer
from billhook.rules.book.invoice import Invoice
from billhook.rules.book.objects import book_id
from billhook.rules.book.subscription import Subscription
from billhook.rules.dunning import Cause, after, invoice_cause
from billhook.rules.dunning_calendar import ends_at, grace_until, reminder_times
from billhook.rules.dunning_policy import Policy
from billhook.rules.payment_attempts import ATTEMPT_OF_INVOICE
from billhook.runtime.provider_apis import is_collected
from billhook.store import book
from billhook.store.database import Tx
from billhook.store.dunning_cases import (
    Case,
    NewStep,
    add_case,
    add_steps,
    cases_concerned,
    change_case,
    change_cases,
    get_case,
    moved,
    remove_case,
)
from billhook.store.dunning_policies import PolicyVersion, current_policies, narrowest, policies_of
from billhook.store.merchants import Merchant
from billhook.store.own_invoices import OWN
from billhook.store.payment_attempts import ask_soon
from billhook.store.schema import new_id
from billhook.store.sources import get_source

OPENING: Final = ("invoice.payment_failed", "invoice.payment_action_required", "invoice.overdue")
LATEST: Final = timedelta(days=1)
"""A failure that is heard of later than that (an outage, old events replayed) counts from here: nobody is given up for
what nobody told them."""


def dunning(tx: Tx, updates: Sequence[BookUpdate], now: datetime) -> Rings:
    """The consequence of book updates. Merchants that never set a policy cost one query a batch."""
    versions = current_policies(tx, {update.merchant.id for update in updates if _concerns(update)})
    concerned = [update for update in updates if update.merchant.id in versions]
    if not concerned:
        return {}
    # All cases in one order, before the first is changed: no two transactions wait for each other in a circle.
    cases = _cases(tx, concerned)
    parts = [rings for update in concerned for rings in _follow(tx, update, cases, versions, now)]
    asked = {case.invoice_id for case in cases.values()} | {
        fact.object.metadata[ATTEMPT_OF_INVOICE]
        for update in concerned
        for fact in update.facts
        if fact.type.startswith("payment.") and ATTEMPT_OF_INVOICE in fact.object.metadata
    }
    return merged([*parts, {"payment_attempts": ask_soon(tx, asked, now) if asked else []}])


def _concerns(update: BookUpdate) -> bool:
    return any(isinstance(change.object, (Invoice, Subscription, Customer)) for change in update.changes) or any(
        fact.type.startswith("payment.") for fact in update.facts
    )


def _cases(tx: Tx, updates: Sequence[BookUpdate]) -> dict[str, Case]:
    """The cases that these updates may concern, locked, by their invoice."""
    changed = [(update, change.object) for update in updates for change in update.changes]
    return cases_concerned(
        tx,
        {update.merchant.id for update in updates},
        invoices={
            book_id(update.source_id, update.account, thing) for update, thing in changed if isinstance(thing, Invoice)
        },
        customers={thing.external_id for _, thing in changed if isinstance(thing, Customer)},
        subscriptions={thing.external_id for _, thing in changed if isinstance(thing, Subscription)},
    )


def _follow(
    tx: Tx,
    update: BookUpdate,
    cases: dict[str, Case],
    versions: Mapping[str, Sequence[PolicyVersion]],
    now: datetime,
) -> Iterator[Rings]:
    told = {fact.object.external_id for fact in update.facts if fact.type in (*OPENING, "invoice.finalized")}
    for change in update.changes:
        thing = change.object
        if isinstance(thing, Invoice):
            invoice_id = book_id(update.source_id, update.account, thing)
            if invoice_id not in cases and thing.external_id not in told:
                continue
            known = _known(tx, "invoice", invoice_id)
            if not isinstance(known, Invoice):
                continue
            if invoice_id in cases:
                yield _settle_case(tx, _fresh(tx, cases, invoice_id), known, now)
            else:
                yield _open(tx, update, invoice_id, known, versions[update.merchant.id], now)
        elif isinstance(thing, (Customer, Subscription)):
            for invoice_id, case in cases.items():
                if _is_of(case, update, thing):
                    yield _after_person(tx, _fresh(tx, cases, invoice_id), update, thing, change.at, now)


def _fresh(tx: Tx, cases: Mapping[str, Case], invoice_id: str) -> Case:
    """A case as it is by now: another update of the same batch may have changed it."""
    case = cases[invoice_id]
    return get_case(tx, case.id) or case


def _is_of(case: Case, update: BookUpdate, thing: Customer | Subscription) -> bool:
    if case.merchant_id != update.merchant.id or case.account != update.account:
        return False
    if isinstance(thing, Subscription):
        return case.source_id == update.source_id and case.subscription == thing.external_id
    # An own invoice is charged at the source that its customer is of.
    return case.source_id in (update.source_id, OWN) and case.customer == thing.external_id


def _settle_case(tx: Tx, case: Case, invoice: Invoice, now: datetime) -> Rings:
    """What the invoice's state means for a case that is there."""
    cause = invoice_cause(invoice)
    if cause is not None:
        return close(tx, case, cause, now)
    change_case(tx, case, replace(case, amount=invoice.amount_remaining))
    return {}


@dataclass(frozen=True)
class Closing:
    """A case that is to end, and why."""

    case: Case
    cause: Cause
    by: str | None = None
    detail: str | None = None
    recovered_attempt: int | None = None


def close(tx: Tx, case: Case, cause: Cause, now: datetime, **more: Any) -> Rings:
    return close_all(tx, [Closing(case, cause, **more)], now)


def close_all(tx: Tx, closings: Sequence[Closing], now: datetime) -> Rings:
    """End cases, whatever they are at. One that has ended stays as it did, and what was given up and then paid does not
    count against the customer any longer."""
    parts: list[Rings] = []
    ended: list[tuple[Closing, Case]] = []
    for one in closings:
        stage = after(one.case.stage, one.cause)
        if stage is None:
            parts.append(_paid_after_all(tx, one, now))
        elif one.case.stage == "scheduled":
            remove_case(tx, one.case.id)  # it never began, and no message was sent of it
        else:
            number = one.case.recovered_attempt if one.recovered_attempt is None else one.recovered_attempt
            owing = stage == "exhausted"
            after_it = moved(one.case, stage, one.cause, now, owing=owing, try_at_once=False, recovered_attempt=number)
            ended.append((one, after_it))
    if not ended:
        return merged(parts)
    cases = [case for _, case in ended]
    change_cases(tx, [(one.case, case, _work(case, now)) for one, case in ended])
    withdraw(tx, cases)
    add_steps(tx, [NewStep(case, one.cause, one.by, one.detail) for one, case in ended], now)
    versions = policies_of(tx, {case.policy_id for case in cases})
    parts.append(tell_all(tx, [(ENDS[case.stage], case, versions[case.policy_id]) for case in cases], now))
    parts.append(tell_standings(tx, cases, now))
    return merged([*parts, {"dunning_cases": [case.id for case in cases if _pending(case)]}])


def _work(case: Case, now: datetime) -> dict[str, Any]:
    if _pending(case):
        return {"due_at": now, "token": None}
    return {"state": "done", "token": None, "finished_at": now}


def _pending(case: Case) -> bool:
    """Whether a final action is to be taken."""
    return case.stage == "exhausted" and case.final_action != "none"


def _paid_after_all(tx: Tx, one: Closing, now: datetime) -> Rings:
    case = one.case
    if case.stage != "exhausted" or not case.owing or after("grace", one.cause) is None:
        return {}
    paid = replace(case, owing=False)
    change_case(tx, case, paid)
    add_steps(tx, [NewStep(paid, one.cause, one.by, one.detail)], now)
    return tell_standings(tx, [paid], now)


@dataclass(frozen=True)
class Debtor:
    """Who owes it: what the book knows of the customer."""

    customer: Customer | None
    customer_id: str | None
    method: str | None


def _open(
    tx: Tx,
    update: BookUpdate,
    invoice_id: str,
    invoice: Invoice,
    versions: Sequence[PolicyVersion],
    now: datetime,
) -> Rings:
    """Open a case if this invoice calls for one: its payment failed, or it is past its due date; an own one that was
    just finalized is scheduled for that date."""
    own = update.source_id == OWN
    told = [
        fact.at
        for fact in update.facts
        if fact.object.external_id == invoice.external_id and fact.type in (("invoice.finalized",) if own else OPENING)
    ]
    # Where the first payment fails, the purchase did not take place and nothing is owed.
    if not told or invoice.status != "open" or invoice.billing_reason == "subscription_create":
        return {}
    if not invoice.amount_remaining:
        return {}
    prices = {line.price for line in invoice.lines if line.price}
    version = narrowest(versions, invoice.customer, prices)
    if version is None:
        return {}
    if version.policy.charges and not own:
        source = get_source(tx, update.source_id)
        # Whoever sells through another provider is tried again by that one alone, and nothing else may be announced.
        if source is None or not is_collected(source):
            return {}
    source_id = version.source_id or OWN if own else update.source_id
    debtor = _debtor(tx, source_id, update.account, invoice)
    opened_at = (invoice.due_at or now) if own else max(min(told[0], now), now - LATEST)
    case = _new_case(update, version, invoice_id, invoice, debtor, opened_at, now, scheduled=own)
    case = replace(case, first_look=version.policy.charges and not own)
    first = None if case.first_look else calendar_of(case, version).next(progress_of(case))
    if not add_case(tx, case, first.at if first else now):
        return {}
    if own:
        return {}
    return opened(tx, case, version, now)


def opened(tx: Tx, case: Case, version: PolicyVersion, now: datetime) -> Rings:
    """Tell that a case is open. The customer hears of it after the first look, if there is one."""
    add_steps(tx, [NewStep(case, case.cause or "due")], now)
    parts = [tell(tx, "dunning.case_opened", case, version, now), tell_standings(tx, [case], now)]
    if next_attempt_at(case, version) is not None:
        parts.append(tell(tx, "dunning.attempt_scheduled", case, version, now))
    if case.first_look:
        parts.append({"dunning_cases": [case.id]})
    elif case.cause != "due":  # a due date that has passed is announced by the reminder of that day
        parts.append(write_of_failure(tx, case, version, now))
    return merged(parts)


def write_of_failure(tx: Tx, case: Case, version: PolicyVersion, now: datetime) -> Rings:
    """Tell the customer of the failure that opened the case."""
    if not version.policy.remind_after_failure:
        return {}
    return write_to_customers(tx, [CaseMail(case, version, "failed", "opened", next_attempt_at(case, version))], now)


def _new_case(
    update: BookUpdate,
    version: PolicyVersion,
    invoice_id: str,
    invoice: Invoice,
    debtor: Debtor,
    opened_at: datetime,
    now: datetime,
    *,
    scheduled: bool,
) -> Case:
    policy = version.policy
    zone = zone_of(policy, debtor.customer, update.merchant)
    passed = sum(at < (now if scheduled else opened_at) for at, _ in reminder_times(policy, opened_at, zone))
    return Case(
        id=new_id("case"),
        merchant_id=update.merchant.id,
        source_id=update.source_id,
        account=update.account,
        invoice_id=invoice_id,
        invoice=invoice.external_id,
        number=invoice.number,
        customer=invoice.customer,
        customer_id=debtor.customer_id,
        subscription=invoice.subscription,
        currency=invoice.currency,
        amount=invoice.amount_remaining,
        policy_id=version.id,
        zone=zone.key,
        stage="scheduled" if scheduled else "grace",
        cause=None if scheduled else "declined",
        owing=not scheduled,
        opened_at=opened_at,
        grace_until=grace_until(policy, opened_at, zone),
        ends_at=ends_at(policy, opened_at, zone),
        reminders=passed,
        method=debtor.method,
        pay_url=invoice.hosted_url,
        final_action=policy.final_action,
        created_at=now,
        traceparent=update.traceparent,
    )


def zone_of(policy: Policy, customer: Customer | None, merchant: Merchant) -> ZoneInfo:
    """The customer's own, where the provider's metadata say it; else the policy's, else the merchant's."""
    for name in (customer.metadata.get("time_zone") if customer else None, policy.zone, merchant.invoicing.zone):
        if name:
            try:
                return ZoneInfo(name)
            except (ValueError, OSError, LookupError):
                continue  # metadata are free text: not every value is a zone
    return ZoneInfo("UTC")


def _debtor(tx: Tx, source_id: str, account: str, invoice: Invoice) -> Debtor:
    if invoice.customer is None:
        return Debtor(None, None, None)
    customer_id = book_id(source_id, account, Customer(external_id=invoice.customer))
    customer = _known(tx, "customer", customer_id)
    customer = customer if isinstance(customer, Customer) else None
    method = method_of(tx, source_id, account, customer, invoice.subscription)
    return Debtor(customer, customer_id, method)


def method_of(tx: Tx, source_id: str, account: str, customer: Customer | None, subscription: str | None) -> str | None:
    """The payment method that a provider would charge, as far as the book knows."""
    if subscription is not None:
        theirs = _known(
            tx, "subscription", book_id(source_id, account, Subscription(external_id=subscription, status="active"))
        )
        if isinstance(theirs, Subscription) and theirs.default_payment_method:
            return theirs.default_payment_method
    return customer.default_payment_method if customer else None


def _after_person(
    tx: Tx, case: Case, update: BookUpdate, thing: Customer | Subscription, at: datetime, now: datetime
) -> Rings:
    """What became of a customer or a subscription means for a case: gone, or with another payment method."""
    if not case.open:
        return {}
    if isinstance(thing, Customer) and thing.deleted:
        return close(tx, case, "customer_deleted", now)
    if isinstance(thing, Subscription) and thing.status in ("canceled", "incomplete_expired"):
        return close(tx, case, "subscription_ended", now)
    customer = _known(tx, "customer", case.customer_id) if case.customer_id else None
    method = method_of(
        tx,
        update.source_id,
        update.account,
        customer if isinstance(customer, Customer) else None,
        case.subscription if case.source_id != OWN else None,
    )
    # What was true before the case began is no news, in whatever order it is told.
    if method is None or method == case.method or at < case.opened_at:
        return {}
    stage = after(case.stage, "method_added") or case.stage
    version = policies_of(tx, [case.policy_id])[case.policy_id]
    at_once = version.policy.charges
    changed = replace(moved(case, stage, "method_added", now), method=method, try_at_once=at_once)
    change_case(tx, case, changed, due_at=now, token=None)
    add_steps(tx, [NewStep(changed, "method_added")], now)
    return {"dunning_cases": [case.id]}


def _known(tx: Tx, kind: str, object_id: str) -> Any:
    row = book.get(tx, kind, object_id)
    return None if row is None else book.value_of(kind, row)
