"""An invoice of somebody's, and links to its page."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
import requests
from desk.world import NOW, Desk, made

from billhook.actions import invoices
from billhook.outlets.objects import document_key
from billhook.rules.terms import Terms
from billhook.store import work
from billhook.store.documents import Rendered, documents, list_documents, set_files
from billhook.store.merchants import create_key, create_merchant, get_merchant, set_seller
from billhook_testing import samples


@dataclass(frozen=True)
class Hosted:
    desk: Desk
    merchant_id: str
    key: str
    invoice_id: str

    def ask(self, method: str, path: str = "", **request: Any) -> requests.Response:
        """At the links of the invoice, with its merchant's key."""
        return self.desk.ask(method, f"/v1/invoices/{self.invoice_id}/links{path}", self.key, **request)

    def link(self, **asked: int) -> dict[str, Any]:
        """A new one, and under `here` the address that this desk really listens at."""
        link: dict[str, Any] = made(self.ask("POST", json=asked))
        return {**link, "here": self.desk.address + link["url"].removeprefix(self.desk.env.settings.public)}

    def becomes(self, verb: str, *arguments: Any) -> None:
        """As the merchant has it: `pay`, `void`, `credit`…"""
        with self.desk.env.database.begin() as tx:
            getattr(invoices, verb)(tx, self.invoice_id, *arguments, now=self.desk.env.clock())

    def settle(self, kind: str, pdf: bytes | None, subject: str | None = None) -> None:
        """Its document of a kind is made, or that of its credit note; without a file, it was given up."""
        env = self.desk.env
        with env.database.begin() as tx:
            [row] = [row for row in list_documents(tx, subject or self.invoice_id) if row["kind"] == kind]
            if pdf is None:
                work.give_up(tx, documents, [(row["id"], "no engine drew it")], NOW)
                return
            digest = hashlib.sha256(pdf).hexdigest()
            env.objects.put_once(document_key(digest), pdf)
            set_files(tx, [Rendered(row["id"], document_key(digest), digest, len(pdf), "typst")])
            work.finish(tx, documents, [row["id"]], "ready", NOW)


def host(desk: Desk, terms: Terms, **seller: Any) -> Hosted:
    """A merchant with one open invoice, whose document is still to be made."""
    env = desk.env
    shown = msgspec.structs.replace(samples.invoice(terms).seller, **seller)
    with env.database.begin() as tx:
        merchant_id = create_merchant(tx, shown.name, NOW).id
        _, key = create_key(tx, merchant_id, "program", NOW)
        set_seller(tx, merchant_id, shown)
        merchant = get_merchant(tx, merchant_id)
        assert merchant is not None
        invoice = invoices.draft(tx, merchant, invoices.check(terms), now=env.clock()).invoice
        invoices.finalize(tx, invoice.id, now=env.clock())
    return Hosted(desk, merchant_id, key, invoice.id)


def opened(address: str, method: str = "GET", **headers: str) -> requests.Response:
    """As a browser asks that has no key."""
    return requests.request(method, address, headers=headers, timeout=30, allow_redirects=False)
