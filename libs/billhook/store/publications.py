"""Publications: merchants' own events, each published once for its idempotency key.

The key, the message and its deliveries are written in one statement on PostgreSQL, in one transaction on SQLite. The
same statement checks that the caller's API key is still good and that the merchant's endpoints are those that the
deliveries were made for (`merchants.endpoints_version`); where either is not so, nothing is written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from billhook.rules.delivery import HELD
from billhook.store.bulk import among, insert_many
from billhook.store.database import Database, Run, Tx
from billhook.store.deliveries import NewDelivery, deliveries, delivery_rows
from billhook.store.merchants import api_keys, merchants
from billhook.store.messages import Message, add_messages
from billhook.store.schema import Instant, metadata
from billhook.store.statements import as_json

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    # A merchant uses a key once: of two requests that race, the primary key lets one in.
    sa.Column("merchant_id", sa.Text, primary_key=True),
    sa.Column("idempotency_key", sa.Text, primary_key=True),
    sa.Column("sha256", sa.LargeBinary, nullable=False),  # of the request: the same key with another one is refused
    sa.Column("message_id", sa.Text, sa.ForeignKey("messages.id"), nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Index("ix_idempotency_keys_created_at", "created_at"),
    sa.Index("ix_idempotency_keys_message_id", "message_id"),  # asked for when a message is deleted
)

Identity = tuple[str, str]
"""A merchant and an idempotency key of theirs."""


class Prepared(msgspec.Struct, frozen=True, gc=False):
    """A message to be published, with its idempotency key and the key of its caller."""

    message: Message
    idempotency_key: str
    sha256: bytes
    """Of the request."""
    api_key_id: str | None
    """The caller's key, which must not be revoked; None where the caller needs none."""

    @property
    def identity(self) -> Identity:
        return self.message.merchant_id, self.idempotency_key


@dataclass(frozen=True, slots=True)
class Written:
    message_ids: set[str]
    """Of those that were published now."""
    due: list[str]
    """Their deliveries, to ring for."""


def publish(
    database: Database,
    new: Sequence[Prepared],
    addressed: Sequence[NewDelivery],
    versions: Mapping[str, int],
    now: datetime,
) -> Written:
    """Publish those whose key is good, whose merchant's endpoints are of the version that `addressed` was made for, and
    whose idempotency key was not used before."""
    rows = delivery_rows(addressed, now)
    if database.sqlite:
        with database.begin() as tx:
            published = _in_one_transaction(tx, new, rows, versions, now)
    else:
        with database.statement() as run:
            published = _in_one_statement(run, new, rows, versions, now)
    return Written(published, [row["id"] for row in rows if row["message_id"] in published and row["state"] != HELD])


# One JSON for all rows and columns but the bodies: the driver takes longer over an array a column than PostgreSQL over
# the statement, and where it sees how long they all are, PostgreSQL plans anew at each execution. Sorted by key, as
# every writer does: two batches with the same keys in different orders could deadlock.
_PUBLISH: Final = """
WITH asked AS (
  SELECT * FROM ROWS FROM (
    json_to_recordset(%s::json) AS (
      id text, merchant_id text, type text, key text, occurred_at timestamptz, customer text, subscription text,
      traceparent text, sha256 text, api_key_id text, version bigint),
    unnest(%b::bytea[])
  ) AS one(id, merchant_id, type, key, occurred_at, customer, subscription, traceparent, sha256, api_key_id, version,
           body)
), good AS (
  SELECT asked.* FROM asked JOIN merchants ON merchants.id = merchant_id AND merchants.endpoints_version = version
   WHERE api_key_id IS NULL
      OR EXISTS (SELECT FROM api_keys WHERE api_keys.id = asked.api_key_id AND revoked_at IS NULL)
), used AS (
  INSERT INTO idempotency_keys (merchant_id, idempotency_key, sha256, message_id, created_at)
  SELECT merchant_id, key, decode(sha256, 'base64'), id, %s FROM good ORDER BY merchant_id, key
  ON CONFLICT DO NOTHING RETURNING message_id
), published AS (
  INSERT INTO messages (id, merchant_id, type, object_kind, object_id, body, inbox_id, number, occurred_at, created_at,
                        customer, subscription, traceparent)
  SELECT id, merchant_id, type, 'publication', key, body, id, 0, occurred_at, %s, customer, subscription, traceparent
    FROM good JOIN used ON message_id = id
), addressed AS (
  INSERT INTO deliveries (id, merchant_id, message_id, endpoint_id, subject, lane, state, created_at, due_at,
                          finished_at)
  SELECT id, merchant_id, message_id, endpoint_id, subject, lane, state, %s, %s, finished_at
    FROM json_to_recordset(%s::json) AS one(
      id text, merchant_id text, message_id text, endpoint_id text, subject text, lane text, state text,
      finished_at timestamptz)
    JOIN used USING (message_id)
)
SELECT message_id FROM used
"""


