"""The APIs of the providers of sources, each opened once and kept. Every call that goes out under a source's key has
its turn at the account first: nobody opens an API but here."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Final

from billhook.providers import PROVIDERS
from billhook.providers.payments import PaymentsApi
from billhook.providers.provider import Gate, ProviderApi
from billhook.providers.stripe_collecting import StripeCollecting
from billhook.rules.payment_attempts import COLLECTED
from billhook.runtime.provider_turns import Turns
from billhook.store.sources import Source
from billhook.store.vault import Vault

LONGEST_WAIT: Final = timedelta(seconds=5)
"""For a turn, of whoever does nothing else meanwhile."""

_MOST_OPEN: Final = 64


def can_be_asked(source: Source) -> bool:
    provider = PROVIDERS.get(source.provider)  # a source may be older than the list
    return source.api_key is not None and provider is not None and provider.api is not None


def is_collected(source: Source) -> bool:
    """Whether billhook knows how to collect money through the source's provider."""
    return source.provider in COLLECTED


def can_collect(source: Source) -> bool:
    return is_collected(source) and source.api_key is not None and source.disabled_at is None


class ProviderApis:
    def __init__(self, vault: Vault, turns: Turns) -> None:
        self._vault = vault
        self._turns = turns
        self._asked = lru_cache(maxsize=_MOST_OPEN)(_open)
        self._collecting = lru_cache(maxsize=_MOST_OPEN)(StripeCollecting)

    def of(self, source: Source, *, longest_wait: timedelta = LONGEST_WAIT) -> ProviderApi:
        """The API under the source's own key, where the source `can_be_asked`."""
        key, gate = self._key(source), _SourceGate(self._turns, source.id, longest_wait)
        return self._asked(source.provider, key, base_url=source.api_base, gate=gate)

    def collecting(self, source: Source, *, longest_wait: timedelta = LONGEST_WAIT) -> PaymentsApi:
        """The API that money is collected through, where the source `can_collect`."""
        gate = _SourceGate(self._turns, source.id, longest_wait)
        return self._collecting(self._key(source), base_url=source.api_base, gate=gate)

    def first(self) -> AbstractContextManager[None]:
        """See `Turns.first`."""
        return self._turns.first()

    def livemode_of(self, source: Source) -> bool | None:
        """Whether the source's key is for real money, where that can be seen."""
        return PROVIDERS[source.provider].livemode_of(self._key(source))

    def _key(self, source: Source) -> str:
        assert source.api_key is not None
        return self._vault.open(source.api_key)


@dataclass(frozen=True)
class _SourceGate:
    """The gate of one source's calls."""

    turns: Turns
    source_id: str
    longest_wait: timedelta

    def enter(self, account: str) -> None:
        self.turns.take(self.source_id, account, self.longest_wait)

    def limited(self, account: str, seconds: float | None) -> None:
        self.turns.pause(self.source_id, account, seconds)


def _open(provider: str, api_key: str, *, base_url: str | None, gate: Gate) -> ProviderApi:
    api = PROVIDERS[provider].api
    assert api is not None, "asked only where it can be"
    return api(api_key, base_url=base_url, gate=gate)
