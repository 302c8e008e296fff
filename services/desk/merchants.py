"""Merchants and their keys: the operator's alone."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from billhook.errors import Refused
from billhook.rules.money import parse_locale
from billhook.store import merchants
from billhook.store.merchants import Key, Merchant
from services.desk.refusals import not_found, operator_only
from services.desk.terms import CallerIn, EnvIn, Id, Optional, Page, Text, known_merchant, page_of


async def _operator(caller: CallerIn) -> None:
    if caller.merchant_id is not None:
        raise operator_only()


router = APIRouter(prefix="/v1/merchants", tags=["merchants"], dependencies=[Depends(_operator)])


class NewMerchant(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text = Field(description="As it stands on invoices that name no seller of their own.")
    locale: Text = Field("en", description="How documents write dates and amounts: en, de-AT, pt_BR…")


class MerchantShown(BaseModel):
    id: str
    name: str
    locale: str
    created_at: datetime


class NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Text = Field(description="Who or what uses it.")


class KeyShown(BaseModel):
    id: str
    merchant_id: str | None
    name: str
    created_at: datetime
    revoked_at: datetime | None


class KeyMade(BaseModel):
    id: str
    merchant_id: str
    name: str
    key: str = Field(description="The bearer key. It is not stored and never shown again.")


class MerchantListing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=100)
    after: Id | Optional = Field(None, description="The `next` of the page before.")


def _merchant(merchant: Merchant) -> MerchantShown:
    return MerchantShown(**vars(merchant))


def _key(key: Key) -> KeyShown:
    return KeyShown(**vars(key))


@router.post("", status_code=201)
def create_merchant(env: EnvIn, new: NewMerchant) -> MerchantShown:
    """Make a merchant."""
    try:
        parse_locale(new.locale)
    except ValueError as error:
        raise Refused("locale_unknown", f"`locale`: {error}.") from None
    with env.database.begin() as tx:
        return _merchant(merchants.create_merchant(tx, new.name, env.clock(), locale=new.locale))


@router.get("")
def list_merchants(env: EnvIn, query: Annotated[MerchantListing, Query()]) -> Page[MerchantShown]:
    """All merchants, the oldest first."""
    with env.database.read() as tx:
        found = merchants.list_merchants(tx, after=query.after or "", limit=query.limit + 1)
    return page_of(found, query.limit, _merchant, lambda merchant: merchant.id)


@router.get("/{merchant_id}")
def get_merchant(env: EnvIn, merchant_id: Id) -> MerchantShown:
    with env.database.read() as tx:
        merchant = merchants.get_merchant(tx, merchant_id)
    if merchant is None:
        raise not_found("merchant")
    return _merchant(merchant)


@router.post("/{merchant_id}/keys", status_code=201)
def create_key(env: EnvIn, merchant_id: Id, new: NewKey) -> KeyMade:
    """Make a bearer key for a merchant. It is shown this once."""
    with env.database.begin() as tx:
        known_merchant(tx, merchant_id)
        key_id, key = merchants.create_key(tx, merchant_id, new.name, env.clock())
    return KeyMade(id=key_id, merchant_id=merchant_id, name=new.name, key=key)


@router.get("/{merchant_id}/keys")
def list_keys(env: EnvIn, merchant_id: Id) -> list[KeyShown]:
    """A merchant's keys, revoked ones too."""
    with env.database.read() as tx:
        known_merchant(tx, merchant_id)
        return [_key(key) for key in merchants.list_keys(tx, merchant_id)]


@router.delete("/{merchant_id}/keys/{key_id}", status_code=204)
def revoke_key(env: EnvIn, merchant_id: Id, key_id: Id) -> None:
    """Make a key stop working at once."""
    with env.database.begin() as tx:
        if not merchants.revoke_key(tx, key_id, env.clock(), merchant_id=merchant_id):
            raise not_found("key that works")
