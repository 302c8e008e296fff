"""Dunning cases and the steps of their lives. There is one case an invoice, for good: whatever comes again of an
invoice whose case is over opens none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from billhook.rules.dunning import OPEN, Stage
from billhook.rules.standing import Debt
from billhook.store.bulk import among
from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, merchant_column, metadata, new_id, partial_index, trace_column
from billhook.store.work import DUE, due_index, work_columns

_OWING = sa.text("owing")
_OWING_SQLITE = sa.text("owing = 1")

_CLOSED = sa.text("closed_at IS NOT NULL")

dunning_cases = sa.Table(
    "dunning_cases",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("source_id", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("invoice_id", sa.Text, nullable=False, unique=True),  # of the book
    sa.Column("invoice", sa.Text, nullable=False),  # the provider's id
    sa.Column("number", sa.Text),
    sa.Column("customer", sa.Text),  # the provider's id, or the merchant's word for an own invoice
    sa.Column("customer_id", sa.Text),  # of the book
    sa.Column("subscription", sa.Text),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),  # what is open of the invoice
    sa.Column("policy_id", sa.Text, nullable=False),
    sa.Column("zone", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False),  # of `billhook.rules.dunning`
    sa.Column("cause", sa.Text),  # why it is at this stage
    sa.Column("owing", sa.Boolean, nullable=False),  # it counts for the customer's standing
    sa.Column("opened_at", Instant, nullable=False),
    sa.Column("grace_until", Instant, nullable=False),
    sa.Column("ends_at", Instant, nullable=False),
    sa.Column("suspended_at", Instant),
    sa.Column("closed_at", Instant),
    sa.Column("policy_attempts", sa.Integer, nullable=False),  # of the policy: made or passed by
    sa.Column("reminders", sa.Integer, nullable=False),
    sa.Column("attempt_reminders", sa.Integer, nullable=False),
    sa.Column("method", sa.Text),  # the payment method that was there when it was last looked at
    sa.Column("try_at_once", sa.Boolean, nullable=False),  # another method came: as soon as nothing is under way
    sa.Column("first_look", sa.Boolean, nullable=False, server_default=sa.false()),  # at what the bank said, to come
    sa.Column("decline_code", sa.Text),  # of the last charge that failed
    sa.Column("pay_url", sa.Text),  # where the customer can pay
    sa.Column("recovered_attempt", sa.Integer),  # the number of the attempt that brought the money
    sa.Column("final_action", sa.Text, nullable=False),
    sa.Column("final_done_at", Instant),
    sa.Column("created_at", Instant, nullable=False),
    trace_column(),
    *work_columns(),
    due_index("dunning_cases"),
    sa.Index("ix_dunning_cases_merchant_id", "merchant_id", "id"),
    partial_index("ix_dunning_cases_closed", "closed_at", where=_CLOSED),
    partial_index("ix_dunning_cases_customer", "merchant_id", "customer", where=_OWING, sqlite=_OWING_SQLITE),
    partial_index("ix_dunning_cases_customer_id", "customer_id", "merchant_id", where=_OWING, sqlite=_OWING_SQLITE),
)

_DUE = sa.text(f"state = '{DUE}'")
for _name in ("customer", "subscription"):
    partial_index(f"ix_dunning_cases_due_{_name}", dunning_cases.c.merchant_id, dunning_cases.c[_name], where=_DUE)

dunning_steps = sa.Table(
    "dunning_steps",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("case_id", sa.Text, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("stage", sa.Text, nullable=False),  # after it
    sa.Column("by", sa.Text),  # a person, where one did it
    sa.Column("detail", sa.Text),
    sa.Index("ix_dunning_steps_case_id", "case_id", "id"),
)


@dataclass(frozen=True, kw_only=True)
class Case:
    id: str
    merchant_id: str
    source_id: str
    account: str
    invoice_id: str
    invoice: str
    number: str | None = None
    customer: str | None = None
    customer_id: str | None = None
    subscription: str | None = None
    currency: str
    amount: int
    policy_id: str
    zone: str
    stage: Stage
    cause: str | None = None
    owing: bool = False
    opened_at: datetime
    grace_until: datetime
    ends_at: datetime
    suspended_at: datetime | None = None
    closed_at: datetime | None = None
    policy_attempts: int = 0
    reminders: int = 0
    attempt_reminders: int = 0
    method: str | None = None
    try_at_once: bool = False
    first_look: bool = False
    decline_code: str | None = None
    pay_url: str | None = None
    recovered_attempt: int | None = None
    final_action: str = "none"
    final_done_at: datetime | None = None
    created_at: datetime
    traceparent: str | None = None

    @property
    def open(self) -> bool:
        return self.stage in OPEN


_FIELDS = tuple(Case.__dataclass_fields__)
COLUMNS = [dunning_cases.c[name] for name in _FIELDS]


@dataclass(frozen=True)
class NewStep:
    case: Case
    cause: str
    by: str | None = None
    detail: str | None = None


def add_case(tx: Tx, case: Case, due_at: datetime) -> bool:
    """Add it; False where this invoice has, or had, a case already."""
    statement = insert_into(tx, dunning_cases).values(**vars(case), due_at=due_at, state=DUE).on_conflict_do_nothing()
    return tx.execute(statement.returning(dunning_cases.c.id)).first() is not None


def change_case(tx: Tx, before: Case, after: Case, **work: Any) -> None:
    """Write what differs. The caller holds the row. `work` are columns of the work, such as `due_at`."""
    change_cases(tx, [(before, after, work)])


def change_cases(tx: Tx, changed: Sequence[tuple[Case, Case, Mapping[str, Any]]]) -> None:
    """The same for many: those that change alike in one statement."""
    alike: dict[tuple[tuple[str, Any], ...], list[str]] = defaultdict(list)
    for before, after, work in changed:
        fields = {name: getattr(after, name) for name in _FIELDS if getattr(after, name) != getattr(before, name)}
        alike[tuple({**fields, **work}.items())].append(before.id)
    for values, ids in alike.items():
        if values:
            tx.execute(sa.update(dunning_cases).where(among(tx, dunning_cases.c.id, ids)).values(dict(values)))


def remove_case(tx: Tx, case_id: str) -> None:
    """Of an invoice that was settled before it was due."""
    tx.execute(sa.delete(dunning_steps).where(dunning_steps.c.case_id == case_id))
    tx.execute(sa.delete(dunning_cases).where(dunning_cases.c.id == case_id))


def wake_case(tx: Tx, case_id: str, now: datetime) -> None:
    """Make the case due at once. A worker that has it in hand at this moment will settle nothing."""
    tx.execute(
        sa.update(dunning_cases)
        .where(dunning_cases.c.id == case_id, dunning_cases.c.state == DUE)
        .values(due_at=now, token=None)
    )


def cases_concerned(
    tx: Tx,
    merchant_ids: Collection[str],
    *,
    invoices: Collection[str],
    customers: Collection[str],
    subscriptions: Collection[str],
) -> dict[str, Case]:
    """The cases of these invoices (the book's ids), and those under way of these customers and subscriptions (the
    provider's ids): locked in one order, by invoice."""
    c = dunning_cases.c
    mine = (among(tx, c.merchant_id, merchant_ids), c.state == DUE)
    parts = (
        (invoices, (among(tx, c.invoice_id, invoices),)),
        (customers, (*mine, among(tx, c.customer, customers))),
        (subscriptions, (*mine, among(tx, c.subscription, subscriptions))),
    )
    ids = {
        row_id for wanted, where in parts if wanted for row_id in tx.execute(sa.select(c.id).where(*where)).scalars()
    }
    return {case.invoice_id: case for case in cases_by_id(tx, ids, lock=True).values()} if ids else {}


def cases_by_id(tx: Tx, case_ids: Collection[str], *, lock: bool = False) -> dict[str, Case]:
    query = sa.select(*COLUMNS).where(among(tx, dunning_cases.c.id, case_ids)).order_by(dunning_cases.c.id)
    rows = tx.execute(query.with_for_update() if lock else query).mappings()
    return {row["id"]: Case(**row) for row in rows}


def get_case(tx: Tx, case_id: str, *, merchant_id: str | None = None, lock: bool = False) -> Case | None:
    case = cases_by_id(tx, [case_id], lock=lock).get(case_id)
    return case if case is not None and merchant_id in (None, case.merchant_id) else None


def list_cases(
    tx: Tx,
    *,
    merchant_id: str | None,
    stage: str | None = None,
    customer: str | None = None,
    after: str | None = None,
    limit: int = 50,
) -> list[Case]:
    """One page, by id; those whose invoice is not due yet only where they are asked for."""
    c = dunning_cases.c
    query = sa.select(*COLUMNS).order_by(c.id).limit(limit)
    query = query.where(c.stage != "scheduled") if stage is None else query.where(c.stage == stage)
    for column, wanted in ((c.merchant_id, merchant_id), (c.customer, customer)):
        if wanted is not None:
            query = query.where(column == wanted)
    if after is not None:
        query = query.where(c.id > after)
    return [Case(**row) for row in tx.execute(query).mappings()]


def newest_cases(tx: Tx, *, merchant_id: str | None, stage: str | None, before: str | None, limit: int) -> list[Case]:
    """One page, the newest first; those whose invoice is not due yet only where they are asked for."""
    c = dunning_cases.c
    query = sa.select(*COLUMNS).where(c.stage != "scheduled" if stage is None else c.stage == stage)
    if merchant_id is not None:
        query = query.where(c.merchant_id == merchant_id)
    if before is not None:
        query = query.where(c.id < before)
    return [Case(**row) for row in tx.execute(query.order_by(c.id.desc()).limit(limit)).mappings()]


LOOKED_THROUGH: Final = 500


def latest_cases(tx: Tx, *, limit: int) -> list[Case]:
    """The newest cases of invoices that are due, among the last few hundred of all."""
    c = dunning_cases.c
    newest = sa.select(c.id).order_by(c.id.desc()).limit(LOOKED_THROUGH)
    query = sa.select(*COLUMNS).where(c.id.in_(newest), c.stage != "scheduled")
    return [Case(**row) for row in tx.execute(query.order_by(c.id.desc()).limit(limit)).mappings()]


def case_of_invoice(tx: Tx, invoice_id: str) -> Case | None:
    """The case of an invoice of the book."""
    row = tx.execute(sa.select(*COLUMNS).where(dunning_cases.c.invoice_id == invoice_id)).mappings().first()
    return Case(**row) if row else None


def add_steps(tx: Tx, steps: Sequence[NewStep], now: datetime) -> None:
    if steps:
        tx.execute(
            dunning_steps.insert(),
            [
                {
                    "id": new_id("dstep"),
                    "merchant_id": step.case.merchant_id,
                    "case_id": step.case.id,
                    "at": now,
                    "cause": step.cause,
                    "stage": step.case.stage,
                    "by": step.by,
                    "detail": step.detail,
                }
                for step in steps
            ],
        )


def steps_of(tx: Tx, case_id: str, *, merchant_id: str | None = None) -> list[sa.RowMapping]:
    c = dunning_steps.c
    query = sa.select(c.at, c.cause, c.stage, c.by, c.detail).where(c.case_id == case_id).order_by(c.id)
    if merchant_id is not None:
        query = query.where(c.merchant_id == merchant_id)
    return list(tx.execute(query).mappings())


_DEBT = ("id", "invoice_id", "stage", "opened_at", "grace_until")


def debts(tx: Tx, merchant_id: str, customer: str) -> list[Debt]:
    """The cases that count for the standing of a customer, by the provider's id."""
    return debts_of(tx, merchant_id, [customer])[customer]


def debts_of(tx: Tx, merchant_id: str, customers: Collection[str]) -> dict[str, list[Debt]]:
    c = dunning_cases.c
    query = sa.select(c.customer, *(c[name] for name in _DEBT))
    query = query.where(c.merchant_id == merchant_id, among(tx, c.customer, customers), c.owing)
    found: dict[str, list[Debt]] = {customer: [] for customer in customers}
    for row in tx.execute(query):
        found[row.customer].append(_debt(row))
    return found


def _debt(row: sa.Row[Any]) -> Debt:
    return Debt(
        case=row.id, invoice=row.invoice_id, stage=row.stage, opened_at=row.opened_at, grace_until=row.grace_until
    )


def moved(case: Case, stage: Stage, cause: str, now: datetime, **changes: Any) -> Case:
    """The case at another stage."""
    closed = stage in ("recovered", "exhausted", "canceled")
    return replace(case, stage=stage, cause=cause, closed_at=now if closed else case.closed_at, **changes)
