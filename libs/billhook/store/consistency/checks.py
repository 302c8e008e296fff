"""What billhook's own rows say of each other, where they must agree: the comparisons that need no provider.

A check walks its subjects page by page (`page`), and says of some of them how they differ (`examine`), now and again at
the second look. What a subject's finding is called begins with the subject's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from billhook.store.consistency.check import Check, by_id, by_time, invoices_by_age
from billhook.store.consistency.deliveries import recent_deliveries, unanswered, undelivered
from billhook.store.consistency.documents import nothing, undocumented
from billhook.store.consistency.dunning import cases_and_open_invoices, cases_that_differ
from billhook.store.consistency.inbox import conflicts, given_up, given_up_page
from billhook.store.consistency.numbers import gaps, series
from billhook.store.consistency.own_invoices import own_that_differ
from billhook.store.consistency.payments import collected, wrongly_applied
from billhook.store.documents import documents
from billhook.store.inbox import inbox_conflicts
from billhook.store.messages import messages
from billhook.store.own_invoices import own_invoices

DOCUMENTS: Final = "documents"
FILES: Final = "files"
"""What takes long, and is done by shares (`store/file_walks.py`): every file is read, wherever it is stored."""

CHECKS: Final[Mapping[str, Check]] = {
    # Its name among a run's lists: what it is of.
    "inbox": Check(("event",), given_up_page, given_up, own=False),
    "conflicts": Check(("inbox_conflict",), by_time(inbox_conflicts.c.received_at), conflicts, own=False),
    DOCUMENTS: Check(("document",), invoices_by_age, undocumented, own=None, parts=True),
    "dunning_cases": Check(("dunning_case",), cases_and_open_invoices, cases_that_differ, own=None),
    "collected_payments": Check(("collected_payment",), collected, wrongly_applied, own=False),
    "own_invoices": Check(("own_invoice",), by_time(own_invoices.c.updated_at), own_that_differ, own=True),
    "number_series": Check(("number", "number_series"), series, gaps, own=True, parts=True),
    "messages": Check(("delivery",), by_id(messages, "msg"), undelivered, own=True, parts=True),
    "deliveries": Check(("delivery_attempts",), recent_deliveries, unanswered, own=True),
    FILES: Check(("file",), by_id(documents, "doc"), nothing, own=True),
}


def check_of(kind: str) -> Check | None:
    """The check whose findings are of this kind."""
    return next((check for check in CHECKS.values() if kind in check.kinds), None)
