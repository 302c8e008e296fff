"""What billhook's own rows say of each other, where they must agree: the comparisons that need no provider.

A check walks its subjects page by page (`page`), and says of some of them how they differ (`examine`), now and again at
the second look. What a subject's finding is called begins with the subject's id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from billhook.rules.book.invoice import Invoice, InvoicePayment
from billhook.rules.book.payment import Charge, Payment
from billhook.rules.delivery import DELIVERED, wants
from billhook.rules.dunning import OPEN, invoice_cause
from billhook.rules.invoice import documents_due
from billhook.rules.payment_attempts import ATTEMPT_OF_INVOICE, COLLECTED
from billhook.rules.reconcile import Drift, drift_of
from billhook.store.book import TABLES, value_of
from billhook.store.bulk import among
from billhook.store.database import Tx
from billhook.store.deliveries import deliveries, delivery_attempts
from billhook.store.documents import documents
from billhook.store.dunning_cases import dunning_cases
from billhook.store.dunning_policies import current_policies, narrowest, policies_of
from billhook.store.endpoints import endpoints_of_merchants
from billhook.store.inbox import inbox, inbox_conflicts
from billhook.store.messages import messages
from billhook.store.own_credit_notes import own_credit_notes
from billhook.store.own_invoices import OWN, own_invoices
from billhook.store.reconciliation import reconciliation_findings
from billhook.store.schema import Instant, id_at
from billhook.store.series import number_series
from billhook.store.sources import get_source
from billhook.store.work import DEAD, DUE

PAGE: Final = 200
_MOST_NUMBERS: Final = 100
"""Missing numbers of a series that are named one by one."""


@dataclass(frozen=True)
class Scope:
    """Whose rows are looked at, and of which time."""

    merchant_id: str
    source_id: str
    since: datetime
    until: datetime


@dataclass(frozen=True)
class Difference:
    drift: Drift
    amount: int | None = None
    currency: str | None = None

    @property
    def stake(self) -> tuple[int, str] | None:
        """How much money it is about."""
        return (self.amount, self.currency) if self.amount is not None and self.currency else None


@dataclass(frozen=True)
class Page:
    subjects: list[str]
    cursor: str | None
    """Where the next begins. None: this was the last."""
    place: str | None = None
    """Where the walk that this is a part of stands after it."""


@dataclass(frozen=True)
class Check:
    kinds: tuple[str, ...]
    """Of its findings."""
    page: Callable[[Tx, Scope, str | None], Page]
    examine: Callable[[Tx, Scope, Sequence[str]], list[Difference]]
    own: bool | None
    """Only what billhook is the source of, only what providers are; None: both."""
    parts: bool = False
    """Of one subject there may be several findings: their names go on behind it."""

    def subject_of(self, external_id: str) -> str:
        return external_id.rpartition(" ")[0] if self.parts else external_id


def _by_id(table: sa.Table, prefix: str, *where: sa.ColumnElement[bool]) -> Callable[[Tx, Scope, str | None], Page]:
    """Rows of a merchant whose ids say when they were made."""

    def page(tx: Tx, scope: Scope, cursor: str | None) -> Page:
        pair = (table.c.merchant_id, table.c.id)
        place = sa.tuple_(*pair)
        query = sa.select(table.c.id).where(
            place > sa.tuple_(scope.merchant_id, cursor or id_at(prefix, scope.since)),
            place < sa.tuple_(scope.merchant_id, id_at(prefix, scope.until)),
            *where,
        )
        return _cut(list(tx.execute(query.order_by(*pair).limit(PAGE)).scalars()))

    return page


def _cut(found: list[str], cursor_of: Callable[[str], str] = lambda one: one) -> Page:
    return Page(found, cursor_of(found[-1]) if len(found) == PAGE else None)


def _invoices(tx: Tx, scope: Scope, cursor: str | None, *where: sa.ColumnElement[bool]) -> Page:
    """Invoices of the source and of accounts connected to it (of a merchant's own: billhook) by when they were made."""
    c = TABLES["invoice"].c
    at, _, after = (cursor or "").partition(" ")
    began = scope.since if cursor is None else datetime.fromisoformat(at)
    query = sa.select(c.id, c.created).where(
        c.merchant_id == scope.merchant_id,
        c.source_id == scope.source_id,
        c.created < scope.until,
        c.deleted.is_(sa.false()),
        sa.tuple_(c.created, c.id) > sa.tuple_(sa.literal(began, Instant), after),
        *where,
    )
    found = list(tx.execute(query.order_by(c.created, c.id).limit(PAGE)))
    following = f"{found[-1][1].isoformat()} {found[-1][0]}" if len(found) == PAGE else None
    return Page([row[0] for row in found], following)


def _values(tx: Tx, kind: str, ids: Iterable[str]) -> dict[str, tuple[Any, sa.RowMapping]]:
    table = TABLES[kind]
    rows = tx.execute(sa.select(table).where(among(tx, table.c.id, list(ids)))).mappings()
    return {row["id"]: (value_of(kind, row), row) for row in rows}


# The inbox: what was given up, and what came twice with other bytes.


def _given_up(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    c = inbox.c
    query = sa.select(c.external_id).where(
        c.source_id == scope.source_id, among(tx, c.external_id, ids), c.state == DEAD
    )
    found = (drift_of("event", one, {"state": (DEAD, "processed")}) for one in tx.execute(query).scalars())
    return [Difference(drift) for drift in found if drift]


def _given_up_page(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    c = inbox.c
    query = sa.select(c.id, c.external_id).where(
        c.source_id == scope.source_id,
        c.state == DEAD,
        c.received_at >= scope.since,
        c.received_at < scope.until,
        c.id > (cursor or ""),
    )
    found = list(tx.execute(query.order_by(c.id).limit(PAGE)))
    return Page([row[1] for row in found], found[-1][0] if len(found) == PAGE else None)


def _conflicts_page(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    c = inbox_conflicts.c
    query = sa.select(c.id).where(
        c.merchant_id == scope.merchant_id,
        c.received_at >= scope.since,
        c.received_at < scope.until,
        c.id > (cursor or ""),
    )
    return _cut(list(tx.execute(query.order_by(c.id).limit(PAGE)).scalars()))


def _conflicts(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    c, e, f = inbox_conflicts.c, inbox.c, reconciliation_findings.c
    query = sa.select(c.id, c.sha256, e.sha256, e.external_id).join(inbox, e.id == c.inbox_id)
    # The two stay different for good: what somebody has seen to is over.
    decided = sa.exists().where(
        f.source_id == scope.source_id,
        f.kind == "inbox_conflict",
        f.external_id == c.id,
        f.state.in_(("repaired", "accepted")),
    )
    query = query.where(among(tx, c.id, ids), e.source_id == scope.source_id, ~decided)
    found = []
    for conflict_id, other, first, external_id in tx.execute(query):
        told = {"sha256": (bytes(first).hex(), bytes(other).hex()), "event": (external_id, external_id)}
        found += [Difference(drift) for drift in [drift_of("inbox_conflict", conflict_id, told)] if drift]
    return found


# Documents against finalized invoices. (Their files are looked at by whoever has the storage.)


def _documents(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    c = documents.c
    made: dict[tuple[str, str], list[str]] = defaultdict(list)
    query = sa.select(c.subject_id, c.kind, c.state).where(among(tx, c.subject_id, ids))
    for subject_id, kind, state in tx.execute(query):
        made[(subject_id, kind)].append(state)
    found = []
    for invoice_id, (invoice, _) in _values(tx, "invoice", ids).items():
        for kind in documents_due(invoice) if invoice.lines_complete else ():
            states = made.get((invoice_id, kind), [])
            if states and set(states) != {DEAD}:
                continue
            drift = drift_of("document", f"{invoice_id} {kind}", {"document": (DEAD if states else None, "ready")})
            found += [Difference(drift, invoice.total, invoice.currency)] if drift else []
    return found


def _nothing(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    return []


def files_of(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[sa.RowMapping]:
    """The files of these documents, for a look at the storage."""
    c = documents.c
    query = sa.select(c.id, c.object_key, c.sha256).where(
        c.merchant_id == scope.merchant_id, among(tx, c.id, ids), c.state == "ready", c.object_key.is_not(None)
    )
    return list(tx.execute(query.order_by(c.id)).mappings())


# Dunning cases against invoices, both ways, and who owns the retries.


def _dunning_page(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    walk, _, rest = (cursor or "cases ").partition(" ")
    if walk == "cases":
        c = dunning_cases.c
        query = sa.select(c.id, c.invoice_id).where(
            c.merchant_id == scope.merchant_id, c.source_id == scope.source_id, c.state == DUE, c.id > rest
        )
        found = list(tx.execute(query.order_by(c.id).limit(PAGE)))
        following = f"cases {found[-1][0]}" if len(found) == PAGE else "invoices "
        return Page([row[1] for row in found], following)
    page = _invoices(tx, scope, rest or None, TABLES["invoice"].c.status == "open")
    return Page(page.subjects, page.cursor and f"invoices {page.cursor}")


def _dunning(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    c = dunning_cases.c
    query = sa.select(c.id, c.invoice_id, c.stage, c.amount, c.policy_id).where(among(tx, c.invoice_id, ids))
    cases = {row["invoice_id"]: row for row in tx.execute(query).mappings()}
    plans = policies_of(tx, {case["policy_id"] for case in cases.values()})
    current = current_policies(tx, [scope.merchant_id]).get(scope.merchant_id, [])
    source = get_source(tx, scope.source_id)
    collected = source is not None and source.provider in COLLECTED
    found = []
    for invoice_id, (invoice, _) in _values(tx, "invoice", ids).items():
        case = cases.get(invoice_id)
        if case is None:
            told = _case_missing(scope, invoice, current, collected=collected)
        else:
            told = _case_differs(scope, invoice, case, charges=plans[case["policy_id"]].policy.charges)
        drift = drift_of("dunning_case", invoice_id, told)
        found += [Difference(drift, invoice.amount_remaining, invoice.currency)] if drift else []
    return found


def _case_differs(scope: Scope, invoice: Invoice, case: sa.RowMapping, *, charges: bool) -> dict[str, tuple[Any, Any]]:
    if case["stage"] not in (*OPEN, "scheduled"):
        return {}
    cause = invoice_cause(invoice)
    if cause is not None:
        return {"stage": (case["stage"], cause)}
    told: dict[str, tuple[Any, Any]] = {}
    if charges and scope.source_id != OWN and invoice.next_payment_attempt is not None:
        told["owner_of_retries"] = ("billhook", f"provider, at {invoice.next_payment_attempt.isoformat()}")
    if case["amount"] != invoice.amount_remaining:
        told["amount"] = (case["amount"], invoice.amount_remaining)
    return told


def _case_missing(
    scope: Scope, invoice: Invoice, policies: Sequence[Any], *, collected: bool
) -> dict[str, tuple[Any, Any]]:
    """A payment failed, and nobody looks after it. What is older than the policy was nobody's to look after, and what
    billhook cannot collect is not where it would have to."""
    failed = invoice.attempt_count > 0 and invoice.billing_reason != "subscription_create"
    if scope.source_id == OWN or invoice.status != "open" or not invoice.amount_remaining or not failed:
        return {}
    prices = {line.price for line in invoice.lines if line.price}
    version = narrowest(policies, invoice.customer, prices)
    if version is None or invoice.created is None or invoice.created < version.created_at:
        return {}
    if version.policy.charges and not collected:
        return {}
    return {"case": (None, "grace")}


# Own invoices against the book and the payments that paid them, and numbers against 1..n.


def _own(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    c = own_invoices.c
    query = sa.select(c.id, c.state, c.total, c.amount_paid, c.currency).where(among(tx, c.id, ids))
    entries = _values(tx, "invoice", ids)
    found = []
    for row in tx.execute(query.where(c.merchant_id == scope.merchant_id)).mappings():
        entry = entries.get(row["id"], (None, None))[0]
        if row["state"] == "deleted":
            continue
        told: dict[str, tuple[Any, Any]] = {}
        if entry is None:
            told["entry"] = (None, row["state"])
        else:
            pairs = {
                "status": (entry.status, row["state"]),
                "total": (entry.total, row["total"]),
                "amount_paid": (entry.amount_paid, row["amount_paid"]),
            }
            told = {name: sides for name, sides in pairs.items() if sides[0] != sides[1]}
        drift = drift_of("own_invoice", row["id"], told)
        found += [Difference(drift, row["total"], row["currency"])] if drift else []
    return found


def _own_page(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    c = own_invoices.c
    query = sa.select(c.id).where(
        c.merchant_id == scope.merchant_id,
        c.updated_at >= scope.since,
        c.updated_at < scope.until,
        c.id > (cursor or ""),
    )
    return _cut(list(tx.execute(query.order_by(c.id).limit(PAGE)).scalars()))


def _series_page(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    c = number_series.c
    query = sa.select(c.series).where(c.merchant_id == scope.merchant_id, c.series > (cursor or ""))
    found = list(tx.execute(query.order_by(c.series).limit(PAGE)).scalars())
    # Two merchants may have series of one name.
    return Page([f"{scope.merchant_id} {name}" for name in found], found[-1] if len(found) == PAGE else None)


def _numbers(tx: Tx, scope: Scope, subjects: Sequence[str]) -> list[Difference]:
    series = [subject.partition(" ")[2] for subject in subjects]
    last = number_series.c.last
    query = sa.select(number_series.c.series, last).where(
        number_series.c.merchant_id == scope.merchant_id, among(tx, number_series.c.series, series)
    )
    found: list[Difference] = []
    for name, counted in list(tx.execute(query)):
        taken = [(table.c.merchant_id == scope.merchant_id, table.c.series == name, table) for table in _NUMBERED]
        known = sa.union_all(*(sa.select(table.c.sequence).where(mine, own) for mine, own, table in taken)).subquery()
        count, most = tx.execute(sa.select(sa.func.count(), sa.func.max(known.c.sequence)).select_from(known)).one()
        if count == counted == (most or 0):
            continue
        there = set(tx.execute(sa.select(known.c.sequence)).scalars())
        highest, whose = most or 0, f"{scope.merchant_id} {name}"
        # What was counted behind the last document that is there is a gap too: somebody took documents away.
        gaps = [number for number in range(1, max(highest, counted) + 1) if number not in there]
        told: list[Drift | None] = [
            drift_of("number", f"{whose} {number}", {"number": (None, number)}) for number in gaps[:_MOST_NUMBERS]
        ]
        if highest > counted:
            told.append(drift_of("number_series", f"{whose} last", {"last": (counted, highest)}))
        found += [Difference(drift) for drift in told if drift]
    return found


_NUMBERED: Final = (own_invoices, own_credit_notes)


def _collected_page(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    """Payments that succeeded, by when they were made; behind them what was applied to invoices."""
    walk, _, rest = (cursor or "payment ").partition(" ")
    c = TABLES[walk].c
    at, _, after = rest.partition(" ")
    began = datetime.fromisoformat(at) if at else scope.since
    query = sa.select(c.id, c.created).where(
        c.source_id == scope.source_id,
        c.created < scope.until,
        c.status == ("succeeded" if walk == "payment" else "paid"),
        sa.tuple_(c.created, c.id) > sa.tuple_(sa.literal(began, Instant), after),
    )
    found = list(tx.execute(query.order_by(c.created, c.id).limit(PAGE)))
    if len(found) == PAGE:
        return Page([row[0] for row in found], f"{walk} {found[-1][1].isoformat()} {found[-1][0]}")
    return Page([row[0] for row in found], "invoice_payment " if walk == "payment" else None)


def _collected(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    applied: dict[str, dict[str, InvoicePayment]] = defaultdict(dict)
    for one, (value, row) in _values(tx, "invoice_payment", ids).items():
        if isinstance(value, InvoicePayment):
            applied[row["account"]][one] = value
    twice = [one for account, theirs in applied.items() for one in _paid_twice(tx, scope, account, theirs)]
    return [*_own_collected(tx, scope, ids), *twice]


def _own_collected(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    """Payments that billhook collected for invoices of its own."""
    paid = {
        payment_id: payment
        for payment_id, (payment, row) in _values(tx, "payment", ids).items()
        # No other account has paid an invoice of ours, whatever its payments say.
        if isinstance(payment, Payment)
        and not row["account"]
        and ATTEMPT_OF_INVOICE in payment.metadata
        and payment.status == "succeeded"
    }
    refunded = _refunded(tx, scope, "", {payment.external_id for payment in paid.values()})
    c = own_invoices.c
    wanted = {payment.metadata[ATTEMPT_OF_INVOICE] for payment in paid.values()}
    query = sa.select(c.id, c.state, c.total, c.payment_reference, c.amount_paid).where(
        c.merchant_id == scope.merchant_id, among(tx, c.id, wanted)
    )
    invoices = {row["id"]: row for row in tx.execute(query).mappings()}
    found = []
    for payment_id, payment in paid.items():
        invoice = invoices.get(payment.metadata[ATTEMPT_OF_INVOICE])
        left = payment.amount_received - refunded.get(payment.external_id, 0)
        told: dict[str, tuple[Any, Any]] = {}
        if left <= 0:
            continue  # it was given back
        if invoice is not None and invoice["state"] == "paid":
            if invoice["payment_reference"] != payment.external_id:
                told["paid_by"] = (invoice["payment_reference"], payment.external_id)
            elif invoice["amount_paid"] != payment.amount_received:
                told["amount"] = (invoice["amount_paid"], payment.amount_received)
        else:
            told["invoice"] = (invoice["state"] if invoice else None, "paid")
        drift = drift_of("collected_payment", payment_id, told)
        found += [Difference(drift, left, payment.currency)] if drift else []
    return found


def _paid_twice(tx: Tx, scope: Scope, account: str, applied: Mapping[str, InvoicePayment]) -> list[Difference]:
    """Payments applied to a provider's invoice beyond its total."""
    c = TABLES["invoice_payment"].c
    names = {value.invoice for value in applied.values()}
    query = sa.select(TABLES["invoice_payment"]).where(
        c.source_id == scope.source_id, c.account == account, among(tx, c.invoice, names), c.status == "paid"
    )
    theirs: dict[str, list[InvoicePayment]] = defaultdict(list)
    for row in tx.execute(query.order_by(c.created, c.id)).mappings():
        value = value_of("invoice_payment", row)
        assert isinstance(value, InvoicePayment)
        theirs[value.invoice].append(value)
    i = TABLES["invoice"].c
    totals = sa.select(i.external_id, i.total).where(
        i.source_id == scope.source_id, i.account == account, among(tx, i.external_id, names)
    )
    total = {row[0]: row[1] for row in tx.execute(totals)}
    refunded = _refunded(tx, scope, account, {one.payment for many in theirs.values() for one in many if one.payment})
    found = []
    for payment_id, value in applied.items():
        if value.status != "paid" or value.invoice not in total:
            continue
        before = 0
        for one in theirs[value.invoice]:
            before += (one.amount_paid or 0) - refunded.get(one.payment or "", 0)
            if one.external_id == value.external_id:
                break
        # Of the payments of one invoice only those are told that went beyond its total.
        if len(theirs[value.invoice]) > 1 and before > total[value.invoice]:
            told = {"paid_by": (total[value.invoice], before)}
            drift = drift_of("collected_payment", payment_id, told)
            found += [Difference(drift, value.amount_paid, value.currency)] if drift else []
    return found


def _refunded(tx: Tx, scope: Scope, account: str, payments: set[str]) -> dict[str, int]:
    if not payments:
        return {}
    c = TABLES[Charge.kind].c
    query = sa.select(c.payment, sa.func.sum(c.amount_refunded)).where(
        c.source_id == scope.source_id, c.account == account, among(tx, c.payment, payments)
    )
    return {row[0]: int(row[1] or 0) for row in tx.execute(query.group_by(c.payment))}


# Messages against deliveries, and deliveries against attempts.


def _messages(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    """Endpoints that wanted a message and have no delivery of it. Of one that came, changed or was disabled since,
    nobody knows what it wanted."""
    listening = [
        one
        for one in endpoints_of_merchants(tx, [scope.merchant_id])
        if one.disabled_at is None and one.merchant_id == scope.merchant_id
    ]
    c = messages.c
    query = sa.select(c.id, c.type, c.created_at).where(
        among(tx, c.id, ids), c.pruned_at.is_(None), c.type.not_like("endpoint.%"), c.type != "ping"
    )
    told = list(tx.execute(query))
    d = deliveries.c
    there = {
        (row[0], row[1])
        for row in tx.execute(sa.select(d.message_id, d.endpoint_id).where(among(tx, d.message_id, ids)))
    }
    found = []
    for message_id, event_type, created_at in told:
        for endpoint in listening:
            wanted = max(endpoint.created_at, endpoint.wants_since or endpoint.created_at) < created_at
            if wanted and wants(endpoint.event_types, event_type) and (message_id, endpoint.id) not in there:
                drift = drift_of("delivery", f"{message_id} {endpoint.id}", {"delivery": (None, "due")})
                found += [Difference(drift)] if drift else []
    return found


def _deliveries(tx: Tx, scope: Scope, ids: Sequence[str]) -> list[Difference]:
    """What was delivered, and no attempt was answered so. Attempts are kept for a shorter time."""
    a, d = delivery_attempts.c, deliveries.c
    query = sa.select(d.id).where(among(tx, d.id, ids), d.state == DELIVERED)
    answered = sa.exists().where(a.delivery_id == d.id, a.outcome == "2xx")
    found = []
    for delivery_id in tx.execute(query.where(~answered)).scalars():
        drift = drift_of("delivery_attempts", delivery_id, {"outcome": (None, "2xx")})
        found += [Difference(drift)] if drift else []
    return found


ATTEMPTS_KEPT: Final = timedelta(days=7)
"""Deliveries that are younger have their attempts, however short the retention."""


def _recent_deliveries(tx: Tx, scope: Scope, cursor: str | None) -> Page:
    since = max(scope.since, scope.until - ATTEMPTS_KEPT)
    return _by_id(deliveries, "dlv")(tx, Scope(scope.merchant_id, scope.source_id, since, scope.until), cursor)


DOCUMENTS: Final = "documents"
FILES: Final = "files"
"""What takes long, and is done by shares (`store/file_walks.py`): every file is read, wherever it is stored."""

CHECKS: Final[Mapping[str, Check]] = {
    # Its name among a run's lists: what it is of.
    "inbox": Check(("event",), _given_up_page, _given_up, own=False),
    "conflicts": Check(("inbox_conflict",), _conflicts_page, _conflicts, own=False),
    DOCUMENTS: Check(("document",), _invoices, _documents, own=None, parts=True),
    "dunning_cases": Check(("dunning_case",), _dunning_page, _dunning, own=None),
    "collected_payments": Check(("collected_payment",), _collected_page, _collected, own=False),
    "own_invoices": Check(("own_invoice",), _own_page, _own, own=True),
    "number_series": Check(("number", "number_series"), _series_page, _numbers, own=True, parts=True),
    "messages": Check(("delivery",), _by_id(messages, "msg"), _messages, own=True, parts=True),
    "deliveries": Check(("delivery_attempts",), _recent_deliveries, _deliveries, own=True),
    FILES: Check(("file",), _by_id(documents, "doc"), _nothing, own=True),
}


def check_of(kind: str) -> Check | None:
    """The check whose findings are of this kind."""
    return next((check for check in CHECKS.values() if kind in check.kinds), None)
