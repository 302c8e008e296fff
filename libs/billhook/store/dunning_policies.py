"""Dunning policies: versions that never change. A case keeps the one it was opened with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from billhook.decoding import decode
from billhook.rules.dunning_policy import NARROWEST_FIRST, Policy
from billhook.store import statements
from billhook.store.bulk import among
from billhook.store.database import Tx
from billhook.store.schema import Instant, merchant_column, metadata, new_id, partial_index
from billhook.store.statements import Statement, is_

_CURRENT = sa.text("retired_at IS NULL")

dunning_policies = sa.Table(
    "dunning_policies",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    merchant_column(),
    sa.Column("scope_kind", sa.Text, nullable=False),  # merchant, price, customer, or case: one case's own plan
    sa.Column("scope", sa.Text, nullable=False),  # the provider's id; empty for the merchant
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("policy", sa.LargeBinary, nullable=False),  # JSON
    sa.Column("source_id", sa.Text),  # where own invoices are charged; none: they are only reminded of
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("retired_at", Instant),
    sa.UniqueConstraint("merchant_id", "scope_kind", "scope", "version"),
    partial_index("uq_dunning_policies_current", "merchant_id", "scope_kind", "scope", where=_CURRENT, unique=True),
)


@dataclass(frozen=True, kw_only=True)
class PolicyVersion:
    id: str
    merchant_id: str
    scope_kind: str
    scope: str
    version: int
    policy: Policy
    source_id: str | None
    created_at: datetime
    created_by: str
    retired_at: datetime | None = None


def set_policy(
    tx: Tx,
    merchant_id: str,
    scope_kind: str,
    scope: str,
    policy: Policy,
    now: datetime,
    *,
    by: str,
    source_id: str | None = None,
) -> PolicyVersion:
    """The policy of this scope from now on. The one before it stays, for the cases that have it."""
    last = retire_policy(tx, merchant_id, scope_kind, scope, now)
    new = PolicyVersion(
        id=new_id("dpol"),
        merchant_id=merchant_id,
        scope_kind=scope_kind,
        scope=scope,
        version=last + 1,
        policy=policy,
        source_id=source_id,
        created_at=now,
        created_by=by,
    )
    tx.execute(dunning_policies.insert().values(**{**vars(new), "policy": msgspec.json.encode(policy)}))
    return new


def retire_policy(tx: Tx, merchant_id: str, scope_kind: str, scope: str, now: datetime) -> int:
    """No policy for this scope from now on; returns the last version there was (0: none)."""
    c = dunning_policies.c
    mine = (c.merchant_id == merchant_id, c.scope_kind == scope_kind, c.scope == scope)
    # Locked in full, so that of two who set it at once the second makes the version after the first.
    versions = [row.version for row in tx.execute(sa.select(c.version).where(*mine).with_for_update())]
    tx.execute(sa.update(dunning_policies).where(*mine, c.retired_at.is_(None)).values(retired_at=now))
    return max(versions, default=0)


def current_policies(tx: Tx, merchant_ids: Collection[str]) -> dict[str, list[PolicyVersion]]:
    """What counts now, for each of these merchants that has, or had, any: who had one may still have cases."""
    found: dict[str, list[PolicyVersion]] = {}
    for values in _OF_MERCHANTS.rows(tx, merchants=[*merchant_ids]):
        row = dict(zip(dunning_policies.c.keys(), values, strict=True))
        current = found.setdefault(row["merchant_id"], [])
        if row["retired_at"] is None:
            current.append(_version(row))
    return found


_OF_MERCHANTS: Final = Statement(
    lambda sqlite: (
        sa.select(dunning_policies)
        .where(
            statements.among(dunning_policies.c.merchant_id, "merchants", sqlite),
            sa.or_(*(is_(dunning_policies.c.scope_kind, kind) for kind in NARROWEST_FIRST)),
        )
        .order_by(dunning_policies.c.id)
    )
)


def policies_of(tx: Tx, policy_ids: Collection[str]) -> dict[str, PolicyVersion]:
    query = sa.select(dunning_policies).where(among(tx, dunning_policies.c.id, policy_ids))
    return {row["id"]: _version(row) for row in tx.execute(query).mappings()}


def narrowest(
    versions: Collection[PolicyVersion], customer: str | None, prices: Collection[str]
) -> PolicyVersion | None:
    """The policy for an invoice: its customer's, else that of one of its prices, else the merchant's."""
    fits: dict[str, set[str | None]] = {"customer": {customer}, "price": {*prices}, "merchant": {""}}
    for kind in NARROWEST_FIRST:
        for version in versions:
            if version.scope_kind == kind and version.scope in fits[kind]:
                return version
    return None


def _version(row: sa.RowMapping | dict[str, Any]) -> PolicyVersion:
    return PolicyVersion(**{**row, "policy": decode(row["policy"], Policy)})
