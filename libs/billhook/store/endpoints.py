"""Endpoints: where a merchant wants its messages, how, and whether they arrive."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from billhook.rules.delivery import wants
from billhook.rules.endpoint_health import EndpointHealth
from billhook.store import statements
from billhook.store.bulk import among, update_many
from billhook.store.database import Tx
from billhook.store.merchants import merchants
from billhook.store.schema import Instant, merchant_column, metadata, new_id, partial_index, to_micros
from billhook.store.statements import Statement

_FAILING = sa.text("failing_since IS NOT NULL")
_DISABLED = sa.text("disabled_at IS NOT NULL")

endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("event_types", sa.JSON, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False),  # sealed
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("disabled_at", Instant),
    sa.Column("disabled_reason", sa.Text),
    sa.Column("deleted_at", Instant),
    sa.Column("public_key", sa.Text),  # what a receiver verifies with, where the secret is an Ed25519 key
    sa.Column("previous_secrets", sa.JSON),  # [[sealed, until], …]: each signs too until its time (µs since 1970)
    sa.Column("headers", sa.LargeBinary),  # sealed JSON: they may hold a token
    sa.Column("schedule", sa.JSON),  # waits in seconds; none: the default
    sa.Column("timeout_seconds", sa.Float),
    sa.Column("max_in_flight", sa.Integer),
    sa.Column("rate_limit", sa.Float),  # deliveries a second
    sa.Column("tokens_spent", Instant),  # the bucket of `rate_limit`: see `billhook.rules.bucket`
    sa.Column("ordering", sa.Text, nullable=False, server_default="none"),  # none, customer, subscription
    sa.Column("failing_since", Instant),
    sa.Column("last_failure_at", Instant),
    sa.Column("notices", sa.Integer, nullable=False, server_default="0"),
    sa.Column("wants_since", Instant),  # when its events were last chosen; none: when it was made
    sa.Index("ix_endpoints_merchant_id", "merchant_id", "id"),
    # Few of many: relays count them.
    partial_index("ix_endpoints_failing", "failing_since", where=_FAILING),
    partial_index("ix_endpoints_disabled", "disabled_at", where=_DISABLED),
)

MOST_PREVIOUS_SECRETS = 10
"""Each costs a signature in every attempt while it lasts."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    id: str
    merchant_id: str
    url: str
    description: str = ""
    event_types: list[str]
    """Names or patterns such as `invoice.*`; see `billhook.rules.delivery.wants`."""
    secret: bytes
    created_at: datetime
    disabled_at: datetime | None = None
    disabled_reason: str | None = None
    deleted_at: datetime | None = None
    public_key: str | None = None
    previous_secrets: list[tuple[str, int]] | None = None
    headers: bytes | None = None
    schedule: list[float] | None = None
    timeout_seconds: float | None = None
    max_in_flight: int | None = None
    rate_limit: float | None = None
    tokens_spent: datetime | None = None
    ordering: str = "none"
    failing_since: datetime | None = None
    last_failure_at: datetime | None = None
    notices: int = 0
    wants_since: datetime | None = None

    @property
    def health(self) -> EndpointHealth:
        return EndpointHealth(self.failing_since, self.last_failure_at, self.notices)

    def overlapping(self, now: datetime) -> list[tuple[str, int]]:
        """The older secrets that still sign."""
        return [entry for entry in self.previous_secrets or () if entry[1] > to_micros(now)]

    def secrets(self, now: datetime) -> list[bytes]:
        """What messages are signed with at `now`: the current secret first, then those on their way out."""
        if not self.previous_secrets:
            return [self.secret]
        return [self.secret, *(sealed.encode() for sealed, _ in self.overlapping(now))]


def create_endpoint(
    tx: Tx, merchant_id: str, url: str, event_types: list[str], secret: bytes, now: datetime, **options: Any
) -> Endpoint:
    """`options` are fields of `Endpoint`."""
    endpoint = Endpoint(
        id=new_id("ep"),
        merchant_id=merchant_id,
        url=url,
        event_types=event_types,
        secret=secret,
        created_at=now,
        **options,
    )
    tx.execute(endpoints.insert().values(**vars(endpoint)))
    _changed(tx, merchant_id)
    return endpoint


def get_endpoint(tx: Tx, endpoint_id: str, *, merchant_id: str | None = None) -> Endpoint | None:
    """An endpoint that was not deleted."""
    query = sa.select(endpoints).where(endpoints.c.id == endpoint_id, endpoints.c.deleted_at.is_(None))
    if merchant_id is not None:
        query = query.where(endpoints.c.merchant_id == merchant_id)
    row = tx.execute(query).mappings().first()
    return Endpoint(**row) if row else None


def list_endpoints(
    tx: Tx, merchant_id: str | None = None, *, after: str = "", limit: int | None = None
) -> list[Endpoint]:
    query = sa.select(endpoints).where(endpoints.c.id > after, endpoints.c.deleted_at.is_(None))
    if merchant_id is not None:
        query = query.where(endpoints.c.merchant_id == merchant_id)
    return [Endpoint(**row) for row in tx.execute(query.order_by(endpoints.c.id).limit(limit)).mappings()]


def endpoints_of_merchants(tx: Tx, merchant_ids: Collection[str]) -> list[Endpoint]:
    """The endpoints of these merchants, the disabled ones too: what comes meanwhile is held for them."""
    query = sa.select(endpoints).where(endpoints.c.merchant_id.in_(merchant_ids), endpoints.c.deleted_at.is_(None))
    return [Endpoint(**row) for row in tx.execute(query.order_by(endpoints.c.id)).mappings()]


