"""Rows of whoever has billed for years, made by the database itself: a million of each table in a minute."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

from billhook.store import (
    dead_letters,
    deliveries,
    documents,
    endpoints,
    inbox,
    mails,
    merchants,
    messages,
    publications,
)
from billhook.store.book import TABLES
from billhook.store.database import Tx
from billhook.store.schema import Instant, metadata, to_micros

NOW: Final = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
OWNERS: Final = 30
WORKING: Final = 40
"""Rows that are still to be done: few, beside the history."""
BIG: Final = (
    *("deliveries", "delivery_attempts", "messages", "inbox", "dead_letters", "idempotency_keys"),
    *("documents", "mails", "customers", "invoices"),
)
_MINUTE: Final = 60_000


def fill(tx: Tx, rows: int, now: datetime = NOW) -> None:
    """Empty all tables and fill the big ones with so many rows, one a minute, the last of them now."""
    for table in reversed(metadata.sorted_tables):
        tx.execute(table.delete())
    owners = [{"id": f"mrc_{n}", "name": "m", "created_at": now} for n in range(OWNERS)]
    tx.execute(merchants.merchants.insert(), owners)
    fixed = {"url": "https://a.test", "description": "", "event_types": ["*"], "secret": b"", "created_at": now}
    tx.execute(
        endpoints.endpoints.insert(),
        [{**fixed, "id": f"ep_{n}", "merchant_id": f"mrc_{n}"} for n in range(OWNERS)],
    )
    series = _Series(tx.dialect.name == "sqlite", rows, now)
    n, at = series.number, series.at
    theirs = {"merchant_id": sa.literal("mrc_") + series.text(n % OWNERS)}
    made = {**theirs, "created_at": at}
    work = {
        over: sa.case((n >= rows - WORKING, "due"), (n % 200 == 0, sa.literal(seldom)), else_=over)
        for over, seldom in (("delivered", "held"), ("processed", "ignored"), ("ready", "ready"), ("sent", "sent"))
    }
    booked = {
        **theirs,
        "source_id": "src_1",
        "account": "",
        "livemode": True,
        "external_id": sa.literal("x") + series.text(n),
        "metadata": series.json("{}", TABLES["invoice"].c.metadata),
        "created": at,
        "version_at": at,
        "updated_at": at,
    }
    tables: dict[sa.Table, dict[str, Any]] = {
        messages.messages: {
            **made,
            "id": series.id("msg"),
            "type": "invoice.paid",
            "object_kind": "invoice",
            "object_id": "x",
            "body": b"{}" * 100,
            "inbox_id": series.id("msg"),
            "number": 0,
            "occurred_at": at,
            "pruned_at": sa.case((n < rows // 2, at)),
        },
        deliveries.deliveries: {
            **made,
            "id": series.id("dlv"),
            "message_id": series.id("msg"),
            "endpoint_id": sa.literal("ep_") + series.text(n % OWNERS),
            "state": work["delivered"],
            "due_at": at,
        },
        deliveries.delivery_attempts: {
            **theirs,
            "id": series.id("att"),
            "delivery_id": series.id("dlv"),
            "number": 1,
            "started_at": at,
            "duration_ms": 5,
            "outcome": "2xx",
            "response": b"ok" * 50,
        },
        publications.idempotency_keys: {
            **made,
            "idempotency_key": sa.literal("k") + series.text(n),
            "sha256": b"",
            "message_id": series.id("msg"),
        },
        inbox.inbox: {
            **theirs,
            "id": series.id("evt"),
            "source_id": "src_1",
            "account": "",
            "external_id": sa.literal("e") + series.text(n),
            "type": "t",
            "headers": b"{}",
            "body": b"{}" * 200,
            "sha256": b"",
            "received_at": at,
            "state": work["processed"],
            "due_at": at,
        },
        dead_letters.dead_letters: {
            **made,
            "id": series.id("dlq"),
            "queue": "inbox",
            "work_id": sa.literal("evt_") + series.text(n),
            "reason": "r",
            "attempts": 1,
            "resolved_at": sa.case((n % 100 != 0, at)),
        },
        documents.documents: {
            **made,
            "id": series.id("doc"),
            "subject_id": sa.literal("inv_") + series.text(n),
            "kind": "invoice",
            "template": "x",
            "snapshot": b"{}" * 100,
            "object_key": sa.literal("documents/") + series.text(n),
            "e_invoice": False,
            "state": work["ready"],
            "due_at": at,
        },
        mails.mails: {
            **made,
            "id": series.id("mail"),
            "about": sa.literal("inv_") + series.text(n),
            "sender_name": "Acme",
            "state": work["sent"],
            "due_at": at,
            "finished_at": at,
        },
        TABLES["customer"]: {**booked, "id": series.id("cus"), "email": sa.literal("a@b.test") + series.text(n)},
        TABLES["invoice"]: {
            **booked,
            "id": series.id("inv"),
            "customer": sa.literal("cus_") + series.text(n % 10_000),
            "status": "paid",
            "currency": "eur",
        },
    }
    # What retention has left: of old messages the rows, whose deliveries and keys are gone.
    left = {deliveries.deliveries: rows // 4, publications.idempotency_keys: rows // 4}
    for table, values in tables.items():
        row = {column.name: series.nothing(column) for column in table.columns if _must_be_given(column)} | values
        columns = [value if isinstance(value, sa.ColumnElement) else sa.literal(value) for value in row.values()]
        numbers = sa.select(*columns).select_from(series.numbers).where(n >= left.get(table, 0))
        tx.execute(table.insert().from_select(list(row), numbers))


def _must_be_given(column: sa.Column[Any]) -> bool:
    return not column.nullable and column.server_default is None


class _Series:
    """The numbers from 0 on, each with its time and its ids, in either dialect's words."""

    def __init__(self, sqlite: bool, rows: int, now: datetime) -> None:
        self._sqlite = sqlite
        if sqlite:
            numbers = sa.select(sa.literal(0).label("n")).cte("numbers", recursive=True)
            self.numbers: Any = numbers.union_all(sa.select(numbers.c.n + 1).where(numbers.c.n < rows - 1))
        else:
            count = sa.column("n", sa.BigInteger)
            self.numbers = sa.func.generate_series(0, rows - 1).table_valued(count).render_derived(name="numbers")
        self.number = self.numbers.c.n
        last = to_micros(now) // 1000
        self._milliseconds = sa.literal(last - rows * _MINUTE, sa.BigInteger) + self.number * _MINUTE

    @property
    def at(self) -> sa.ColumnElement[Any]:
        return self._milliseconds * 1000 if self._sqlite else sa.func.to_timestamp(self._milliseconds / 1000.0)

    def id(self, prefix: str) -> sa.ColumnElement[str]:
        """As `new_id` makes them: of their time, and in its order."""
        if self._sqlite:
            return sa.func.printf(f"{prefix}_%012x%020x", self._milliseconds, self.number)
        time, number = (
            sa.func.lpad(sa.func.to_hex(value), width, "0")
            for value, width in ((self._milliseconds, 12), (self.number, 20))
        )
        return sa.literal(f"{prefix}_") + time + number

    def json(self, text: str, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
        return sa.literal(text, sa.Text) if self._sqlite else sa.cast(sa.literal(text, sa.Text), column.type)

    def nothing(self, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
        """What a column has that does not matter."""
        if isinstance(column.type, sa.JSON) or column.type.python_type is object:
            return self.json("[]", column)
        if isinstance(column.type, Instant):
            return self.at
        plain: dict[type, Any] = {str: "", int: 0, bool: False, bytes: b""}
        return sa.literal(plain[column.type.python_type])

    @staticmethod
    def text(value: sa.ColumnElement[int]) -> sa.ColumnElement[str]:
        return sa.cast(value, sa.Text)
