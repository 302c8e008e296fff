"""What billhook needs of a payment provider, or an in-house system: who signed an event, what it is, what it means."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Protocol

import msgspec

from billhook.errors import Unprocessable
from billhook.providers.listing import ListedEvent, ListedObject, Page
from billhook.rules.book.change import Translation
from billhook.rules.book.objects import BookObject

TOLERANCE_SECONDS = 300
"""How far a signature's timestamp may lie from our clock, both ways (Stripe's and Standard Webhooks' own figure)."""


class Envelope(msgspec.Struct, frozen=True):
    """What the ingress needs to know of an event: its id is what makes a second delivery a duplicate."""

    external_id: str
    type: str
    account: str = ""
    """The connected account an event is about, where a provider has such (Stripe Connect); ids repeat across them."""
    livemode: bool | None = None
    """Whether real money moved, where the provider says so."""
    content: bytes = b""
    """What a second sending of the event repeats, where that is not the whole body: other bytes under a known id are a
    conflict."""


class Gate(Protocol):
    """What every request to a provider passes first, so that its account takes no more of them than it likes."""

    def enter(self, account: str) -> None:
        """Wait for a turn. Raises `NotYet` where none comes soon: then nothing was sent."""

    def limited(self, account: str, seconds: float | None) -> None:
        """The provider answered that it wants to be left alone (429), for so long where it says that."""


class OpenGate(Gate):
    """Lets everything through."""

    def enter(self, account: str) -> None:
        pass

    def limited(self, account: str, seconds: float | None) -> None:
        pass


def seconds_of(headers: Mapping[str, Any] | None) -> float | None:
    """What an answer's `Retry-After` says, if it says it in seconds."""
    said = next((str(value) for name, value in (headers or {}).items() if str(name).lower() == "retry-after"), "")
    return float(said) if re.fullmatch("[0-9]{1,6}", said) else None


class ProviderApi(Protocol):
    """A provider's own API: asked when events alone cannot say what is true, and listed to find events that never came.

    All methods raise `TryAgain`, or `Unprocessable` for what asking again does not change (`NotPermitted` where the key
    lacks a permission). `account` is the connected account that is asked about. A class that says so (`class
    MineApi(ProviderApi)`) needs nothing but `fetch`: then nothing is listed.
    """

    lists: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """What can be listed, and the kinds of the book that each list is about."""

    def fetch(self, kind: str, external_id: str, *, account: str = "") -> BookObject:
        """The object as it is now, with all its lines or items. Raises `Unprocessable` if it is unknown."""

    def list_events(
        self, *, since: datetime, until: datetime, cursor: str | None = None, account: str = ""
    ) -> Page[ListedEvent]:
        """One page of the events that happened from `since` to before `until`, newest first, if still kept."""
        raise Unprocessable("the provider has no list of events")

    def list_objects(
        self, name: str, *, since: datetime, until: datetime, cursor: str | None = None, account: str = ""
    ) -> Page[ListedObject]:
        """One page of what was made from `since` to before `until`, newest first; `name` is one of `lists`."""
        raise Unprocessable(f"the provider has no list of {name}")

    def close(self) -> None:
        """Let go of its connections."""
        return


class OpenApi(Protocol):
    @property
    def lists(self) -> Mapping[str, tuple[str, ...]]:
        """As the API's own, before it is opened."""

    def __call__(self, api_key: str, *, base_url: str | None = None, gate: Gate) -> ProviderApi:
        """The API under a key of the source's owner, at another address where one is given. Opens no connection; each
        of its requests passes the gate."""


class Provider(Protocol):
    """One inbound provider: all that billhook knows of it. A class that says so (`class Mine(Provider)`) has the
    defaults below. `verify`, `open` and `translate` are pure, and given headers with lower-case names."""

    name: str
    """What sources call it: lower case, no spaces."""

    headers: ClassVar[Mapping[str, str]]
    """The headers, in lower case, that the methods below read, and what each holds. The ingress keeps these."""

    title: str | None = None
    """What people call it. None: a system of the merchant's own, called as its source is."""

    api: OpenApi | None = None
    """What it can be asked for. None: nothing, its events say all."""

    merchant_of_record: bool = False
    """Whether the provider sells in its own name: then the invoices are its own, and billhook draws none."""

    def new_secret(self) -> str | None:
        """A fresh secret for senders to sign with. None: the provider makes its own, and shows it to its customers."""
        return None

    def livemode_of(self, api_key: str) -> bool | None:
        """Whether a key is for real money, where that can be seen."""
        return None

    def check_secret(self, secret: str) -> None:
        """Raise `Refused` for a secret that nothing could be signed with."""
        return

    def verify(self, headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: datetime) -> None:
        """Return if one of `secrets` signed these exact bytes near `now`; else raise `SignatureRefused`."""

    def open(self, headers: Mapping[str, str], body: bytes) -> Envelope:
        """Read the envelope. Raises `BodyRefused`; must withstand any bytes at all."""

    def translate(self, headers: Mapping[str, str], body: bytes, received_at: datetime) -> Translation:
        """Say what the event means for the book. Raises `Unprocessable` with a reason a person can act on."""
