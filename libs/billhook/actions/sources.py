"""Registering sources and contacts: what the desk and the commands do alike.

Endpoints have a file of their own: `endpoints.py`.
"""

from __future__ import annotations

from datetime import datetime

from billhook.errors import Refused, Unprocessable
from billhook.outlets.mail.mime import recipient
from billhook.providers import PROVIDERS
from billhook.providers.provider import Provider
from billhook.rules.signing import new_secret
from billhook.rules.urls import check_url
from billhook.store.database import Tx
from billhook.store.sources import Source, create_source
from billhook.store.vault import Vault


def new_signing_secret() -> str:
    """A secret for a sender that signs by Standard Webhooks."""
    return new_secret("v1")


def register_source(
    tx: Tx,
    vault: Vault,
    now: datetime,
    *,
    merchant_id: str,
    provider: str,
    name: str,
    secret: str | None = None,
    api_key: str | None = None,
    api_base: str | None = None,
    livemode: bool | None = None,
) -> tuple[Source, str | None]:
    """A new source, and its secret if billhook made it. Where nobody says whether it is live or for tests, its key
    does; else it is live. Raises `Refused` for what cannot work."""
    known_provider(provider)
    if api_base is not None:
        check_url("api_base", api_base)
    given = secret_for(provider, secret)
    sealed_key = None if api_key is None else vault.seal(api_key)
    told_by_key = known_provider(provider).livemode_of(api_key) if livemode is None and api_key else livemode
    source = create_source(
        tx,
        merchant_id,
        provider,
        name,
        vault.seal(given),
        now,
        api_key=sealed_key,
        api_base=api_base,
        livemode=told_by_key is not False,
    )
    return source, given if secret is None else None


def secret_for(provider: str, secret: str | None) -> str:
    """The secret to verify a provider's events with: the one given, or a fresh one where billhook may choose it."""
    known = known_provider(provider)
    if secret is not None:
        known.check_secret(secret)
        return secret
    fresh = known.new_secret()
    if fresh is None:
        raise Refused("secret_missing", f"`secret` is needed: {provider} makes it and shows it in its dashboard.")
    return fresh


def known_provider(name: str) -> Provider:
    if name not in PROVIDERS:
        raise Refused("provider_unknown", f"`provider` must be one of: {', '.join(sorted(PROVIDERS))}.")
    return PROVIDERS[name]


def check_contact(address: str | None) -> None:
    """Raise `Refused` unless mail can be sent there, or to nobody."""
    try:
        if address is not None:
            recipient(address)
    except Unprocessable:
        raise Refused(
            "contact_email_invalid", "`contact_email` must be one address, such as ops@example.com."
        ) from None
