"""ARCHITECTURE.md walks an event, and an invoice of our own, through the files: the code goes that way."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from actions.office import Office
from consumers.lifecycle import BEGAN, customer, event, invoice
from consumers.receiver import receiver
from consumers.world import World
from ingress.asgi import running
from ingress.sender import Door

from billhook.actions import invoices
from billhook.runtime.env import Env
from billhook.runtime.service import Health
from billhook.runtime.settings import Settings
from billhook.store.database import Database
from services.ingress.app import build

ROOT = Path(__file__).parents[2]
SECTIONS = ("One event through the files", "One own invoice through the files")
_NAMED = re.compile(r"`([\w/]+\.py):\s+(\w+(?:\.\w+)?)`")

ELSEWHERE = {
    "Listener": "a thread",
    "BatchConsumer": "a thread",
    "Dispatcher": "threads; here its steps are done one after another",
    "FastPath": "the dispatcher's",
    "Returned": "the dispatcher's",
    "Rendering": "draws",
    "shown": "draws",
    "choose": "draws",
    "put_all": "draws",
    "mails_for": "draws",
    "Calendar": "of a failed payment",
    "Cases": "of a failed payment",
    "Attempts": "of a failed payment",
    "PaymentsApi": "of a failed payment",
    "own_invoices.py: finalize": "the desk's route",
    "send": "of an invoice that is sent",
    "PublishRoute": "of what merchants publish",
    "publish": "of what merchants publish",
    "Sweeper": "a thread",
}
"""What the walk names beside the way that is gone here."""

Entered = set[tuple[str, str]]


@contextmanager
def watched() -> Iterator[Entered]:
    """The functions that are entered meanwhile, in any thread that starts meanwhile: by file, as `Class.method`."""
    entered: Entered = set()
    over = threading.Event()

    def look(frame: FrameType, what: str, _: Any) -> None:
        if what == "call" and not over.is_set():
            entered.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    before = sys.getprofile()
    threading.setprofile(look)
    sys.setprofile(look)
    try:
        yield entered
    finally:
        over.set()  # threads that go on after this keep the function
        sys.setprofile(before)
        threading.setprofile(None)


def named() -> list[tuple[str, str]]:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    walks = [text.partition(f"\n## {title}\n")[2].partition("\n## ")[0] for title in SECTIONS]
    return [found for walk in walks for found in _NAMED.findall(walk)]


@pytest.mark.parametrize("migrated", ["sqlite"], indirect=True)
def test_the_walks_are_the_way_that_the_code_goes(database: Database, tmp_path: Path) -> None:
    url = database.url.render_as_string(hide_password=False)
    env = Env(Settings(var=tmp_path, database_url=url, queue_url="redis://127.0.0.1:1/0"))
    world = World.begin(database)
    vars(env)["vault"] = world.vault
    office = Office.open(database)
    draft = office.draft()
    with receiver() as endpoint, watched() as entered:
        world.endpoint(endpoint.url)
        with running(build(env, Health())) as client:
            door = Door(client, env, world.merchant_id, world.stripe_source, world.own_source)
            for told in (
                event(1, "customer.created", customer(), BEGAN),
                event(2, "invoice.paid", invoice("in_1", "paid", paid=1190), BEGAN + 1),
            ):
                assert door.stripe(json.dumps({**told, "livemode": True}).encode()).status == 200
        world.clock.at = env.clock()
        world.post()
        world.deliver()
        office.do(invoices.finalize, draft.invoice.id)
    env.close()
    assert len(endpoint.received) > 1
    names = named()
    assert len(names) > 20
    missed = {
        name if name != "finalize" else f"{path.rpartition('/')[2]}: {name}"
        for path, name in names
        if not any(file.endswith(f"/{path}") and f"{whole}.".startswith(f"{name}.") for file, whole in entered)
    }
    assert missed == ELSEWHERE.keys()
