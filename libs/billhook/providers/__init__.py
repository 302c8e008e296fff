"""The inbound providers: one file a provider, and this one list (docs/add-a-provider.md).

Importing it stays cheap, since every process and every command does: no SDK is imported here.
"""

from __future__ import annotations

from billhook.providers.paddle import Paddle
from billhook.providers.provider import Provider
from billhook.providers.standard import Standard
from billhook.providers.stripe import Stripe

_ALL: tuple[Provider, ...] = (
    Stripe(),
    Paddle(),
    Standard(),
)

PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in _ALL}


def seller_of(name: str) -> str | None:
    """What the provider of that name is called, if it sells in its own name: then its invoices are its own, and
    billhook has no documents to make of them."""
    provider = PROVIDERS.get(name)  # a source may be older than the list
    return (provider.title or name) if provider is not None and provider.merchant_of_record else None