def _in_one_statement(
    run: Run,
    new: Sequence[Prepared],
    rows: Sequence[Mapping[str, Any]],
    versions: Mapping[str, int],
    now: datetime,
) -> set[str]:
    asked = [
        {
            "id": one.message.id,
            "merchant_id": one.message.merchant_id,
            "type": one.message.type,
            "key": one.idempotency_key,
            "occurred_at": one.message.occurred_at,
            "customer": one.message.customer,
            "subscription": one.message.subscription,
            "traceparent": one.message.traceparent,
            "sha256": one.sha256,
            "api_key_id": one.api_key_id,
            "version": versions[one.message.merchant_id],
        }
        for one in new
    ]
    bodies = [one.message.body for one in new]
    given = (as_json(asked), bodies, now, now, now, now, as_json(rows))
    return {row[0] for row in run(_PUBLISH, given).fetchall()}


def _in_one_transaction(
    tx: Tx,
    new: Sequence[Prepared],
    rows: Sequence[Mapping[str, Any]],
    versions: Mapping[str, int],
    now: datetime,
) -> set[str]:
    """SQLite has one writer, so what is read here cannot change before the transaction ends."""
    m, k = merchants.c, api_keys.c
    current = {row[0]: row[1] for row in tx.execute(sa.select(m.id, m.endpoints_version).where(m.id.in_(versions)))}
    keys = {one.api_key_id for one in new if one.api_key_id is not None}
    good = {None, *tx.execute(sa.select(k.id).where(k.id.in_(keys), k.revoked_at.is_(None))).scalars()}
    used: set[Identity] = set(find_used_keys(tx, {one.identity for one in new}))
    published: list[Prepared] = []
    for one in new:
        merchant_id = one.message.merchant_id
        stands = one.api_key_id in good and current.get(merchant_id) == versions[merchant_id]
        if stands and one.identity not in used:
            used.add(one.identity)
            published.append(one)
    ids = {one.message.id for one in published}
    add_messages(tx, [one.message for one in published], now)
    insert_many(tx, deliveries, [row for row in rows if row["message_id"] in ids])
    add_used_keys(tx, [UsedKey(*one.identity, one.sha256, one.message.id) for one in published], now)
    return ids


@dataclass(frozen=True, slots=True)
class UsedKey:
    """An idempotency key, and what it published."""

    merchant_id: str
    idempotency_key: str
    sha256: bytes
    message_id: str


def add_used_keys(tx: Tx, new: Sequence[UsedKey], now: datetime) -> None:
    """Store what keys published. Raises `IntegrityError` where another request was first."""
    fields = UsedKey.__slots__
    insert_many(
        tx, idempotency_keys, [{"created_at": now, **{name: getattr(one, name) for name in fields}} for one in new]
    )


def find_used_keys(tx: Tx, keys: Collection[Identity]) -> dict[Identity, sa.RowMapping]:
    """What these keys, each with its merchant's id, have published."""
    c = idempotency_keys.c
    asked = among(tx, c.merchant_id, {merchant_id for merchant_id, _ in keys})
    query = sa.select(idempotency_keys).where(asked, among(tx, c.idempotency_key, {key for _, key in keys}))
    rows = tx.execute(query).mappings()
    found = {(row["merchant_id"], row["idempotency_key"]): row for row in rows}
    return {key: found[key] for key in keys if key in found}
