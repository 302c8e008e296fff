"""What billhook asks of every provider, as tests to inherit: yours pass, or it is not one yet.

    class TestMine(ProviderConformance):
        provider = Mine()

        def signed(self, body, secret, at): return {"mine-signature": …}
        def life(self): return [b"…", …]

pytest finds the inherited tests; nothing here imports it.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from billhook.errors import BodyRefused, NotPermitted, Refused, SignatureRefused, TryAgain, Unprocessable
from billhook.events import DOMAIN_EVENTS
from billhook.providers.listing import Page
from billhook.providers.provider import TOLERANCE_SECONDS, Provider, ProviderApi
from billhook.rules.book.change import ASKED, Change
from billhook.rules.book.objects import BookObject
from billhook.rules.storable import storable
from billhook.rules.versions import Seen, last

NOW = datetime(2026, 3, 1, 12, 0, 7, 123_456, tzinfo=UTC)
HOSTILE = ("", " ", "garbage", "=", ";", ",", "t=,v1=", "ts=;h1=", "v1,", "\0", "é", "٣", "9" * 5000, "a=" * 2000)
NOT_EVENTS = (b"", b"null", b"[]", b"{}", b'"text"', b"{", b"\xff", b"[" * 100_000, b'{"id": 1, "type": 2}')


class ProviderConformance(ABC):
    """Verify, open, translate."""

    provider: ClassVar[Provider]
    secrets: ClassVar[tuple[str, str]]
    """Two secrets that the provider could sign with."""

    @abstractmethod
    def signed(self, body: bytes, secret: str, at: datetime) -> dict[str, str]:
        """The headers, in lower case, of this body as the provider signs it at `at`."""

    @abstractmethod
    def life(self) -> list[bytes]:
        """Events that a customer's months with the provider make, in the order they happened, each with an effect."""

    @abstractmethod
    def unknown(self) -> bytes:
        """An event of a type that nobody knows."""

    def headers(self, body: bytes) -> dict[str, str]:
        return self.signed(body, self.secrets[0], NOW)

    # verify

    def test_what_it_signed_is_accepted_with_either_secret_of_a_rotation(self) -> None:
        for body in self.life():
            for secret in self.secrets:
                self.provider.verify(self.signed(body, secret, NOW), body, self.secrets, NOW)

    def test_the_time_of_signing_may_differ_by_the_tolerance_and_no_more(self) -> None:
        body = self.life()[0]
        for way in (1, -1):
            edge = timedelta(seconds=way * TOLERANCE_SECONDS)
            self.provider.verify(self.signed(body, self.secrets[0], NOW + edge), body, self.secrets, NOW)
            beyond = self.signed(body, self.secrets[0], NOW + edge + timedelta(seconds=way * 2))
            self._refuses(beyond, body)

    def test_another_secret_another_body_and_a_missing_header_are_refused(self) -> None:
        body, signed = self.life()[0], self.headers(self.life()[0])
        self._refuses(signed, body, secrets=self.secrets[1:])
        self._refuses(signed, body, secrets=())
        self._refuses(signed, body + b" ")
        self._refuses({}, body)
        for missing in signed:
            self._refuses({name: text for name, text in signed.items() if name != missing}, body)

    def test_whatever_stands_in_its_headers_the_answer_is_a_refusal(self) -> None:
        body = self.life()[0]
        for text in HOSTILE:
            for name in self.provider.headers:
                self._refuses({**self.headers(body), name: text}, body)

    def test_the_headers_it_reads_are_the_headers_that_are_kept(self) -> None:
        assert set(self.headers(self.life()[0])) <= set(self.provider.headers)
        assert all(name == name.lower() for name in self.provider.headers)

    def test_a_secret_of_its_own_making_is_one_that_it_accepts(self) -> None:
        made = self.provider.new_secret()
        for secret in (*self.secrets, *([made] if made else [])):
            self.provider.check_secret(secret)

    # open

    def test_every_event_has_an_id_and_a_type_and_keeps_them(self) -> None:
        for body in self.life():
            first, again = (self.provider.open(self.headers(body), body) for _ in range(2))
            assert first == again
            assert first.external_id
            assert first.type

    def test_what_is_no_event_is_refused_at_the_door(self) -> None:
        for body in (*NOT_EVENTS, *(_spoiled(one) for one in self.life())):
            with suppress(BodyRefused):
                self.provider.open(self.headers(body), body)

    # translate

    def test_every_event_of_a_life_is_understood_and_told_under_public_names(self) -> None:
        for body in self.life():
            told = self.provider.translate(self.headers(body), body, NOW)
            assert told == self.provider.translate(self.headers(body), body, NOW)
            assert told.changes
            for change in told.changes:
                assert storable(change.object, "it") == change.object
                assert change.at.utcoffset() == timedelta(0)
            for fact in told.facts:
                kind, _ = DOMAIN_EVENTS[fact.type]
                assert fact.object.kind == kind
                assert any(change.object == fact.object for change in told.changes)

    def test_an_event_of_an_unknown_type_means_nothing(self) -> None:
        body = self.unknown()
        assert self.provider.open(self.headers(body), body).type
        told = self.provider.translate(self.headers(body), body, NOW)
        assert (told.changes, told.facts) == ((), ())

    def test_what_cannot_be_understood_is_unprocessable_and_nothing_worse(self) -> None:
        for body in (*NOT_EVENTS, *(_spoiled(one) for one in self.life())):
            with suppress(Unprocessable):
                self.provider.translate(self.headers(body), body, NOW)

    def test_any_order_and_any_repetition_ends_in_the_same_book(self) -> None:
        bodies, dice = self.life(), random.Random(0)
        changes = [change for body in bodies for change in self._changes(body)]
        expected = latest(changes)
        for _ in range(100):
            shuffled = changes + dice.choices(changes, k=5)
            dice.shuffle(shuffled)
            assert latest(shuffled) == expected

    def test_the_book_ends_as_the_last_event_left_it(self) -> None:
        bodies = self.life()
        book = {(change.object.kind, change.object.external_id): change.object for change in self._all(bodies)}
        last: dict[tuple[str, str], BookObject] = {}
        for body in bodies:
            for change in self._changes(body):
                last[(change.object.kind, change.object.external_id)] = change.object
        assert book == last

    def _all(self, bodies: list[bytes]) -> list[Any]:
        return latest([change for body in bodies for change in self._changes(body)])

    def _changes(self, body: bytes) -> Any:
        return self.provider.translate(self.headers(body), body, NOW).changes

    def _refuses(self, headers: Mapping[str, str], body: bytes, secrets: tuple[str, ...] | None = None) -> None:
        known = self.secrets if secrets is None else secrets
        error = raised(SignatureRefused, lambda: self.provider.verify(headers, body, known, NOW))
        assert isinstance(error, Refused)
        assert error.code
        assert not any(secret in str(error) for secret in self.secrets)


