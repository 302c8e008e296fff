"""The sources as the door knows them: in memory with their secrets open, read anew every few seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from billhook.errors import SettingsError
from billhook.providers import PROVIDERS
from billhook.store.database import Database
from billhook.store.sources import list_sources
from billhook.store.vault import Vault

log = logging.getLogger(__name__)

FRESH_SECONDS = 2.0
"""A rotated secret or a disabled source counts at the door after this long."""

UNKNOWN_SECONDS = 0.25
"""Requests for unknown sources make the list be read again, at most this often: a source just made works at once, and a
flood of wrong addresses costs four reads a second."""


@dataclass(frozen=True, slots=True)
class OpenSource:
    id: str
    merchant_id: str
    provider: str
    secrets: tuple[str, ...]


class SourceDirectory:
    """Finds sources by id."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault
        self._sources: dict[str, OpenSource] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def find(self, source_id: str) -> OpenSource | None:
        source = self._sources.get(source_id)
        age = time.monotonic() - self._read_at
        if self._reading is None and age > (FRESH_SECONDS if source else UNKNOWN_SECONDS):
            self._reading = asyncio.create_task(self._read_beside())
        if source is None and self._reading is not None:
            await asyncio.shield(self._reading)
            return self._sources.get(source_id)
        return source  # a known source does not wait for the list to be read

    async def _read_beside(self) -> None:
        await asyncio.to_thread(self._read)
        self._reading = None

    def _read(self) -> None:
        self._read_at = time.monotonic()  # also when it fails: a database that is away is not asked by every request
        try:
            with self._database.read() as tx:
                found = list_sources(tx)
        except Exception as error:
            log.error("sources not read: going on with the ones known", extra={"reason": str(error)})
            return
        sources: dict[str, OpenSource] = {}
        for source in found:
            if source.disabled_at is not None or source.provider not in PROVIDERS:
                continue
            try:
                secrets = tuple(self._vault.open(sealed) for sealed in source.sealed_secrets)
            except SettingsError as error:
                log.error("source left out", extra={"source": source.id, "reason": str(error)})
                continue
            sources[source.id] = OpenSource(source.id, source.merchant_id, source.provider, secrets)
        self._sources = sources
