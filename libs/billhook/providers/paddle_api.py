"""Paddle's API, asked for single objects and for lists, over plain HTTP: its SDK takes half a second to import."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Final, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from billhook.decoding import convert, decode
from billhook.errors import KeyRefused, NotPermitted, TryAgain, Unprocessable
from billhook.providers import listing, reading
from billhook.providers.listing import ListedEvent, ListedObject, Page, Unread
from billhook.providers.paddle_objects import Customer, PaddleObject, Price, Product, Subscription
from billhook.providers.paddle_transactions import Adjustment, Transaction
from billhook.providers.provider import Gate, OpenGate, seconds_of
from billhook.rules.book.objects import BookObject, Time
from billhook.rules.storable import storable

T = TypeVar("T")

LIVE: Final = "https://api.paddle.com"
SANDBOX: Final = "https://sandbox-api.paddle.com"
_SANDBOX_KEY: Final = "pdl_sdbx_"
_MOST_BYTES: Final = 64 * 1024 * 1024
"""Of one answer: 50 transactions of 100 items each are a tenth of this."""

_READ_AS: Final[dict[str, tuple[str, type[PaddleObject], dict[str, str]]]] = {
    # list: (path, what its entities are read as, what makes it whole)
    "customer": ("customers", Customer, {"status": "active,archived"}),
    "product": ("products", Product, {"status": "active,archived"}),
    "price": ("prices", Price, {"status": "active,archived"}),
    "subscription": ("subscriptions", Subscription, {}),
    "transaction": ("transactions", Transaction, {"per_page": "30"}),
    "adjustment": ("adjustments", Adjustment, {}),
}


class _Event(msgspec.Struct):
    event_id: str
    event_type: str
    occurred_at: Time


class PaddleApi:
    """The `ProviderApi` for Paddle Billing."""

    lists: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "customer": ("customer",),
        "product": ("product",),
        "price": ("price",),
        "subscription": ("subscription",),
        # Not its charges, which are tries to pay: Paddle cannot be asked for one of them by its id.
        "transaction": ("invoice", "payment"),
        "adjustment": ("refund", "credit_note", "dispute"),
    }

    def __init__(
        self, api_key: str, *, base_url: str | None = None, gate: Gate | None = None, timeout_seconds: float = 10
    ) -> None:
        self._base = base_url or (SANDBOX if api_key.startswith(_SANDBOX_KEY) else LIVE)
        self._headers = {"Authorization": f"Bearer {api_key}", "Paddle-Version": "1", "Accept": "application/json"}
        self._timeout = timeout_seconds
        self._gate = gate or OpenGate()
        self._http = urllib.request.build_opener(_NoRedirects)

    def fetch(self, kind: str, external_id: str, *, account: str = "") -> BookObject:
        what = f"{kind} {external_id}"
        name = next((name for name, kinds in self.lists.items() if kind in kinds), None)
        if name is None:
            raise Unprocessable(f"{what}: Paddle cannot be asked for it by its id")
        path, read_as, _ = _READ_AS[name]
        if name == "adjustment":  # these have a list only
            found = self._get(what, path, {"id": external_id})["data"]
        else:
            found = [self._get(what, f"{path}/{quote(external_id, safe='')}", {})["data"]]
        for value in found:
            for known in _entries(value, read_as, what):
                if known.kind == kind:
                    return known
        raise Unprocessable(f"{what}: Paddle has no such object")

    def list_events(
        self, *, since: datetime, until: datetime, cursor: str | None = None, account: str = ""
    ) -> Page[ListedEvent]:
        what = "events"
        answer = self._page(what, "events", cursor, {"per_page": "200"})
        items, shown, past = [], [], False
        for value in answer["data"]:
            event = _converted(value, _Event, what)
            shown.append((event.event_id, event.event_id))
            past = past or event.occurred_at < since
            if since <= event.occurred_at < until:
                body = json.dumps(value).encode()
                items.append(ListedEvent(event.event_id, event.event_type, event.occurred_at, body))
        more = answer["meta"]["pagination"]["has_more"] and not past
        return Page(tuple(items), (), listing.next_cursor(cursor, shown, more=more, what=what))

    def list_objects(
        self, name: str, *, since: datetime, until: datetime, cursor: str | None = None, account: str = ""
    ) -> Page[ListedObject]:
        path, read_as, options = _READ_AS[name]
        answer = self._page(name, path, cursor, {"per_page": "50", **options})
        items: list[ListedObject] = []
        unread, shown, past = [], [], False
        for value in answer["data"]:
            external_id = str(value.get("id")) if isinstance(value, dict) else ""
            shown.append((external_id, external_id))
            try:
                read = _converted(value, read_as, f"{name} {external_id}")
                if read.created_at is not None and not since <= read.created_at < until:
                    past = past or read.created_at < since
                    continue
                entries = _entries(value, read_as, f"{name} {external_id}")
            except Unprocessable as reason:
                unread.append(Unread(external_id, str(reason)))
                continue
            items += [ListedObject(entry, read.changed_at()) for entry in entries if entry.kind in self.lists[name]]
        more = answer["meta"]["pagination"]["has_more"] and not past
        return Page(tuple(items), tuple(unread), listing.next_cursor(cursor, shown, more=more, what=name))

    def close(self) -> None:
        self._http.close()

    def _page(self, what: str, path: str, cursor: str | None, options: dict[str, str]) -> dict[str, Any]:
        after = listing.after(cursor, what)
        # Ids are made in the order of time: the newest comes first.
        query = {"order_by": "id[DESC]", **options, **({"after": after} if after else {})}
        answer = self._get(what, path, query)
        try:
            if not isinstance(answer["data"], list) or not isinstance(answer["meta"]["pagination"]["has_more"], bool):
                raise TypeError
        except (KeyError, TypeError):
            raise Unprocessable(f"{what}: what Paddle answered is no list") from None
        return answer

    def _get(self, what: str, path: str, query: dict[str, str]) -> dict[str, Any]:
        url = f"{self._base}/{path}" + (f"?{urlencode(query)}" if query else "")
        self._gate.enter("")
        try:
            with self._http.open(urllib.request.Request(url, headers=self._headers), timeout=self._timeout) as answer:
                return _object(answer.read(_MOST_BYTES), what)
        except urllib.error.HTTPError as error:
            if error.code == 429:
                self._gate.limited("", seconds_of(dict(error.headers.items())))
            with error:
                raise _refusal(error, what) from error
        except OSError as error:
            raise TryAgain(f"{what}: Paddle could not be reached") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key goes to Paddle and to nobody that Paddle's answer names."""

    def redirect_request(self, *args: Any) -> None:
        return None


