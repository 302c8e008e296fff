"""The walk over the stored files of a merchant's documents: a share of them each night, on from where the last night
ended, and from the beginning again once it is through."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from billhook.store.database import Tx, insert_into
from billhook.store.documents import documents
from billhook.store.schema import metadata

NIGHTS: Final = 28
"""In which every file is looked at once."""

file_walks = sa.Table(
    "file_walks",
    metadata,
    sa.Column("merchant_id", sa.Text, primary_key=True),
    sa.Column("place", sa.Text, nullable=False),  # the last document that was looked at; empty: begin again
)


def share_of(files: int) -> int:
    """How many a night looks at. The last night of a walk ends where the files do, so there is one less."""
    return -(-files // (NIGHTS - 1))


def count_documents(tx: Tx, merchant_id: str) -> int:
    query = sa.select(sa.func.count()).where(documents.c.merchant_id == merchant_id)
    return int(tx.execute(query).scalar_one())


def next_documents(tx: Tx, merchant_id: str, limit: int) -> list[str]:
    """Those behind the place of the walk."""
    place = tx.execute(sa.select(file_walks.c.place).where(file_walks.c.merchant_id == merchant_id)).scalar()
    pair = (documents.c.merchant_id, documents.c.id)
    behind = sa.tuple_(*pair) > sa.tuple_(merchant_id, place or "")
    query = sa.select(documents.c.id).where(behind, documents.c.merchant_id == merchant_id)
    return list(tx.execute(query.order_by(*pair).limit(limit)).scalars())


def set_place(tx: Tx, merchant_id: str, place: str) -> None:
    made = insert_into(tx, file_walks).values(merchant_id=merchant_id, place=place)
    tx.execute(made.on_conflict_do_update(index_elements=["merchant_id"], set_={"place": place}))
