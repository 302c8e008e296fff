"""The APIs of the providers of sources, each opened once and kept."""

from __future__ import annotations

from functools import lru_cache

from billhook.providers import PROVIDERS
from billhook.providers.provider import ProviderApi
from billhook.store.sources import Source
from billhook.store.vault import Vault


def can_be_asked(source: Source) -> bool:
    provider = PROVIDERS.get(source.provider)  # a source may be older than the list
    return source.api_key is not None and provider is not None and provider.api is not None


def api_of(source: Source, vault: Vault) -> ProviderApi:
    """The API under the source's own key, where the source `can_be_asked`."""
    assert source.api_key is not None
    return _opened(source.provider, vault.open(source.api_key), source.api_base)


@lru_cache(maxsize=64)
def _opened(provider: str, api_key: str, base_url: str | None) -> ProviderApi:
    api = PROVIDERS[provider].api
    assert api is not None, "asked only where it can be"
    return api(api_key, base_url=base_url)
