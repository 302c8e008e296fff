"""Setting up webhook endpoints: what the desk and the commands do alike."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from billhook.actions.limits import check_room
from billhook.decoding import decode
from billhook.errors import Refused
from billhook.events import EndpointNews
from billhook.rules.addresses import parse_networks, url_refusal
from billhook.rules.delivery import HELD
from billhook.rules.endpoint_health import DISABLED_AFTER
from billhook.rules.endpoint_settings import LONGEST_OVERLAP_SECONDS, OVERLAP_SECONDS, checked, scheme_of
from billhook.rules.signing import Scheme, new_secret, public_key
from billhook.rules.urls import check_url
from billhook.runtime.env import Env
from billhook.store.database import Tx
from billhook.store.deliveries import add_deliveries, cancel_waiting, delivery_for, held_for
from billhook.store.endpoints import (
    MOST_PREVIOUS_SECRETS,
    Endpoint,
    create_endpoint,
    endpoints_of,
    rotate_secret,
    set_disabled,
    update_endpoint,
)
from billhook.store.messages import Message, add_messages
from billhook.store.replays import create_replay

_EVERYWHERE: Final = parse_networks("0.0.0.0/0, ::/0")


def register_endpoint(
    env: Env,
    tx: Tx,
    merchant_id: str,
    *,
    url: str,
    secret: str | None = None,
    signing: Scheme | None = None,
    now: datetime,
    **settings: Any,
) -> tuple[Endpoint, str | None]:
    """A new endpoint, and its secret if that must be told. `settings` are those of `rules.endpoint_settings`; one left
    out is the default, as None is. Raises `Refused` for what cannot work."""
    fields = _to_store(env, {"event_types": None, **settings, "url": url})
    check_room(env, tx, merchant_id, "endpoints", now)
    key, public, revealed = _secret(secret, signing, "v1")
    endpoint = create_endpoint(tx, merchant_id, secret=env.vault.seal(key), public_key=public, now=now, **fields)
    return endpoint, revealed


def change_endpoint(env: Env, tx: Tx, endpoint_id: str, now: datetime, /, **changes: Any) -> None:
    """Set its URL and settings; what is not named stays. Raises `Refused` for what cannot work."""
    if changes:
        chosen = {"wants_since": now} if "event_types" in changes else {}
        update_endpoint(tx, endpoint_id, **_to_store(env, changes), **chosen)


def rotate(
    env: Env,
    tx: Tx,
    endpoint_id: str,
    *,
    overlap_seconds: int = OVERLAP_SECONDS,
    secret: str | None = None,
    signing: Scheme | None = None,
    now: datetime,
) -> str | None:
    """Sign with a new secret, and for as long as they overlap with the one before too; in the same scheme, if nothing
    else is said. Returns the secret if it must be told."""
    if not 0 <= overlap_seconds <= LONGEST_OVERLAP_SECONDS:
        raise Refused("overlap_seconds_invalid", f"`overlap_seconds` must be 0 to {LONGEST_OVERLAP_SECONDS} (a week).")
    # Locked: of two rotations at the same time the second must see the first one's secret, or that is lost.
    endpoint = endpoints_of(tx, [endpoint_id], lock=True)[endpoint_id]
    key, public, revealed = _secret(secret, signing, _signing(endpoint))
    if overlap_seconds and len(endpoint.overlapping(now)) >= MOST_PREVIOUS_SECRETS:
        raise Refused(
            "secrets_too_many",
            f"{MOST_PREVIOUS_SECRETS} older secrets sign beside the present one, and no more may: wait until one of"
            " them ends, or rotate with `overlap_seconds` 0, which ends all of them at once.",
        )
    until = now + timedelta(seconds=overlap_seconds)
    rotate_secret(tx, endpoint, env.vault.seal(key), public, until=until, now=now)
    return revealed


def ping(tx: Tx, endpoint: Endpoint, now: datetime) -> tuple[str, list[str]]:
    """Add a `ping` for this endpoint only, whatever its filter; returns the message's id, and the ids to ring for."""
    since = endpoint.failing_since
    news = EndpointNews(
        id=endpoint.id,
        url=endpoint.url,
        failing_since=since,
        disables_at=None if since is None else since + DISABLED_AFTER,
        disabled_at=endpoint.disabled_at,
    )
    body = msgspec.json.encode({"type": "ping", "timestamp": now, "data": news})
    message = Message.own(endpoint.merchant_id, "ping", "endpoint", endpoint.id, body, now)
    add_messages(tx, [message], now)
    return message.id, add_deliveries(tx, [delivery_for(message, endpoint)], now)


