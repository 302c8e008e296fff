"""Everything the fake knows: its objects, its events in order, and what falls due when.

Objects are plain dicts in Stripe's shape. Whoever changes one does it inside `changing`, which notes what changed and
appends the event; nothing else appends events but `emit`.
"""

from __future__ import annotations

import heapq
import random
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from billhook_testing.fake_stripe.clock import FakeClock
from billhook_testing.fake_stripe.errors import missing

API_VERSION = "2025-10-29.clover"
"""The version whose shapes the fake speaks, whichever one a client asks for."""

SHOWN_ITEMS = 10
"""How many of a subscription's items are sent along with it."""

Json = dict[str, Any]
_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Policy:
    """What an account's owner would set in Stripe's dashboard."""

    retry_days: tuple[int, ...] = (3, 5, 7)
    """Days between one failed try to collect a renewal and the next; empty where somebody else collects."""
    after_retries: Literal["past_due", "unpaid", "canceled"] = "past_due"
    """What a subscription becomes when the tries are used up."""
    draft_seconds: int = 3600
    """How long a renewal's invoice stays a draft."""


@dataclass
class Request:
    """The request that events are caused by; both empty for what time alone does."""

    id: str | None = None
    idempotency_key: str | None = None


@dataclass
class World:
    clock: FakeClock
    seed: int = 0
    account: str = ""
    """The connected account that it is the world of; empty for the platform's own."""
    policy: Policy = field(default_factory=Policy)
    on_event: Callable[[Json], None] = lambda event: None
    """Told of each new event, to send it on; it sets `pending_webhooks` to the number of endpoints."""
    request: Request = field(default_factory=Request)
    outcomes: dict[str, str | None] = field(default_factory=dict)
    """Customer to decline code (None: accept), where a switch overrules the card."""
    advice: dict[str, Json] = field(default_factory=dict)
    """Customer to what the issuer of the declined card advises."""

    def __post_init__(self) -> None:
        self._kinds: dict[str, dict[str, Json]] = {}
        self._by_id: dict[str, Json] = {}
        self._under: dict[tuple[str, str], dict[str, Json]] = {}
        self._dice: dict[str, random.Random] = {}
        self._agenda: list[tuple[int, int, str, str]] = []
        self._entries = 0

    # ids and objects

    def new_id(self, prefix: str) -> str:
        """The next id: each prefix has its own seeded sequence, so one kind's ids do not depend on another's."""
        return f"{prefix}_{''.join(self._dice_of(prefix).choices(_ALPHABET, k=24))}"

    def token(self, purpose: str, length: int) -> str:
        """A seeded text of capitals and digits."""
        return "".join(self._dice_of(purpose).choices(string.ascii_uppercase + string.digits, k=length))

    def _dice_of(self, purpose: str) -> random.Random:
        if purpose not in self._dice:
            self._dice[purpose] = random.Random(f"{self.seed}:{purpose}")
        return self._dice[purpose]

    def now(self) -> int:
        return self.clock.timestamp()

    def add(self, kind: str, obj: Json, under: str | None = None) -> Json:
        """Keep an object; `under` names the one it belongs to, to be found again without a search."""
        self._kinds.setdefault(kind, {})[obj["id"]] = obj
        self._by_id[obj["id"]] = obj
        if under is not None:
            self._under.setdefault((kind, under), {})[obj["id"]] = obj
        return obj

    def remove(self, kind: str, object_id: str, under: str | None = None) -> None:
        del self._kinds[kind][object_id]
        del self._by_id[object_id]
        if under is not None:
            del self._under[kind, under][object_id]

    def under(self, kind: str, owner_id: str) -> list[Json]:
        """Every object of a kind that belongs to another one, oldest first."""
        return list(self._under.get((kind, owner_id), {}).values())

    def all(self, kind: str) -> list[Json]:
        """Every object of a kind, oldest first."""
        return list(self._kinds.get(kind, {}).values())

    def get(self, kind: str, object_id: str, *, param: str = "id", status: int = 404) -> Json:
        """The object, or Stripe's refusal. A parameter that names a missing object is a 400, a path a 404."""
        found = self._kinds.get(kind, {}).get(object_id)
        if found is None:
            raise missing(kind.replace("_", " "), object_id, param=param, status=status)
        return found

    def named(self, kind: str, object_id: str, param: str) -> Json:
        return self.get(kind, object_id, param=param, status=400)

    def find(self, object_id: str) -> Json | None:
        return self._by_id.get(object_id)

    # events

    def emit(self, type_: str, obj: Json, previous: Json | None = None) -> Json:
        data: Json = {"object": as_sent(obj)}
        if previous is not None:
            data["previous_attributes"] = previous
        event: Json = {
            "id": self.new_id("evt"),
            "object": "event",
            "api_version": API_VERSION,
            "created": self.now(),
            "data": data,
            "livemode": False,
            "pending_webhooks": 0,
            "request": {"id": self.request.id, "idempotency_key": self.request.idempotency_key},
            "type": type_,
        }
        if self.account:
            event["account"] = self.account
        self.add("event", event)
        self.on_event(event)
        return event

    @contextmanager
    def changing(self, obj: Json, *types: str) -> Iterator[Json]:
        """Change `obj` inside; on leaving, one event a type. An `….updated` comes only if something changed."""
        before = copied(obj)
        yield obj
        previous = changed(before, obj)
        for type_ in types:
            if not type_.endswith(".updated"):
                self.emit(type_, obj)
            elif previous:
                self.emit(type_, obj, previous)

    # what falls due

    def schedule(self, at: int, duty: str, object_id: str) -> None:
        """Have `duty` looked at once time reaches `at`. A duty checks for itself whether it still applies."""
        self._entries += 1
        heapq.heappush(self._agenda, (at, self._entries, duty, object_id))

    def due_at(self) -> int | None:
        """When the next duty falls due."""
        return self._agenda[0][0] if self._agenda else None

    def next_due(self, until: int) -> tuple[int, str, str] | None:
        if not self._agenda or self._agenda[0][0] > until:
            return None
        at, _, duty, object_id = heapq.heappop(self._agenda)
        return at, duty, object_id


def changed(before: Json, after: Json) -> Json:
    """The old values of what differs, nested as Stripe's `previous_attributes`: lists whole, objects by key."""
    previous: Json = {}
    for name in [*before, *(key for key in after if key not in before)]:
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        both = isinstance(old, dict) and isinstance(new, dict)
        previous[name] = changed(old, new) if both else old  # type: ignore[arg-type]
    return previous


def as_sent(value: Any) -> Any:
    """A copy of an answer, or of an event's object, as Stripe sends it: of a subscription's items, the first ones."""
    if isinstance(value, list):
        return [as_sent(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    sent = {name: as_sent(inner) for name, inner in value.items()}
    if sent.get("object") == "subscription":
        items = sent["items"]
        sent["items"] = {**items, "data": items["data"][:SHOWN_ITEMS], "has_more": len(items["data"]) > SHOWN_ITEMS}
    return sent


def copied(value: Any) -> Any:
    """A deep copy of plain JSON values, several times faster than the general one."""
    if isinstance(value, dict):
        return {name: copied(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [copied(inner) for inner in value]
    return value


def encode(value: Any) -> bytes:
    """JSON with line breaks and indents, as Stripe sends it."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2)
