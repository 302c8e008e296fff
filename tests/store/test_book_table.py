"""The book ends the same whatever the order, and gives back the values it was made from."""

from __future__ import annotations

import itertools
import re
import threading
import types
import typing
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from store.databases import NOW

from billhook.rules.book.change import Change
from billhook.rules.book.customer import Customer
from billhook.rules.book.kinds import KINDS
from billhook.rules.book.objects import BookObject, book_id
from billhook.rules.book.payment import Payment
from billhook.store import book
from billhook.store.book import TABLES, Entry
from billhook.store.database import Database
from billhook.store.schema import new_id

AMOUNTS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
TIMES = st.datetimes(
    min_value=datetime(1990, 1, 1),  # noqa: DTZ001 (hypothesis wants the bounds bare)
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Everything a field may hold, read off its annotation, so that a new field is tested without a word here."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        [limits] = [extra for extra in arguments[1:] if isinstance(extra, msgspec.Meta)]
        if arguments[0] is int:
            return st.integers(typing.cast(int, limits.ge), typing.cast(int, limits.le))
        return values(arguments[0]).filter(len) if limits.min_length else values(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return st.one_of([values(argument) for argument in arguments])
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(TEXTS, TEXTS, max_size=3)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return structs(annotation)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: TEXTS,
        int: AMOUNTS,
        bool: st.booleans(),
        datetime: TIMES,
        type(None): st.none(),
    }
    return plain[annotation]


def structs(struct: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(struct, include_extras=True)
    return st.builds(struct, **{name: values(hints[name]) for name in struct.__struct_fields__})


def entry(change: Change, source: str, *, merchant: str = "mrc_a") -> Entry:
    return Entry(merchant, source, "", change)


def apply(database: Database, source: str, changes: Sequence[Change]) -> None:
    with database.begin() as tx:
        book.apply(tx, [entry(change, source) for change in changes], NOW)


def held(database: Database, source: str, kind: str) -> dict[str, tuple[BookObject, book.Version]]:
    table = TABLES[kind]
    with database.read() as tx:
        rows = tx.execute(sa.select(table).where(table.c.source_id == source)).mappings()
        return {
            row["external_id"]: (
                book.value_of(kind, row),
                (row["version_at"], row["version_rank"], row["version_digest"]),
            )
            for row in rows
        }


payments = st.builds(
    Payment,
    external_id=st.sampled_from(["pi_1", "pi_2", "pi_3"]),
    status=st.sampled_from(["requires_payment_method", "processing", "succeeded"]),
    currency=st.just("eur"),
    amount=st.integers(1, 3),
    failure_code=st.sampled_from([None, "card_declined"]),
    deleted=st.sampled_from([False, False, False, True]),
)
changes = st.builds(
    Change,
    payments,
    st.integers(0, 3).map(lambda second: NOW + timedelta(seconds=second)),
    st.sampled_from([None, NOW, NOW + timedelta(seconds=9)]),
)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Change], list[list[Change]]]:
    """Some changes, and a way in which they may arrive: shuffled, doubled, cut into batches."""
    happened = draw(st.lists(changes, min_size=1, max_size=8))
    doubled = happened + draw(st.lists(st.sampled_from(happened), max_size=4))
    arriving = draw(st.permutations(doubled))
    cuts = sorted(draw(st.sets(st.integers(1, len(arriving)), max_size=4)))
    edges = [0, *cuts, len(arriving)]
    return happened, [list(arriving[a:b]) for a, b in itertools.pairwise(edges) if a < b]


def test_any_order_and_any_repetition_of_changes_ends_in_the_same_book(migrated: Database) -> None:
    @settings(max_examples=100 if migrated.sqlite else 40, deadline=None)
    @given(deliveries())
    def whatever_the_order(delivered: tuple[list[Change], list[list[Change]]]) -> None:
        happened, batches = delivered
        source = new_id("src")
        for batch in batches:
            apply(migrated, source, batch)
        latest: dict[str, Change] = {}
        for change in sorted(happened, key=lambda change: change.version):
            latest[change.object.external_id] = change
        assert held(migrated, source, "payment") == {
            name: (change.object, change.version) for name, change in latest.items()
        }

    whatever_the_order()


