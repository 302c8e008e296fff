"""What the log says of an event: a line for each thing that became of it, under ids that lead from one to the next."""

from __future__ import annotations

import json
import logging

import pytest
import sqlalchemy as sa
from consumers.lifecycle import event, invoice
from consumers.world import SECRET, World
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from billhook.logs import JsonLines
from billhook.store.database import Database
from billhook_testing.proxy import proxy
from billhook_testing.servers import PostgresServer


def test_an_event_is_followed_from_its_row_to_its_delivery_without_what_it_says(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world.endpoint("https://nowhere.invalid/hook?secret=shibboleth", "invoice.paid")
    paid = invoice("in_1", "paid", paid=1190, customer_name="Ada Lovelace")
    event_id = world.arrive(world.stripe_source, event(1, "invoice.paid", paid, 1_772_366_400))
    broken = world.arrive(world.stripe_source, event(2, "invoice.paid", {"id": "in_9", "object": "invoice"}, 1))
    world.post()
    world.deliver()
    printed = [JsonLines("test").format(record) for record in caplog.records]
    lines = {line["event"]: line for line in map(json.loads, printed)}

    assert lines["processed"]["id"] == event_id
    assert lines["processed"]["facts"] == ["invoice.paid"]
    assert lines["dead"]["id"] == broken
    tried = lines["retry"]
    assert (tried["queue"], tried["event_id"], tried["outcome"]) == ("deliveries", event_id, "dns")
    assert tried["message_id"].startswith("msg_")
    assert tried["endpoint_id"].startswith("ep_")
    for secret in (SECRET, "shibboleth", "Ada Lovelace", "A-in_1"):
        assert not any(secret in line for line in printed)


def test_a_database_that_is_away_is_said_once_by_whoever_uses_it(
    postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    def ask(database: Database) -> None:
        with database.read() as tx:
            tx.execute(sa.select(1))

    with proxy(postgres.port) as way:
        database = Database(make_url(postgres.url).set(port=way.port).render_as_string(hide_password=False))
        ask(database)
        way.cut()
        for _ in range(3):
            with pytest.raises(DBAPIError):
                ask(database)
        way.open()
        ask(database)
        database.close()
    said = [record.getMessage() for record in caplog.records if record.name == "billhook.store.database"]
    assert said == ["the database is away", "the database is back"]
