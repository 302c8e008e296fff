"""What is compared: each field by name, and what a difference in it is called."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from billhook.rules.book.kinds import KINDS
from billhook.rules.book.objects import BookObject
from billhook.rules.book.subscription import SubscriptionItem
from billhook.rules.reconcile import FIELDS, IGNORED, compare, drift_of, news_of

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ONE: dict[str, Any] = {
    "status": "open",
    "currency": "eur",
    **dict.fromkeys(("amount", "subtotal", "total", "amount_due", "amount_paid", "amount_remaining"), 1),
    "invoice": "in_1",
}


def of(kind: str, **fields: Any) -> BookObject:
    value = KINDS[kind]
    given = {name: ONE[name] for name in value.__struct_fields__ if name in ONE}
    return value(external_id="x_1", **{**given, **fields})


def another(value: BookObject, name: str) -> Any:
    """Something else than the object has there."""
    annotated = repr(type(value).__annotations__[name])
    if name == "items":
        return (SubscriptionItem(external_id="si_1"),)
    if "Time" in annotated:
        return AT
    if "bool" in annotated:
        return not getattr(value, name)
    return 7 if "Amount" in annotated or "Count" in annotated else "another"


COMPARED = [
    (kind, name, finding_class) for kind in KINDS for finding_class, names in FIELDS[kind].items() for name in names
]


@pytest.mark.parametrize(("kind", "name", "finding_class"), COMPARED)
def test_each_compared_field_is_told_by_name_and_class(kind: str, name: str, finding_class: str) -> None:
    here = of(kind)
    there = msgspec.structs.replace(here, **{name: another(here, name)})
    drift = compare(here, there)
    assert drift is not None
    assert (drift.kind, drift.finding_class, list(drift.differences)) == (kind, finding_class, [name])
    assert compare(here, here) is None


def test_every_field_is_compared_or_left_out_for_a_reason() -> None:
    for kind, value in KINDS.items():
        compared = {name for names in FIELDS[kind].values() for name in names}
        unknown = set(value.__struct_fields__) - compared - set(IGNORED)
        assert not unknown, f"{kind}: compare these in FIELDS, or say in IGNORED why not: {sorted(unknown)}"
        assert compared <= set(value.__struct_fields__)
    everything = {name for value in KINDS.values() for name in value.__struct_fields__}
    assert set(IGNORED) <= everything


def test_a_field_that_no_table_names_cannot_differ() -> None:
    assert drift_of("document", "inv_1 invoice", {"colour": ("red", "blue")}) is None
    drift = drift_of("dunning_case", "inv_1", {"amount": (1, 2), "owner_of_retries": ("billhook", "provider")})
    assert drift is not None
    assert drift.finding_class == "double_retry_owner"


def test_merchants_hear_the_state_that_a_repair_brings() -> None:
    paid = of("invoice", status="paid")
    drift = compare(of("invoice", status="open"), paid)
    assert drift is not None
    assert news_of(drift, paid) == "invoice.paid"
    new = compare(None, of("customer"))
    assert new is not None
    assert news_of(new, of("customer")) == "customer.created"
    renamed = compare(of("customer", name="A"), of("customer", name="B"))
    assert renamed is not None
    assert news_of(renamed, of("customer", name="B")) == "customer.updated"
    gone = compare(of("product"), None)
    assert gone is not None
    assert news_of(gone, of("product", deleted=True)) == "product.deleted"
    charge = compare(of("charge", status="failed"), of("charge", status="succeeded"))
    assert charge is not None
    assert news_of(charge, of("charge", status="succeeded")) is None
