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