def enable_endpoint(tx: Tx, endpoint_id: str, *, replay_held: bool, by: str, now: datetime) -> str | None:
    """Send to it again. With `replay_held` also what is held for it: returns the id of the job that does it, to ring
    for, where there is anything to do."""
    set_disabled(tx, endpoint_id, None, None)
    if not replay_held or not held_for(tx, endpoint_id):
        return None
    endpoint = endpoints_of(tx, [endpoint_id])[endpoint_id]
    job = create_replay(
        tx,
        endpoint.merchant_id,
        kind="replay",
        endpoint=endpoint,
        states=[HELD],
        since=endpoint.created_at,  # it may have been disabled before, and what was held then is still there
        by=by,
        now=now,
    )
    return job.id


def delete_endpoint(tx: Tx, endpoint_id: str, now: datetime) -> None:
    """Send nothing to it any more; `cancel_all` ends what waits for it. The row stays because deliveries refer to it,
    without headers and former secrets, which nothing needs any more."""
    update_endpoint(tx, endpoint_id, deleted_at=now, headers=None, previous_secrets=None)


def cancel_all(env: Env, endpoint_id: str, now: datetime) -> None:
    """Cancel all that is due or held for an endpoint that was deleted: in transactions of its own, for there may be
    more than fits into one."""
    more = True
    while more:
        with env.database.begin() as tx:
            more = cancel_waiting(tx, endpoint_id, now)


def endpoint_shown(env: Env, endpoint: Endpoint, now: datetime) -> dict[str, Any]:
    """What may be seen of an endpoint: no secret, and of the headers their names."""
    ends = [until for _, until in endpoint.overlapping(now)]
    return {
        "id": endpoint.id,
        "merchant_id": endpoint.merchant_id,
        "url": endpoint.url,
        "description": endpoint.description,
        "event_types": endpoint.event_types,
        "state": "enabled" if endpoint.disabled_at is None else "disabled",
        "disabled_at": endpoint.disabled_at,
        "disabled_reason": endpoint.disabled_reason,
        "failing_since": endpoint.failing_since,
        "header_names": list(_headers(env, endpoint)),
        "schedule": endpoint.schedule,
        "timeout_seconds": endpoint.timeout_seconds,
        "max_in_flight": endpoint.max_in_flight,
        "rate_limit": endpoint.rate_limit,
        "ordering": endpoint.ordering,
        "signing": _signing(endpoint),
        "public_key": endpoint.public_key,
        "previous_secrets": len(ends),
        "previous_secrets_until": _instant(max(ends)) if ends else None,
        "created_at": endpoint.created_at,
    }


def _headers(env: Env, endpoint: Endpoint) -> dict[str, str]:
    if endpoint.headers is None:
        return {}
    return decode(env.vault.open(endpoint.headers), dict[str, str])


def _instant(micros: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)


def _to_store(env: Env, given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Endpoint`, checked."""
    fields = checked({name: value for name, value in given.items() if name != "url"})
    if "url" in given:
        fields["url"] = _checked_url(env, given["url"])
    if "headers" in fields:
        headers = fields["headers"]
        fields["headers"] = env.vault.seal(msgspec.json.encode(headers).decode()) if headers else None
    return fields


def _checked_url(env: Env, url: str) -> str:
    check_url("url", url)
    reach = env.reach
    why = url_refusal(url, allowed=reach.allowed, allow_http=reach.allow_http)
    if why is None:
        return url
    if url_refusal(url, allowed=_EVERYWHERE, allow_http=True) is None:
        plain = urlsplit(url).scheme == "http" and not reach.allow_http
        why += f"; the operator may allow it by BILLHOOK_{'ALLOW_HTTP' if plain else 'ALLOWED_NETWORKS'}"
    raise Refused("url_refused", f"`url` is refused: {why}.")


def _secret(given: str | None, signing: Scheme | None, otherwise: Scheme) -> tuple[str, str | None, str | None]:
    """What to sign with, the public key if it has one, and what is to be told of it: only a shared secret that billhook
    made. A private key is never told, because receivers verify with the public one."""
    if given is None:
        scheme = signing or otherwise
        secret = new_secret(scheme)
    else:
        scheme, secret = scheme_of(given), given
        if signing not in (None, scheme):
            raise Refused("secret_invalid", f"`secret` signs by {scheme}, and `signing` asks for {signing}.")
    if scheme == "v1a":
        return secret, public_key(secret), None
    return secret, None, secret if given is None else None


def _signing(endpoint: Endpoint) -> Scheme:
    return "v1" if endpoint.public_key is None else "v1a"
