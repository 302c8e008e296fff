"""A merchant that makes invoices of its own, each verb in a transaction as the desk runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import sqlalchemy as sa

from billhook.actions import invoices
from billhook.actions.ledger import Step
from billhook.errors import Refused
from billhook.rules.document import Seller, Snapshot
from billhook.rules.invoicing_settings import InvoicingSettings
from billhook.rules.terms import LineTerms, Party, TaxRate, Terms
from billhook.runtime.env import Env
from billhook.runtime.settings import Settings
from billhook.store.database import Database
from billhook.store.documents import list_documents, read_snapshot
from billhook.store.merchants import Merchant, create_merchant, get_merchant, set_invoicing, set_seller
from billhook.store.own_invoices import OwnInvoice, get_own_invoice
from billhook.store.schema import metadata
from billhook_testing.clock import ManualClock

TERMS = Terms(
    currency="eur",
    buyer=Party(name="Ada", email="ada@example.com"),
    lines=(
        LineTerms(description="Plan", unit_amount="1000", tax=TaxRate(percent="19")),
        LineTerms(description="Hours", quantity="2.5", unit_amount="4000", unit="HUR", tax=TaxRate(percent="19")),
    ),
    customer="cus_1",
)
TOTAL = 13090


@dataclass
class Office:
    env: Env
    clock: ManualClock
    merchant_id: str
    seen: list[Step] = field(default_factory=list)

    @classmethod
    def open(cls, database: Database, name: str = "Acme", clock: ManualClock | None = None) -> Office:
        clock = clock or ManualClock()
        env = Env(Settings(database_url=database.url.render_as_string(hide_password=False)), clock=clock)
        env.__dict__["database"] = database
        with database.begin() as tx:
            merchant = create_merchant(tx, name, clock())
        return cls(env, clock, merchant.id)

    @property
    def merchant(self) -> Merchant:
        with self.env.database.read() as tx:
            merchant = get_merchant(tx, self.merchant_id)
        assert merchant is not None
        return merchant

    def settle(self, **settings: Any) -> None:
        with self.env.database.begin() as tx:
            set_invoicing(tx, self.merchant_id, InvoicingSettings(**settings))

    def sell(self, seller: Seller) -> None:
        with self.env.database.begin() as tx:
            set_seller(tx, self.merchant_id, seller)

    def draft(self, terms: Terms = TERMS, key: str | None = None) -> Step:
        with self.env.database.begin() as tx:
            merchant = get_merchant(tx, self.merchant_id)
            assert merchant is not None
            return invoices.draft(tx, merchant, invoices.check(terms), key, now=self.env.clock())

    def do(self, verb: Callable[..., Any], *args: Any, **options: Any) -> Any:
        with self.env.database.begin() as tx:
            return verb(tx, *args, now=self.env.clock(), **options)

    def issued(self, terms: Terms = TERMS) -> OwnInvoice:
        """An open invoice."""
        invoice: OwnInvoice = self.do(invoices.finalize, self.draft(terms).invoice.id).invoice
        return invoice

    def paid(self, terms: Terms = TERMS) -> OwnInvoice:
        invoice: OwnInvoice = self.do(invoices.pay, self.issued(terms).id).invoice
        return invoice

    def now(self, invoice_id: str) -> OwnInvoice:
        with self.env.database.read() as tx:
            invoice = get_own_invoice(tx, invoice_id, merchant_id=self.merchant_id)
        assert invoice is not None
        return invoice

    def shown(self, subject_id: str) -> dict[str, Snapshot]:
        """What the documents of an invoice or credit note show, by kind."""
        with self.env.database.read() as tx:
            return {row["kind"]: read_snapshot(row["snapshot"]) for row in list_documents(tx, subject_id)}

    def told(self) -> list[str]:
        """The messages of this merchant, in order."""
        return [row["type"] for row in self.rows("messages")]

    def rows(self, table: str) -> list[dict[str, Any]]:
        """What this merchant has in a table."""
        found = metadata.tables[table]
        query = sa.select(found).where(found.c.merchant_id == self.merchant_id).order_by(*found.primary_key)
        with self.env.database.read() as tx:
            return [dict(row) for row in tx.execute(query).mappings()]

    def everything(self) -> bytes:
        """All rows that a verb writes."""
        tables = ("own_invoices", "own_credit_notes", "number_series", "invoices", "credit_notes", "messages")
        more = ("documents", "deliveries", "mails")
        return msgspec.json.encode({name: self.rows(name) for name in (*tables, *more)})

    def refused(self, verb: Callable[..., Any], *args: Any, **options: Any) -> str:
        """The code of the refusal, which left every row as it was."""
        before = self.everything()
        try:
            with self.env.database.begin() as tx:
                try:
                    verb(tx, *args, now=self.env.clock(), **options)
                except Refused as refusal:
                    code = refusal.code
                else:
                    raise AssertionError("it was not refused")
            # Committed on purpose: what is refused has written nothing even so.
        finally:
            assert self.everything() == before
        return code
