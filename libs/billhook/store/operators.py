"""Operators: the people of the console, how they sign in, and their sessions.

Only digests of tokens are stored, and a mailed code only sealed: a copy of the database signs nobody in.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

import sqlalchemy as sa

from billhook.store.database import Tx
from billhook.store.passkeys import passkeys
from billhook.store.schema import Instant, metadata, new_id

Role = Literal["view", "operate", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""Each may what the one before it may: look; mend what failed; stop queues and let others in."""

operators = sa.Table(
    "operators",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("email", sa.Text, nullable=False, unique=True),  # in lower case
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("disabled_at", Instant),
)

operator_sessions = sa.Table(
    "operator_sessions",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("operator_id", sa.Text),  # none: signed in by a key, or by a link made on the machine
    sa.Column("api_key_id", sa.Text),  # of an operator's key that can be revoked
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Index("ix_operator_sessions_expires_at", "expires_at"),
)

sign_ins = sa.Table(
    "sign_ins",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("email", sa.Text),  # whom a code was asked for, known or not; none: a link made on the machine
    sa.Column("operator_id", sa.Text),
    sa.Column("name", sa.Text),  # who a link signs in
    sa.Column("code", sa.LargeBinary),  # sealed
    sa.Column("digest", sa.LargeBinary, unique=True),  # of a link's token
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant, nullable=False),
    sa.Column("spent_at", Instant),
    sa.Index("ix_sign_ins_email", "email", "created_at"),
    sa.Index("ix_sign_ins_expires_at", "expires_at"),
)

SESSION: Final = timedelta(hours=12)
CODE: Final = timedelta(minutes=10)
MOST_GUESSES: Final = 5
"""Wrong codes that a challenge bears."""
CODES_AT_ONCE: Final = 3
"""Codes that are good at a time, for one address: so many guesses more."""


@dataclass(frozen=True)
class Operator:
    id: str
    email: str
    name: str
    role: Role
    created_at: datetime
    created_by: str
    disabled_at: datetime | None


@dataclass(frozen=True)
class Session:
    """Who is signed in."""

    name: str
    role: Role
    operator_id: str | None
    created_at: datetime
    expires_at: datetime

    def may(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True)
class SignIn:
    """A way in that is open for a while: a code that was mailed, or a link."""

    id: str
    operator_id: str | None
    name: str | None
    code: bytes | None
    attempts: int


def add_operator(tx: Tx, email: str, name: str, role: Role, now: datetime, *, by: str) -> Operator | None:
    """A new operator; None where the address has one already, who may be disabled."""
    email = email.lower()
    if tx.execute(sa.select(operators.c.id).where(operators.c.email == email)).first() is not None:
        return None
    operator = Operator(new_id("op"), email, name, role, now, by, None)
    tx.execute(operators.insert().values(**vars(operator)))
    return operator


def find_operator(tx: Tx, email_or_id: str, *, lock: bool = False) -> Operator | None:
    c = operators.c
    query = sa.select(operators).where(sa.or_(c.email == email_or_id.lower(), c.id == email_or_id))
    row = tx.execute(query.with_for_update() if lock else query).mappings().first()
    return Operator(**row) if row else None


def list_operators(tx: Tx, *, limit: int = 1000) -> list[Operator]:
    rows = tx.execute(sa.select(operators).order_by(operators.c.id).limit(limit)).mappings()
    return [Operator(**row) for row in rows]


def change_operator(tx: Tx, operator_id: str, *, role: Role | None = None, disabled_at: datetime | None = None) -> None:
    """Give another role, or nothing any more, passkeys neither. Either ends all sessions: a session keeps the role it
    began with."""
    values = {"disabled_at": disabled_at} if role is None else {"role": role, "disabled_at": disabled_at}
    tx.execute(sa.update(operators).where(operators.c.id == operator_id).values(**values))
    tx.execute(sa.delete(operator_sessions).where(operator_sessions.c.operator_id == operator_id))
    if role is None:
        tx.execute(sa.delete(passkeys).where(passkeys.c.operator_id == operator_id))


