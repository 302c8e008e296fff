"""The book, read only: every kind of billing object in one shape, the shape that messages carry as `data`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from billhook.rules.book.kinds import KINDS
from billhook.store import book
from services.desk.dependencies import CallerIn, EnvIn, Id, OldestFirst, Page, page_of, row_id
from services.desk.refusals import not_found

router = APIRouter(prefix="/v1/book", tags=["book"])

Kind = Annotated[str, Path(pattern=f"^({'|'.join(KINDS)})$")]


class EntryShown(BaseModel):
    """An object of the book; beside these it has the fields of its kind."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: str = Field(description="Its kind.")
    source: str = Field(description="The id of the source it came from.")
    account: str | None
    livemode: bool = Field(description="Whether real money moved.")
    merchant_id: str
    updated_at: datetime = Field(description="When the book last changed it.")


def entry_fields(kind: str, row: Any) -> dict[str, Any]:
    """A row as its fields, in plain values."""
    value = msgspec.to_builtins(book.value_of(kind, row))
    fields = {name: value[name] for name in value if name in row}
    return {
        "id": row["id"],
        "object": kind,
        "source": row["source_id"],
        "account": row["account"] or None,
        "livemode": row["livemode"],
        "merchant_id": row["merchant_id"],
        "updated_at": row["updated_at"],
        **fields,
    }


@router.get("/{kind}")
def list_entries(env: EnvIn, caller: CallerIn, kind: Kind, query: Annotated[OldestFirst, Query()]) -> Page[EntryShown]:
    """One kind of object, in the order of their ids. Invoices come without their lines."""
    with env.database.read() as tx:
        found = book.list_objects(
            tx, kind, merchant_id=query.visible_to(caller), after=query.after, limit=query.limit + 1
        )
    return page_of(found, query.limit, lambda row: EntryShown(**entry_fields(kind, row)), row_id)


@router.get("/{kind}/{object_id}")
def get_entry(env: EnvIn, caller: CallerIn, kind: Kind, object_id: Id) -> EntryShown:
    with env.database.read() as tx:
        row = book.get(tx, kind, object_id, merchant_id=caller.merchant_id)
    if row is None:
        raise not_found(kind.replace("_", " "))
    return EntryShown(**entry_fields(kind, row))
