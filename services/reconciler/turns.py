"""Calls to a provider, each in its turn: the account's bucket is shared with the dunner and all other processes, and a
pause that the provider asks for (429) is kept by all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final, TypeVar

from billhook.errors import TryAgain
from billhook.providers.listing import ListedEvent, ListedObject, Page
from billhook.providers.provider import ProviderApi
from billhook.rules.book import BookObject
from billhook.runtime.clock import Clock
from billhook.store.database import Database
from billhook.store.provider_limits import GIVEN_AHEAD, pause_calls, paused_until, reserve_calls
from billhook.store.sources import Source

T = TypeVar("T")

LONGEST_WAIT: Final = timedelta(seconds=5)
"""Whose turn comes later comes again then."""


class Turns:
    def __init__(
        self, database: Database, clock: Clock, calls_per_second: float, sleep: Callable[[float], object]
    ) -> None:
        self._database = database
        self._clock = clock
        self._rate = calls_per_second
        self._sleep = sleep

    def of(self, source: Source, api: ProviderApi) -> InTurn:
        """The API, called in turn."""
        return InTurn(api, self, source.id)

    def take(self, source_id: str, account: str, call: Callable[[], T]) -> T:
        """Raises `TryAgain` while the account is not to be called."""
        now = self._clock()
        with self._database.begin() as tx:
            until = paused_until(tx, source_id, account, now)
            turns = [until] if until is not None else reserve_calls(tx, source_id, account, 1, self._rate, now)
        turn = turns[0] if turns else now + GIVEN_AHEAD
        wait = turn - now
        if wait > LONGEST_WAIT:
            raise TryAgain("the provider's account takes no calls now", after_seconds=wait.total_seconds())
        if wait > timedelta(0):
            self._sleep(wait.total_seconds())
        try:
            return call()
        except TryAgain as error:
            if error.after_seconds is not None:
                with self._database.begin() as tx:
                    pause_calls(tx, source_id, account, self._clock() + timedelta(seconds=error.after_seconds))
            raise


class InTurn:
    """A provider's API whose calls wait for their turn."""

    def __init__(self, api: ProviderApi, turns: Turns, source_id: str) -> None:
        self._api = api
        self._turns = turns
        self._source_id = source_id

    @property
    def lists(self) -> Mapping[str, tuple[str, ...]]:
        return self._api.lists

    def fetch(self, kind: str, external_id: str, *, account: str = "") -> BookObject:
        return self._turns.take(self._source_id, account, lambda: self._api.fetch(kind, external_id, account=account))

    def list_events(
        self, *, since: datetime, until: datetime, cursor: str | None = None, account: str = ""
    ) -> Page[ListedEvent]:
        return self._turns.take(
            self._source_id,
            account,
            lambda: self._api.list_events(since=since, until=until, cursor=cursor, account=account),
        )

    def list_objects(
        self, name: str, *, since: datetime, until: datetime, cursor: str | None = None, account: str = ""
    ) -> Page[ListedObject]:
        return self._turns.take(
            self._source_id,
            account,
            lambda: self._api.list_objects(name, since=since, until=until, cursor=cursor, account=account),
        )
