"""Series of numbers: 1, 2, 3… without a gap, whoever takes them and whatever fails.

A number is taken by counting up the series' row in the transaction that uses it. The row stays locked until that
transaction ends, so the next one waits for it: what is rolled back, or dies with its process, gives its number back
before anybody else could have taken one. A sequence of the database would be faster but leave gaps, because a rollback
does not give its numbers back.
"""

from __future__ import annotations

import sqlalchemy as sa

from billhook.store.database import Tx, insert_into
from billhook.store.schema import merchant_column, metadata

number_series = sa.Table(
    "number_series",
    metadata,
    merchant_column(),
    sa.Column("series", sa.Text, nullable=False),  # what stands before the number: see `billhook.rules.numbering`
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.PrimaryKeyConstraint("merchant_id", "series"),
)


def next_number(tx: Tx, merchant_id: str, series: str) -> int:
    """Take the next number. Nobody else gets one of this series until the transaction ends: take it late."""
    statement = insert_into(tx, number_series).values(merchant_id=merchant_id, series=series, last=1)
    counted = statement.on_conflict_do_update(
        index_elements=["merchant_id", "series"], set_={"last": number_series.c.last + 1}
    )
    return int(tx.execute(counted.returning(number_series.c.last)).scalar_one())


def count_on_from(tx: Tx, merchant_id: str, series: str, last: int) -> bool:
    """Take all numbers up to `last` for given out: the next is the one behind it. False where it was counted as far
    already; nothing changes then."""
    statement = insert_into(tx, number_series).values(merchant_id=merchant_id, series=series, last=last)
    counted = statement.on_conflict_do_update(
        index_elements=["merchant_id", "series"], set_={"last": last}, where=number_series.c.last < last
    )
    return tx.execute(counted.returning(number_series.c.last)).first() is not None


def last_number(tx: Tx, merchant_id: str, series: str) -> int:
    """The last number that was given out; 0 where none was."""
    c = number_series.c
    query = sa.select(c.last).where(c.merchant_id == merchant_id, c.series == series)
    return tx.execute(query).scalar_one_or_none() or 0
