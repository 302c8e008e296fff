"""The providers' APIs that money is collected through, one a source."""

from __future__ import annotations

from functools import lru_cache

from billhook.providers.payments import PaymentsApi
from billhook.providers.stripe_collecting import StripeCollecting
from billhook.store.sources import Source
from billhook.store.vault import Vault


class PaymentApis:
    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    @staticmethod
    def possible(source: Source) -> bool:
        return source.provider == "stripe" and source.api_key is not None and source.disabled_at is None

    def of(self, source: Source) -> PaymentsApi:
        assert source.api_key is not None
        return _api(self._vault.open(source.api_key), source.api_base)


@lru_cache(maxsize=64)
def _api(api_key: str, base_url: str | None) -> PaymentsApi:
    return StripeCollecting(api_key, base_url=base_url)
