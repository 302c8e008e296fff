"""The command that erases a person."""

from __future__ import annotations

from typing import Annotated

import typer

from billhook.cli.arguments import Owner, owner_of
from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, opened, show
from billhook.rules.erasing import traces_of
from billhook.store import erasure

customer_commands = command_group("customers")

_KEPT = {
    "invoices": "kept: tax and commercial law want what was issued for up to ten years, with name and address",
    "credit_notes": "kept: as invoices",
    "payments": "kept: they belong to the invoices, and hold ids and amounts",
    "documents": "kept: as invoices; BILLHOOK_KEEP_DOCUMENTS_DAYS deletes them when their time is over",
    "drafts": "not touched: delete them, they were never issued",
}


@customer_commands.command("erase")
def erase(
    customer: Annotated[str, typer.Argument(metavar="CUSTOMER", help="billhook's id of it, or the provider's.")],
    merchant: Owner = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase what is known of a customer, besides what the law wants kept, and say which is which. Erase the customer at
    the provider first: an event that comes later would bring the name back. May be repeated."""
    with opened() as env:
        now = env.clock()
        with env.database.read() as tx:
            merchant_id = owner_of(tx, merchant)
            row = erasure.find_customer(tx, merchant_id, customer)
            if row is None:
                raise CommandError(f"There is no customer {customer!r} of {merchant_id}.")
            kept = erasure.kept(tx, merchant_id, row["external_id"])
        if not yes:
            typer.confirm(f"Erase {row['external_id']} ({row['name'] or 'no name'}) for good?", abort=True)
        traces = traces_of(value for value in (row["external_id"], row["email"]) if value)
        with env.database.overwriting():
            events = sum(erasure.delete_events(env.database, merchant_id, traces))
            emptied = sum(erasure.empty_messages(env.database, merchant_id, traces, now))
            sent = sum(erasure.delete_mails(env.database, merchant_id, traces))
            findings = sum(erasure.delete_findings(env.database, merchant_id, traces))
            guests = sum(erasure.blank_guests(env.database, merchant_id, traces))
            with env.database.begin() as tx:
                links = erasure.revoke_links(tx, merchant_id, row["external_id"], now)
                # Last: until all else is gone, the row says what to look for, should this be interrupted.
                objects = erasure.blank(tx, merchant_id, row["external_id"]) + guests
        done = [
            ("events", events, "deleted, as they came"),
            ("messages", emptied, "emptied, with what receivers answered; what was not delivered is not any more"),
            ("mails", sent, "deleted"),
            ("findings", findings, "of reconciliation: deleted"),
            ("links", links, "revoked"),
            ("objects", objects, "of the book: name, address, mail, telephone and metadata taken out"),
            *((what, count, _KEPT[what]) for what, count in kept.items()),
        ]
        rows = [{"what": what, "count": count, "became": became} for what, count, became in done]
        show(rows, ("what", "count", "became"), as_json=as_json, empty="")