def test_the_states_of_one_second_are_put_in_the_order_of_what_they_changed(migrated: Database) -> None:
    @settings(max_examples=60 if migrated.sqlite else 25, deadline=None)
    @given(st.data(), st.integers(2, 6), st.booleans())
    def whatever_the_order(data: st.DataObject, length: int, made: bool) -> None:
        source = new_id("src")
        told = chain([Customer(external_id="x", name=data.draw(TEXTS) + str(n)) for n in range(length)], made=made)
        arriving = data.draw(st.permutations(told + data.draw(st.lists(st.sampled_from(told), max_size=3))))
        cut = data.draw(st.integers(0, len(arriving)))
        for batch in (arriving[:cut], arriving[cut:], told):
            apply(migrated, source, batch)
        assert held(migrated, source, "customer")["x"][0] == told[-1].object
        later = Change(Customer(external_id="x"), NOW + timedelta(seconds=1))
        apply(migrated, source, [later])
        apply(migrated, source, told)
        assert held(migrated, source, "customer") == {"x": (later.object, later.version)}

    whatever_the_order()


def chain(values: Sequence[BookObject], *, made: bool) -> list[Change]:
    """States of one second, each of which tells what it took the place of; the first perhaps that it was made."""
    befores = [None, *(Change(value, NOW).digest for value in values)]
    return [
        Change(value, NOW, before=before, first=made and before is None)
        for value, before in zip(values, befores, strict=False)
    ]


def test_a_state_that_is_come_back_to_is_the_last(migrated: Database) -> None:
    on, off = (Customer(external_id="x", name=name) for name in ("on", "off"))
    for order in itertools.permutations(chain([on, off, on], made=True)):
        source = new_id("src")
        for change in order:
            apply(migrated, source, [change])
        assert held(migrated, source, "customer")["x"][0] == on


def test_an_answer_counts_more_than_any_state_of_its_second(migrated: Database) -> None:
    told = chain([Customer(external_id="x", name=str(n)) for n in range(3)], made=False)
    answer = Change(Customer(external_id="x", name="asked"), NOW, NOW + timedelta(seconds=5))
    for order in itertools.permutations([*told, answer]):
        source = new_id("src")
        for change in order:
            apply(migrated, source, [change])
        assert held(migrated, source, "customer") == {"x": (answer.object, answer.version)}


def test_writers_beside_each_other_lose_no_state_of_a_second(migrated: Database) -> None:
    told = chain([Customer(external_id="x", name=str(n)) for n in range(4)], made=False)
    for _ in range(5):
        source, start = new_id("src"), threading.Barrier(4)

        def write(change: Change, source: str = source, start: threading.Barrier = start) -> None:
            start.wait()
            apply(migrated, source, [change])

        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(write, change) for change in told]:
                done.result()
        assert held(migrated, source, "customer")["x"][0] == told[-1].object


PAUSED: Final = 7
"""The advisory lock for which a writer waits that is to pause."""

PAUSING: Final = f"""
CREATE FUNCTION pause(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
  IF current_setting('test.pauses', true) = 'on' THEN PERFORM pg_advisory_xact_lock_shared({PAUSED}); END IF;
  RETURN $1;
END $$;
ALTER TABLE customers RENAME TO others;
CREATE TABLE customers (LIKE others INCLUDING DEFAULTS);
CREATE INDEX ON customers (pause(external_id))
"""
"""Whoever inserts a row writes into its indexes in the order in which they were made: it pauses before those."""


def test_two_who_are_told_of_a_new_object_at_once_both_write_it(postgres_database: Database) -> None:
    """The one pauses when it has seen that there is no such row, and before that is in any index of objects."""
    database = postgres_database
    told = chain([Customer(external_id="x", name=str(n)) for n in range(2)], made=False)
    with database.begin() as tx:
        tx.exec_driver_sql(PAUSING)
        for (made,) in tx.exec_driver_sql("SELECT indexdef FROM pg_indexes WHERE tablename = 'others'").all():
            tx.exec_driver_sql(re.sub(r"INDEX \S+ ON public.others", "INDEX ON customers", made))

    def write_with_a_pause() -> None:
        with database.begin() as tx:
            tx.exec_driver_sql("SET LOCAL test.pauses = 'on'")
            book.apply(tx, [entry(told[0], "src_a")], NOW)

    def pauses() -> bool:
        with database.read() as tx:
            asked = f"SELECT count(*) FROM pg_locks WHERE objid = {PAUSED} AND NOT granted"
            return bool(tx.exec_driver_sql(asked).scalar_one())

    with ThreadPoolExecutor(1) as threads:
        with database.begin() as tx:
            tx.exec_driver_sql(f"SELECT pg_advisory_xact_lock({PAUSED})")
            first = threads.submit(write_with_a_pause)
            while not pauses():
                assert not first.done()
            apply(database, "src_a", [told[1]])
        first.result()
    assert held(database, "src_a", "customer")["x"][0] == told[1].object


