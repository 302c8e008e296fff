"""The sources as the ingress knows them: in memory with their secrets open, read anew every other second.

What is in memory is trusted as long as it is fresh. After that the list is read before anybody is answered, so that a
revoked secret is not honoured once more by the first event after a quiet night; only while the database is away does
the old list serve. An unknown source (404) is told apart from one that cannot be looked up now (503), because a sender
that gets a 404 gives the event up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from billhook.errors import SettingsError
from billhook.providers import PROVIDERS
from billhook.rules.source_labels import source_labels
from billhook.runtime.clock import Clock
from billhook.store import fitness
from billhook.store.database import ANSWER_SECONDS, Database, is_store_away
from billhook.store.sources import list_sources
from billhook.store.vault import Vault

log = logging.getLogger(__name__)

FRESH_SECONDS = 2.0
"""A rotated secret or a disabled source counts after this long at the latest. Where there is traffic the list is read
again after half of it, beside the requests, and none of them waits."""

UNKNOWN_SECONDS = 0.25
"""Requests for unknown sources make the list be read again, at most this often: a source just made works at once, and a
flood of wrong addresses costs four reads a second."""

PATIENCE_SECONDS = 0.5
"""How long a request for a known source waits for the list, before the old one serves: the commit that it is for may
wait for the database once more. One for an unknown source waits as long as the database may take, and goes no
further."""


class SourcesAway(Exception):
    """It cannot be found out now whether there is such a source."""


@dataclass(frozen=True, slots=True)
class OpenSource:
    id: str
    merchant_id: str
    provider: str
    secrets: tuple[str, ...]
    livemode: bool
    label: str
    """What metrics call it."""


class SourceDirectory:
    """Finds sources by id."""

    def __init__(self, database: Database, vault: Vault, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.clock_skew = 0.0
        """By how many seconds the database's clock was ahead of ours when the list was read."""
        self._vault = vault
        self._sources: dict[str, OpenSource] = {}
        self._sealed: frozenset[str] = frozenset()
        """Sources whose secret none of our keys opens."""
        self._asked_at = float("-inf")
        self._read_at = float("-inf")
        """When the reading began that the list is of."""
        self._away = True
        """Whether the list could not be read when it was last asked for."""
        self._reading: asyncio.Task[None] | None = None

    def known(self, source_id: str) -> OpenSource | None:
        """The source, where the list is fresh and has it: nobody waits for that."""
        if time.monotonic() - self._read_at > FRESH_SECONDS / 2:
            return None
        return self._sources.get(source_id)

    async def find(self, source_id: str) -> OpenSource | None:
        """The source, or None where there is none. Raises `SourcesAway` where that cannot be told."""
        now = time.monotonic()
        age = now - self._read_at
        if source_id not in self._sources:
            await self._read_again(ANSWER_SECONDS, after=max(0.0, self._asked_at + UNKNOWN_SECONDS - now))
            if source_id not in self._sources and (self._away or source_id in self._sealed):
                raise SourcesAway
        elif age > FRESH_SECONDS and not self._away:
            await self._read_again(PATIENCE_SECONDS)
        elif age > FRESH_SECONDS / 2:
            self._begin_reading()
        return self._sources.get(source_id)

    async def _read_again(self, patience: float, after: float = 0.0) -> None:
        done, _ = await asyncio.wait([self._begin_reading(after)], timeout=patience)
        if not done:
            self._away = True  # treated as away, so that the next request does not wait for it again

    def _begin_reading(self, after: float = 0.0) -> asyncio.Task[None]:
        """All that wait share one reading."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(after))
        return self._reading

    async def _read(self, after: float) -> None:
        await asyncio.sleep(after)
        self._asked_at = time.monotonic()
        try:
            self._sources, self._sealed = await asyncio.to_thread(self._fetch)
            self._read_at, self._away = self._asked_at, False
        except Exception as error:
            self._away = True
            if not is_store_away(error):
                log.error("sources not read: going on with the ones known", extra={"reason": str(error)[:500]})
        finally:
            self._reading = None

    def _fetch(self) -> tuple[dict[str, OpenSource], frozenset[str]]:
        with self._database.read() as tx:
            found = list_sources(tx)
            self.clock_skew = fitness.skew_in(tx, self._clock)
        labels = source_labels((source.id, source.name) for source in found)
        opened: dict[str, OpenSource] = {}
        sealed = set()
        for source in found:
            if source.disabled_at is not None or source.provider not in PROVIDERS:
                continue
            try:
                secrets = tuple(self._vault.open(secret) for secret in source.sealed_secrets)
            except SettingsError as error:
                log.error("source left out", extra={"source": source.id, "reason": str(error)})
                sealed.add(source.id)
                continue
            opened[source.id] = OpenSource(
                source.id, source.merchant_id, source.provider, secrets, source.livemode, labels.of(source.id)
            )
        return opened, frozenset(sealed)
