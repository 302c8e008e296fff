"""Passkeys of operators: the public halves, which sign nobody in by themselves, and the challenges that are open."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from billhook.store.database import Tx, insert_into
from billhook.store.schema import Instant, metadata, new_id

passkeys = sa.Table(
    "passkeys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("operator_id", sa.Text, nullable=False),
    sa.Column("credential_id", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("public_key", sa.LargeBinary, nullable=False),  # as COSE writes it
    sa.Column("sign_count", sa.BigInteger, nullable=False),  # how often it signed, as it said last; many never count
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("last_used_at", Instant),
    sa.Index("ix_passkeys_operator_id", "operator_id", "id"),
)

passkey_challenges = sa.Table(
    "passkey_challenges",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),  # of what the browser holds that asked
    sa.Column("challenge", sa.LargeBinary, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Index("ix_passkey_challenges_expires_at", "expires_at"),
)

CHALLENGE: Final = timedelta(minutes=5)
MOST_PASSKEYS: Final = 10
"""Of one person."""


@dataclass(frozen=True)
class Passkey:
    id: str
    operator_id: str
    credential_id: bytes
    public_key: bytes
    sign_count: int
    name: str
    created_at: datetime
    last_used_at: datetime | None


def open_challenge(tx: Tx, holder: str, now: datetime) -> bytes:
    """A challenge for whoever holds this secret; one that they had before is over."""
    tx.execute(sa.delete(passkey_challenges).where(passkey_challenges.c.expires_at <= now))
    challenge = secrets.token_bytes(32)
    fresh = {"challenge": challenge, "expires_at": now + CHALLENGE}
    opened = insert_into(tx, passkey_challenges).values(digest=_digest(holder), **fresh)
    tx.execute(opened.on_conflict_do_update(index_elements=["digest"], set_=fresh))
    return challenge


def take_challenge(tx: Tx, holder: str, now: datetime) -> bytes | None:
    """Use the challenge up that this secret's holder was given, whatever becomes of the answer. None: there is none, or
    it is over."""
    c = passkey_challenges.c
    mine = sa.delete(passkey_challenges).where(c.digest == _digest(holder), c.expires_at > now)
    taken = tx.execute(mine.returning(c.challenge)).scalar()
    return None if taken is None else bytes(taken)


def add_passkey(
    tx: Tx, operator_id: str, name: str, credential_id: bytes, public_key: bytes, sign_count: int, now: datetime
) -> Passkey | None:
    """A new one of theirs; None where somebody has it already. Ask `passkeys_of` before, in this transaction, how many
    there are."""
    passkey = Passkey(new_id("passkey"), operator_id, credential_id, public_key, sign_count, name, now, None)
    added = insert_into(tx, passkeys).values(**vars(passkey)).on_conflict_do_nothing().returning(passkeys.c.id)
    return passkey if tx.execute(added).first() else None


def passkeys_of(tx: Tx, operator_id: str) -> list[Passkey]:
    rows = tx.execute(sa.select(passkeys).where(passkeys.c.operator_id == operator_id).order_by(passkeys.c.id))
    return [_read(row) for row in rows.mappings()]


def find_passkey(tx: Tx, credential_id: bytes) -> Passkey | None:
    row = tx.execute(sa.select(passkeys).where(passkeys.c.credential_id == credential_id)).mappings().first()
    return _read(row) if row else None


def use_passkey(tx: Tx, passkey_id: str, sign_count: int, now: datetime) -> bool:
    """Note that it signed. False: it says that it signed no oftener than before, as a copy of it would."""
    c = passkeys.c
    counted = sa.or_(c.sign_count < sign_count, sa.and_(c.sign_count == 0, sa.literal(sign_count) == 0))
    used = sa.update(passkeys).where(c.id == passkey_id, counted).values(sign_count=sign_count, last_used_at=now)
    return tx.execute(used).rowcount == 1


def remove_passkey(tx: Tx, operator_id: str, passkey_id: str) -> str | None:
    """Take away one of theirs; returns what it was called, None where they have none of this id."""
    c = passkeys.c
    theirs = sa.delete(passkeys).where(c.id == passkey_id, c.operator_id == operator_id)
    return tx.execute(theirs.returning(c.name)).scalar()


def _read(row: sa.RowMapping) -> Passkey:
    bytes_of = {name: bytes(row[name]) for name in ("credential_id", "public_key")}
    return Passkey(**{**row, **bytes_of})


def _digest(holder: str) -> bytes:
    return hashlib.sha256(holder.encode()).digest()
