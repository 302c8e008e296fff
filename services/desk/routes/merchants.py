"""Merchants and their keys: the operator's, but for what a merchant may see and say of itself."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from billhook.actions.limits import check_room, room_of
from billhook.actions.sources import check_contact
from billhook.errors import Refused
from billhook.rules.money import parse_locale
from billhook.store import merchants
from billhook.store.database import Tx
from billhook.store.merchants import Caller, Key, Merchant
from services.desk.dependencies import Body, CallerIn, EnvIn, Id, Optional, Page, Text, known_merchant, page_of
from services.desk.refusals import not_found, operator_only


async def _operator(caller: CallerIn) -> None:
    if caller.merchant_id is not None:
        raise operator_only()


router = APIRouter(prefix="/v1/merchants", tags=["merchants"])

OPERATORS = [Depends(_operator)]

Email = Annotated[
    str,
    Field(
        max_length=320,
        description="Who is told by mail when something of theirs needs a person: an endpoint that fails for days.",
        json_schema_extra={"format": "email"},
    ),
]


class NewMerchant(Body):
    name: Text = Field(description="As it stands on invoices that name no seller of their own.")
    locale: Text = Field("en", description="How documents write dates and amounts: en, de-AT, pt_BR…")
    contact_email: Email | None = None


class MerchantChanges(Body):
    """What is left out stays; null takes it away."""

    contact_email: Email | None = None


class MerchantShown(BaseModel):
    id: str
    name: str
    locale: str
    contact_email: str | None
    created_at: datetime


class NewKey(Body):
    name: Text = Field(description="Who or what uses it.")
    scope: merchants.Scope = Field(
        "write", description="read: look only; publish: `POST /v1/messages` only; write: everything of the merchant's."
    )
    expires_in_days: int | None = Field(None, ge=1, le=3650, description="Left out: it works until it is revoked.")


class KeyShown(BaseModel):
    id: str
    merchant_id: str | None
    name: str
    scope: merchants.Scope
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")
    revoked_at: datetime | None


class KeyMade(BaseModel):
    id: str
    merchant_id: str
    name: str
    scope: merchants.Scope
    expires_at: datetime | None
    key: str = Field(description="The bearer key. It is not stored and never shown again.")


class MerchantListing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=100)
    after: Id | Optional = Field(None, description="The `next` of the page before.")


def _merchant(merchant: Merchant) -> MerchantShown:
    return MerchantShown(**vars(merchant))


def find_merchant(tx: Tx, merchant_id: str, caller: Caller) -> Merchant:
    merchant = merchants.get_merchant(tx, merchant_id) if caller.merchant_id in (None, merchant_id) else None
    if merchant is None:
        raise not_found("merchant")
    return merchant


def _key(key: Key) -> KeyShown:
    return KeyShown(**vars(key))


@router.post("", status_code=201, dependencies=OPERATORS)
def create_merchant(env: EnvIn, new: NewMerchant) -> MerchantShown:
    """Make a merchant."""
    try:
        parse_locale(new.locale)
    except ValueError as error:
        raise Refused("locale_unknown", f"`locale`: {error}.") from None
    check_contact(new.contact_email)
    with env.database.begin() as tx:
        return _merchant(merchants.create_merchant(tx, now=env.clock(), **new.model_dump()))


@router.get("", dependencies=OPERATORS)
def list_merchants(env: EnvIn, query: Annotated[MerchantListing, Query()]) -> Page[MerchantShown]:
    """All merchants, the oldest first."""
    with env.database.read() as tx:
        found = merchants.list_merchants(tx, after=query.after or "", limit=query.limit + 1)
    return page_of(found, query.limit, _merchant, lambda merchant: merchant.id)


@router.get("/{merchant_id}")
def get_merchant(env: EnvIn, caller: CallerIn, merchant_id: Id) -> MerchantShown:
    """One merchant; with a merchant's key, that one."""
    with env.database.read() as tx:
        return _merchant(find_merchant(tx, merchant_id, caller))


@router.patch("/{merchant_id}")
def update_merchant(env: EnvIn, caller: CallerIn, merchant_id: Id, changes: MerchantChanges) -> MerchantShown:
    """Set what is named. A merchant's key may do this for that merchant."""
    check_contact(changes.contact_email)
    with env.database.begin() as tx:
        find_merchant(tx, merchant_id, caller)
        if "contact_email" in changes.model_fields_set:
            merchants.set_contact(tx, merchant_id, changes.contact_email)
        return _merchant(find_merchant(tx, merchant_id, caller))


class LimitShown(BaseModel):
    used: int
    limit: int


@router.get("/{merchant_id}/limits")
def get_limits(env: EnvIn, caller: CallerIn, merchant_id: Id) -> dict[str, LimitShown]:
    """How many of each thing the merchant has, and may have; and how many requests it may make a second."""
    with env.database.read() as tx:
        find_merchant(tx, merchant_id, caller)
        return {
            what: LimitShown(used=n, limit=limit)
            for what, (n, limit) in room_of(env, tx, merchant_id, env.clock()).items()
        }


@router.post("/{merchant_id}/keys", status_code=201, dependencies=OPERATORS)
def create_key(env: EnvIn, merchant_id: Id, new: NewKey) -> KeyMade:
    """Make a bearer key for a merchant. It is shown this once."""
    now = env.clock()
    expires_at = None if new.expires_in_days is None else now + timedelta(days=new.expires_in_days)
    with env.database.begin() as tx:
        known_merchant(tx, merchant_id)
        check_room(env, tx, merchant_id, "keys", env.clock())
        key_id, key = merchants.create_key(tx, merchant_id, new.name, now, scope=new.scope, expires_at=expires_at)
    return KeyMade(id=key_id, merchant_id=merchant_id, name=new.name, scope=new.scope, expires_at=expires_at, key=key)


@router.get("/{merchant_id}/keys", dependencies=OPERATORS)
def list_keys(env: EnvIn, merchant_id: Id) -> list[KeyShown]:
    """A merchant's keys, revoked ones too."""
    with env.database.read() as tx:
        known_merchant(tx, merchant_id)
        return [_key(key) for key in merchants.list_keys(tx, merchant_id)]


@router.delete("/{merchant_id}/keys/{key_id}", status_code=204, dependencies=OPERATORS)
def revoke_key(env: EnvIn, merchant_id: Id, key_id: Id) -> None:
    """Make a key stop working at once."""
    with env.database.begin() as tx:
        if not merchants.revoke_key(tx, key_id, env.clock(), merchant_id=merchant_id):
            raise not_found("key that works")
