"""What is sent: an endless, reproducible stream of billing events, each with an id of its own."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
"""Event n happened n seconds after this, so that no two states of one object share a second."""

SUBSCRIPTIONS = 12
"""Of each source. Few, so that each gets many updates, and their order counts."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event, and what must come of it."""

    number: int
    id: str
    source: str
    """`standard` or `stripe`."""
    body: bytes
    fact: str | None
    """The name under which merchants hear of it; None: nobody does."""
    kind: str = ""
    """Of the object it is about; empty where the book does not know such objects."""
    object_id: str = ""
    documents: tuple[str, ...] = ()
    hold_back: float = 0.0
    """Seconds it is sent late, so that younger events overtake it."""
    again: float | None = None
    """Seconds after its acceptance, when it is sent once more."""

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.body).digest()


def traffic(seed: int) -> Iterator[Event]:
    """Customers mostly, updates of a few subscriptions, one event in sixteen about an invoice (each has two documents),
    and now and then a type that nobody knows. One in twenty is sent again, one in ten is held back."""
    rng = random.Random(seed)
    draw = _Drawer(rng)
    while True:
        dice = rng.random()
        if dice < 0.02:
            yield draw.unknown()
        elif dice < 0.05:
            yield from draw.invoice()
        elif dice < 0.35:
            yield draw.subscription()
        else:
            yield draw.customer()


class _Drawer:
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._number = 0

    def unknown(self) -> Event:
        return self._event("stripe", "terminal.reader.updated", None, "", {"id": f"tmr_{self._number + 1}"})

    def customer(self) -> Event:
        name, number = "Chaos & Söhne", self._number + 1
        if self._either() == "stripe":
            value = {"id": f"cus_{number}", "name": name, "email": "billing@example.com"}
            return self._event("stripe", "customer.created", "customer.created", "customer", value)
        value = {"external_id": f"cus_{number}", "name": name, "email": "billing@example.com"}
        return self._event("standard", "customer.created", "customer.created", "customer", value)

    def subscription(self) -> Event:
        name = f"sub_{self._rng.randrange(SUBSCRIPTIONS)}"
        if self._either() == "stripe":
            value = {"id": name, "status": "active", "items": {"data": []}}
            return self._event("stripe", "customer.subscription.updated", "subscription.updated", "subscription", value)
        value = {"external_id": name, "status": "active"}
        return self._event("standard", "subscription.updated", "subscription.updated", "subscription", value)

    def invoice(self) -> Iterator[Event]:
        """Finalized, then paid; in one case of four they are sent the other way round."""
        source, number = self._either(), self._number + 1
        swapped = self._rng.random() < 0.25
        for status, fact, documents in (
            ("open", "invoice.finalized", ("invoice",)),
            ("paid", "invoice.paid", ("invoice", "receipt")),
        ):
            value = (_stripe_invoice if source == "stripe" else _standard_invoice)(number, status)
            hold_back = 1.0 if swapped and status == "open" else 0.0
            yield self._event(source, fact, fact, "invoice", value, documents, hold_back)

    def _either(self) -> str:
        return self._rng.choice(("standard", "stripe"))

    def _event(
        self,
        source: str,
        event_type: str,
        fact: str | None,
        kind: str,
        value: dict[str, Any],
        documents: tuple[str, ...] = (),
        hold_back: float = 0.0,
    ) -> Event:
        self._number += 1
        event_id = f"evt_chaos_{self._number}"
        at = BEGINNING + timedelta(seconds=self._number)
        # The book keeps metadata, and messages carry it: each state and each webhook says which event it came from.
        value = {**value, "metadata": {"event": event_id}}
        if source == "stripe":
            whole = {"id": event_id, "object": "event", "created": int(at.timestamp()), "type": event_type}
            whole["data"] = {"object": value}
        else:
            whole = {"type": event_type, "timestamp": at.isoformat(), "data": value}
        return Event(
            self._number,
            event_id,
            source,
            json.dumps(whole).encode(),
            fact,
            kind,
            value.get("id") or value["external_id"] if kind else "",
            documents,
            hold_back or (self._rng.uniform(0.1, 1.5) if self._rng.random() < 0.1 else 0.0),
            self._rng.uniform(0.0, 5.0) if self._rng.random() < 0.05 else None,
        )


def _stripe_invoice(number: int, status: str) -> dict[str, Any]:
    line = {"id": f"il_{number}", "amount": 1000 + number, "description": "One month", "quantity": 1}
    return {
        "id": f"in_{number}",
        **_amounts(number, status),
        "lines": {"object": "list", "data": [line], "has_more": False},
    }


def _standard_invoice(number: int, status: str) -> dict[str, Any]:
    line = {"external_id": f"il_{number}", "amount": 1000 + number, "description": "One month", "quantity": "1"}
    return {"external_id": f"in_{number}", **_amounts(number, status), "lines": [line]}


def _amounts(number: int, status: str) -> dict[str, Any]:
    total = 1000 + number
    paid = total if status == "paid" else 0
    return {
        "number": f"C-{number:06}",
        "status": status,
        "currency": "eur",
        "subtotal": total,
        "total": total,
        "amount_due": total,
        "amount_paid": paid,
        "amount_remaining": total - paid,
        "customer_name": "Chaos & Söhne",
    }