def begin_session(
    tx: Tx,
    name: str,
    role: Role,
    now: datetime,
    *,
    operator_id: str | None = None,
    api_key_id: str | None = None,
    until: datetime | None = None,
) -> str:
    """Sign somebody in, at most `until` then; returns the token."""
    token = secrets.token_urlsafe(32)
    tx.execute(sa.delete(operator_sessions).where(operator_sessions.c.expires_at <= now))
    tx.execute(
        operator_sessions.insert().values(
            digest=_digest(token),
            operator_id=operator_id,
            api_key_id=api_key_id,
            name=name,
            role=role,
            created_at=now,
            expires_at=min(now + SESSION, until or now + SESSION),
        )
    )
    return token


def find_session(tx: Tx, token: str, now: datetime) -> tuple[Session, str | None] | None:
    """The session of a token while it is good, and the key that it began with."""
    c = operator_sessions.c
    query = sa.select(c.name, c.role, c.operator_id, c.created_at, c.expires_at, c.api_key_id)
    row = tx.execute(query.where(c.digest == _digest(token), c.expires_at > now)).first()
    return (Session(*row[:5]), row[5]) if row else None


def end_session(tx: Tx, token: str) -> None:
    tx.execute(sa.delete(operator_sessions).where(operator_sessions.c.digest == _digest(token)))


def open_codes(tx: Tx, email: str, now: datetime) -> int:
    """How many codes for an address can still be used or were until a moment ago."""
    c = sign_ins.c
    mine = sa.select(sa.func.count()).where(c.email == email, c.created_at > now - CODE)
    return int(tx.execute(mine).scalar_one())


def add_code(tx: Tx, email: str, operator_id: str | None, code: bytes, now: datetime) -> str:
    """A challenge to be answered with a code; returns its id. Without an operator nothing answers it."""
    _forget_sign_ins(tx, now)
    sign_in_id = f"si_{secrets.token_hex(16)}"
    row = {"id": sign_in_id, "email": email, "operator_id": operator_id, "code": code, "created_at": now}
    tx.execute(sign_ins.insert().values(**row, expires_at=now + CODE))
    return sign_in_id


def add_sign_in_link(tx: Tx, name: str, now: datetime, lasting: timedelta) -> str:
    """A token that signs in once, with every right; whoever can write to the database could make one anyway."""
    _forget_sign_ins(tx, now)
    token = secrets.token_urlsafe(32)
    tx.execute(
        sign_ins.insert().values(
            id=new_id("si"), name=name, digest=_digest(token), created_at=now, expires_at=now + lasting
        )
    )
    return token


def _forget_sign_ins(tx: Tx, now: datetime) -> None:
    tx.execute(sa.delete(sign_ins).where(sign_ins.c.expires_at <= now - CODE))


def spend_link(tx: Tx, token: str, now: datetime) -> str | None:
    """Use a link up; returns who it signs in. None: it is unknown, over, or was used."""
    c = sign_ins.c
    good = (c.digest == _digest(token), c.spent_at.is_(None), c.expires_at > now)
    return tx.execute(sa.update(sign_ins).where(*good).values(spent_at=now).returning(c.name)).scalar()


def is_good_link(tx: Tx, token: str, now: datetime) -> bool:
    c = sign_ins.c
    good = (c.digest == _digest(token), c.spent_at.is_(None), c.expires_at > now)
    return tx.execute(sa.select(c.id).where(*good)).first() is not None


def count_guess(tx: Tx, sign_in_id: str, now: datetime) -> SignIn | None:
    """Count a guess at a code before it is looked at; None: no further one is taken."""
    c = sign_ins.c
    good = (c.id == sign_in_id, c.spent_at.is_(None), c.expires_at > now, c.attempts < MOST_GUESSES)
    count = sa.update(sign_ins).where(*good).values(attempts=c.attempts + 1)
    row = tx.execute(count.returning(c.id, c.operator_id, c.name, c.code, c.attempts)).mappings().first()
    return SignIn(**row) if row else None


def spend_code(tx: Tx, sign_in_id: str, now: datetime) -> bool:
    """Use a code up; False where somebody was faster."""
    c = sign_ins.c
    spent = sa.update(sign_ins).where(c.id == sign_in_id, c.spent_at.is_(None)).values(spent_at=now)
    return tx.execute(spent).rowcount == 1


def _digest(token: str) -> bytes:
    # 256 random bits: a plain hash is enough, for there is nothing to guess.
    return hashlib.sha256(token.encode()).digest()