def _refusal(error: urllib.error.HTTPError, what: str) -> Exception:
    detail = ""
    with contextlib.suppress(Unprocessable, KeyError, TypeError, OSError):
        detail = str(_object(error.read(_MOST_BYTES), what)["error"]["detail"])
    if error.code == 401:
        return KeyRefused(f"{what}: Paddle refuses the API key (401): {detail or 'it is not known there'}")
    if error.code == 403:
        return NotPermitted(f"{what}: the API key may not read it: {detail or 'a permission is missing'}")
    if error.code in (400, 404):
        return Unprocessable(f"{what}: Paddle says: {detail or error.code}")
    return TryAgain(f"{what}: Paddle answered {error.code}", after_seconds=seconds_of(dict(error.headers.items())))


def _object(body: bytes, what: str) -> dict[str, Any]:
    try:
        return decode(body, dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unprocessable(f"{what}: what Paddle answered is no JSON object") from None


def _converted(value: Any, kind: type[T], what: str) -> T:
    try:
        return convert(value, kind)
    except msgspec.ValidationError as error:
        raise reading.misunderstood(what, error) from None


def _entries(value: Any, read_as: type[PaddleObject], what: str) -> tuple[BookObject, ...]:
    read = _converted(value, read_as, what)
    return tuple(reading.whole(storable(entry, what), what) for entry in read.to_book())