def test_a_batch_of_objects_takes_no_lock_for_each(postgres_database: Database) -> None:
    """PostgreSQL has room for some six thousand, of all who are connected together."""
    with postgres_database.begin() as tx:
        book.apply(tx, [entry(Change(Customer(external_id=str(n)), NOW), "src_a") for n in range(200)], NOW)
        mine = "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND NOT fastpath"
        assert tx.exec_driver_sql(mine).scalar_one() < 40


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_comes_back_as_it_was_with_any_field_set(migrated: Database, kind: str) -> None:
    @settings(max_examples=12 if migrated.sqlite else 6, deadline=None)
    @given(st.lists(structs(KINDS[kind]), min_size=1, max_size=5, unique_by=lambda value: value.external_id))
    def comes_back(objects: list[BookObject]) -> None:
        source = new_id("src")
        apply(migrated, source, [Change(value, NOW) for value in objects])
        assert held(migrated, source, kind) == {
            value.external_id: (value, Change(value, NOW).version) for value in objects
        }

    comes_back()


def test_what_is_not_there_is_null_in_json_columns_too(database: Database) -> None:
    apply(database, "src_a", [Change(Customer(external_id="cus_1"), NOW)])
    table = TABLES["customer"]
    with database.read() as tx:
        assert tx.execute(sa.select(table.c.external_id).where(table.c.address.is_(None))).scalars().all() == ["cus_1"]


def test_versions_are_told_for_the_objects_that_the_book_holds(database: Database) -> None:
    customer = Change(Customer(external_id="x"), NOW)
    payment = Change(Payment(external_id="x", status="processing", currency="eur", amount=1), NOW, asked_at=NOW)
    apply(database, "src_a", [customer, payment])
    keys = [("customer", "src_a", "", "x"), ("payment", "src_a", "", "x")]
    others = [("customer", "src_b", "", "x"), ("customer", "src_a", "acct", "x"), ("invoice", "src_a", "", "x")]
    with database.read() as tx:
        assert book.versions(tx, [*keys, *others]) == {keys[0]: customer.version, keys[1]: payment.version}
        assert book.versions(tx, []) == {}


def test_an_object_keeps_its_id_and_its_merchant_over_changes(database: Database) -> None:
    first = Change(Customer(external_id="x", name="a"), NOW)
    second = Change(Customer(external_id="x", name="b"), NOW + timedelta(seconds=1))
    apply(database, "src_a", [first])
    with database.begin() as tx:
        book.apply(tx, [entry(second, "src_a", merchant="mrc_other")], NOW)
        object_id = book_id("src_a", "", first.object)
        assert object_id.startswith("cus_")
        row = book.get(tx, "customer", object_id, merchant_id="mrc_a")
        assert row is not None
        assert row["name"] == "b"


def test_objects_are_listed_in_pages_and_by_column(database: Database) -> None:
    statuses = ("processing", "succeeded", "succeeded")
    made = [
        Change(Payment(external_id=f"p{n}", status=status, currency="eur", amount=n), NOW)
        for n, status in enumerate(statuses)
    ]
    apply(database, "src_a", made)
    with database.read() as tx:
        page = book.list_objects(tx, "payment", merchant_id="mrc_a", limit=2)
        rest = book.list_objects(tx, "payment", merchant_id="mrc_a", after=page[-1]["id"])
        assert {row["external_id"] for row in [*page, *rest]} == {"p0", "p1", "p2"}
        assert len(book.list_objects(tx, "payment", merchant_id="mrc_a", status="succeeded", customer=None)) == 2
        assert book.list_objects(tx, "payment", merchant_id="mrc_b") == []