@dataclass(frozen=True, slots=True)
class Subscriber:
    """What of an endpoint says which messages it gets, and how."""

    id: str
    event_types: list[str]
    ordering: str
    disabled_at: datetime | None

    def hears(self, event_type: str) -> bool:
        return wants(self.event_types, event_type)


def subscribed_endpoints(tx: Tx, merchant_ids: Collection[str]) -> dict[str, tuple[int, list[Subscriber]]]:
    """The endpoints of each of these merchants, disabled ones too, with a version that changes whenever any of them
    does. Unknown merchants are left out."""
    m = merchants.c
    versions = sa.select(m.id, m.endpoints_version).where(among(tx, m.id, merchant_ids))
    found: dict[str, tuple[int, list[Subscriber]]] = {row[0]: (row[1], []) for row in tx.execute(versions)}
    for merchant_id, theirs in subscribers(tx, merchant_ids).items():
        found[merchant_id][1].extend(theirs)
    return found


def subscribers(tx: Tx, merchant_ids: Collection[str]) -> dict[str, list[Subscriber]]:
    """The endpoints of each of these merchants that has any, the disabled ones too: what comes meanwhile is held for
    them."""
    found: dict[str, list[Subscriber]] = {}
    for row in _SUBSCRIBED.rows(tx, merchants=[*merchant_ids]):
        found.setdefault(row[0], []).append(Subscriber(*row[1:]))
    return found


def _subscribed(sqlite: bool) -> sa.Select[*tuple[Any, ...]]:
    e = endpoints.c
    query = sa.select(e.merchant_id, e.id, e.event_types, e.ordering, e.disabled_at)
    return query.where(statements.among(e.merchant_id, "merchants", sqlite), e.deleted_at.is_(None)).order_by(e.id)


_SUBSCRIBED: Final = Statement(_subscribed)


def _changed(tx: Tx, merchant_id: str | sa.ScalarSelect[str]) -> None:
    """Make endpoints that a process remembers for this merchant out of date."""
    version = merchants.c.endpoints_version + 1
    tx.execute(sa.update(merchants).where(merchants.c.id == merchant_id).values(endpoints_version=version))


def _owner(endpoint_id: str) -> sa.ScalarSelect[str]:
    return sa.select(endpoints.c.merchant_id).where(endpoints.c.id == endpoint_id).scalar_subquery()


def endpoints_of(tx: Tx, ids: Collection[str], *, lock: bool = False) -> dict[str, Endpoint]:
    """Endpoints by id, deleted ones too. With `lock` nobody else changes them until the transaction ends."""
    query = sa.select(endpoints).where(among(tx, endpoints.c.id, ids)).order_by(endpoints.c.id)
    # Inserting a delivery takes a key-share lock on its endpoint, which must not wait for a transaction that only
    # counts tokens.
    rows = tx.execute(query.with_for_update(key_share=True) if lock else query).mappings()
    return {row["id"]: _read(row) for row in rows}


def _read(row: sa.RowMapping) -> Endpoint:
    """As `Endpoint(**row)`, which sets field by field because it is frozen: that was a twentieth of the courier's time
    where a claim meets a hundred endpoints."""
    endpoint = object.__new__(Endpoint)
    vars(endpoint).update(row)
    return endpoint


def update_endpoint(tx: Tx, endpoint_id: str, **changes: Any) -> None:
    """Set fields of `Endpoint`."""
    tx.execute(sa.update(endpoints).where(endpoints.c.id == endpoint_id).values(**changes))
    _changed(tx, _owner(endpoint_id))


def set_disabled(tx: Tx, endpoint_id: str, at: datetime | None, reason: str | None) -> None:
    """Stop sending to an endpoint, with the reason; one that is disabled already keeps its first. None enables it
    again, with a clean record; one that is enabled already keeps its record, or whoever enables it every day would
    never hear that it fails."""
    changes: dict[str, Any] = {"disabled_at": at, "disabled_reason": reason}
    if at is None:
        changes |= {"failing_since": None, "last_failure_at": None, "notices": 0}
    other = endpoints.c.disabled_at.is_not(None) if at is None else endpoints.c.disabled_at.is_(None)
    tx.execute(sa.update(endpoints).where(endpoints.c.id == endpoint_id, other).values(**changes))
    _changed(tx, _owner(endpoint_id))


def rotate_secret(
    tx: Tx, endpoint: Endpoint, secret: bytes, public_key: str | None, *, until: datetime, now: datetime
) -> None:
    """Sign with `secret` from now on, and until `until` with the one before it too; without an overlap no older one
    signs any more, since that is how a leaked secret is withdrawn."""
    kept = endpoint.overlapping(now)
    previous = [(endpoint.secret.decode(), to_micros(until)), *kept] if until > now else None
    update_endpoint(tx, endpoint.id, secret=secret, public_key=public_key, previous_secrets=previous)


def save_health(tx: Tx, health: Mapping[str, EndpointHealth]) -> None:
    """Of endpoints that are locked, by their ids."""
    rows = [
        {
            "id": endpoint_id,
            "failing_since": one.failing_since,
            "last_failure_at": one.last_failure_at,
            "notices": one.notices,
        }
        for endpoint_id, one in health.items()
    ]
    update_many(tx, endpoints, rows)


def save_tokens(tx: Tx, spent: Sequence[tuple[str, datetime]]) -> None:
    """Write the buckets of endpoints that are locked."""
    update_many(tx, endpoints, [{"id": endpoint_id, "tokens_spent": at} for endpoint_id, at in spent])
