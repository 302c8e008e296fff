"""What customers owe, as products ask on every request of their own: in one statement for all who ask at a moment,
which also says whose keys are still good."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from billhook.rules.standing import Debt
from billhook.store.database import Database
from billhook.store.schema import as_instant, to_micros
from billhook.store.statements import as_json


class Owed(NamedTuple):
    of: dict[tuple[str | None, str], list[Debt] | None]
    """By who asked (a merchant, or the operator: None) and the book's id of the customer: None where that is unknown
    to whoever asked."""
    good_keys: set[str]


_DEBT: Final = "c.id, c.invoice_id, c.stage, c.opened_at, c.grace_until"

# Of customers that the book knows. A customer of own invoices need not be among them, and is looked for where there is
# no other. A list is one text: the driver's arrays cost more than the statement.
_ASKED: Final = f"""
SELECT customers.merchant_id, customers.id, {_DEBT}
  FROM customers LEFT JOIN dunning_cases c
    ON c.customer_id = customers.id AND c.merchant_id = customers.merchant_id AND {{owing}}
 WHERE customers.id {{among}}
UNION ALL
SELECT NULL, id, NULL, NULL, NULL, NULL, NULL
  FROM api_keys WHERE id {{among}} AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > {{now}})
"""
_LONE: Final = f"""
SELECT c.merchant_id, c.customer_id, {_DEBT} FROM dunning_cases c WHERE c.customer_id {{among}} AND {{owing}}
"""

_POSTGRESQL: Final = {
    "among": "= ANY (string_to_array(%s::text, chr(31)))",
    "owing": "c.owing",
    "now": "%s::timestamptz",
}
_SQLITE: Final = {"among": "IN (SELECT value FROM json_each(?))", "owing": "c.owing = 1", "now": "?"}
_ASKED_OF: Final = {False: _ASKED.format(**_POSTGRESQL), True: _ASKED.format(**_SQLITE)}
_LONE_OF: Final = {False: _LONE.format(**_POSTGRESQL), True: _LONE.format(**_SQLITE)}


def debts_of_customers(
    database: Database,
    asked: Collection[tuple[str | None, str]],
    now: datetime,
    *,
    keys: Collection[str] = (),
) -> Owed:
    """The cases that count for the standing of customers, and which of these keys are good now."""
    sqlite, customers = database.sqlite, {customer_id for _, customer_id in asked}
    given = (_list(sqlite, customers), _list(sqlite, keys), to_micros(now) if sqlite else now)
    with database.question() as run:
        rows = run(_ASKED_OF[sqlite], given).fetchall()
        unknown = customers.difference(row[1] for row in rows)
        if unknown:
            rows = [*rows, *run(_LONE_OF[sqlite], (_list(sqlite, unknown),)).fetchall()]
    found: dict[tuple[str | None, str], list[Debt] | None] = dict.fromkeys(asked)
    good = set()
    for row in rows:
        if row[0] is None:
            good.add(row[1])
            continue
        for key in ((row[0], row[1]), (None, row[1])):
            if key in found:
                owed = found[key] or []
                found[key] = [*owed, _debt(row)] if row[2] is not None else owed
    return Owed(found, good)


def _debt(row: Sequence[Any]) -> Debt:
    _, _, case, invoice, stage, opened_at, grace_until = row
    return Debt(
        case=case,
        invoice=invoice,
        stage=stage,
        opened_at=as_instant(opened_at),
        grace_until=as_instant(grace_until),
    )


def _list(sqlite: bool, values: Collection[str]) -> str:
    return as_json([*values]) if sqlite else "\x1f".join(values)