def latest(changes: Iterable[Change]) -> list[Change]:
    """Of each object the state that the book ends with, by kind and id, whatever order the changes came in."""
    of: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        of.setdefault((change.object.kind, change.object.external_id), []).append(change)
    return [_last_of(of[key]) for key in sorted(of)]


def _last_of(changes: list[Change]) -> Change:
    newest = max(changes, key=lambda change: change.version)
    if newest.version[1] >= ASKED:
        return newest
    second = [change for change in changes if change.at == newest.at]
    end = last(Seen(digest=one.digest, rank=one.version[1], before=one.before) for one in second)
    told = [change for change in second if change.version[1:] == (end.rank, end.digest)]
    return min(told, key=lambda change: (change.before or "", change.first))  # several events may tell of one state


class ApiConformance(ABC):
    """Fetch and list, against a fake of the provider that holds at least three pages of `listed`."""

    listed: ClassVar[str]
    """The list that is walked."""
    since: ClassVar[datetime]
    until: ClassVar[datetime]

    @abstractmethod
    def api(self) -> ProviderApi:
        """The API of a fake with objects and events made between `since` and `until`, in pages of two or three."""

    @abstractmethod
    def befall(self, kind: str) -> None:
        """Let the fake's next answer be one of `rate_limit`, `server_error`, `forbidden`, `circle`, `repeat`, `skip`,
        `unknown_version`."""

    def test_it_says_what_it_can_list(self) -> None:
        assert self.listed in self.api().lists

    def test_a_list_comes_whole_in_pages_that_end(self) -> None:
        pages = list(self._pages())
        assert len(pages) >= 3
        ids = self._ids(pages)
        assert len(set(ids)) == len(ids)

    def test_what_is_listed_can_be_fetched_and_is_the_same(self) -> None:
        api = self.api()
        for page in self._pages():
            for item in page.items:
                if item.value.kind != "charge":
                    assert api.fetch(item.value.kind, item.value.external_id) == item.value

    def test_what_is_unknown_is_no_matter_of_waiting(self) -> None:
        kind = self.api().lists[self.listed][0]
        assert "nobody" in str(raised(Unprocessable, lambda: self.api().fetch(kind, "nobody")))

    def test_time_bounds_what_is_listed(self) -> None:
        before = self.since - timedelta(days=400)
        assert self._ids(self._pages(since=before, until=before + timedelta(days=1))) == []
        assert list(self._events(since=before, until=before + timedelta(days=1))) == []

    def test_events_are_listed_with_the_bodies_that_are_understood(self) -> None:
        events = list(self._events(self.since, self.until))
        assert events
        assert len({event.external_id for event in events}) == len(events)
        assert all(self.since <= event.happened_at < self.until for event in events)
        for event in events:
            opened = self.opened(event.body)
            assert (opened.external_id, opened.type) == (event.external_id, event.type)

    @abstractmethod
    def opened(self, body: bytes) -> Any:
        """The envelope that the provider reads in a listed event's body."""

    def test_a_cursor_goes_on_where_it_was_left_by_whoever_holds_it(self) -> None:
        first = self._page(None)
        again, once = self._page(first.cursor), self._page(first.cursor)
        assert again == once
        assert not {item.value.external_id for item in first.items} & {item.value.external_id for item in again.items}

    def test_a_rate_limit_says_how_long_to_wait(self) -> None:
        self.befall("rate_limit")
        error = raised(TryAgain, lambda: self._page(None))
        assert isinstance(error, TryAgain)
        assert error.after_seconds is not None

    def test_an_outage_is_tried_again(self) -> None:
        self.befall("server_error")
        raised(TryAgain, lambda: self._page(None))

    def test_a_missing_permission_is_named(self) -> None:
        self.befall("forbidden")
        assert "read" in str(raised(NotPermitted, lambda: self._page(None)))

    def test_pages_in_circles_end_with_a_reason(self) -> None:
        cursor = self._page(None).cursor
        self.befall("circle")
        assert "circles" in str(raised(Unprocessable, lambda: self._page(cursor)))

    def test_a_repeated_object_does_no_harm(self) -> None:
        whole = set(self._ids(self._pages()))
        self.befall("repeat")
        assert set(self._ids(self._pages())) == whole

    def test_a_skipped_object_is_missing_and_nothing_else(self) -> None:
        whole = set(self._ids(self._pages()))
        self.befall("skip")
        assert set(self._ids(self._pages())) < whole

    def test_an_object_of_an_unknown_version_is_named_and_the_rest_is_read(self) -> None:
        whole = self._ids(self._pages())
        self.befall("unknown_version")
        pages = list(self._pages())
        unread = [one for page in pages for one in page.unread]
        assert len(unread) == 1
        assert unread[0].external_id
        assert unread[0].reason
        assert 0 < len(self._ids(pages)) < len(whole)

    def test_a_cursor_of_somebody_else_is_refused(self) -> None:
        raised(Unprocessable, lambda: self._page("elsewhere"))

    def _page(self, cursor: str | None) -> Page[Any]:
        return self.api().list_objects(self.listed, since=self.since, until=self.until, cursor=cursor)

    def _pages(self, since: datetime | None = None, until: datetime | None = None) -> Iterator[Page[Any]]:
        api, cursor, more = self.api(), None, True
        while more:
            page = api.list_objects(self.listed, since=since or self.since, until=until or self.until, cursor=cursor)
            yield page
            cursor, more = page.cursor, page.cursor is not None

    def _ids(self, pages: Any) -> list[str]:
        return [f"{item.value.kind} {item.value.external_id}" for page in pages for item in page.items]

    def _events(self, since: datetime, until: datetime) -> Iterator[Any]:
        api, cursor, more = self.api(), None, True
        while more:
            page = api.list_events(since=since, until=until, cursor=cursor)
            yield from page.items
            cursor, more = page.cursor, page.cursor is not None


def raised(kind: type[Exception], do: Callable[[], object]) -> Exception:
    """The error of this kind that doing it raises."""
    try:
        do()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected, and nothing was raised")


def _spoiled(body: bytes) -> bytes:
    """The same event with every number and text of it turned into what it should not be."""
    return body.replace(b'":"', b'":["x"],"_":"').replace(b'": "', b'": ["x"],"_":"')
