"""What a merchant may have, and how long a list and a request may be: one cannot take the desk from the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from desk.world import Desk, made, new_env, refused, serving

from billhook.actions.limits import check_room
from billhook.errors import Refused
from billhook.rules.limits import ROOM
from billhook.store.database import Database
from billhook.store.endpoints import create_endpoint
from billhook.store.limits import count_of
from billhook.store.merchants import create_key, create_merchant, revoke_key
from billhook.store.replays import create_replay
from billhook.store.sources import create_source, disable_source
from billhook.store.templates import create_template, retire_template
from services.desk.api import SUBJECTS
from services.desk.dependencies import LARGEST_PAGE, Body, page_of
from services.desk.lengthy import AT_ONCE, OF_ONE_MERCHANT, Lengthy, Turns

TERMS = {"currency": "eur", "buyer": {"name": "Ada"}, "lines": [{"description": "x", "unit_amount": "1"}]}


def test_each_thing_has_a_limit_that_is_shown_and_refused_with_a_sentence(database: Database, tmp_path: Path) -> None:
    one_of_each = {f"{what}_per_merchant": 1 for what in ROOM}
    env = new_env(database.url.render_as_string(hide_password=False), tmp_path, **one_of_each)
    now = env.clock()
    with env.database.begin() as tx:
        mine, other = create_merchant(tx, "a", now).id, create_merchant(tx, "b", now).id
        endpoint = create_endpoint(tx, mine, "https://a.test", ["*"], b"", now)
        source = create_source(tx, mine, "standard", "s", b"", now)
        template = create_template(tx, mine, "t", "x", now)
        create_replay(tx, mine, kind="replay", endpoint=endpoint, by="me", now=now)
        key_id, key = create_key(tx, mine, "k", now)
    with serving(env) as desk:
        made(desk.post("/v1/invoices", TERMS, key))
        limits = desk.get(f"/v1/merchants/{mine}/limits", key).json()
        assert limits == {what: {"used": 1, "limit": 1} for what in ROOM}
        for what, path, body in (
            ("endpoints", "/v1/endpoints", {"url": "https://example.com"}),
            ("sources", "/v1/sources", {"provider": "standard", "name": "x"}),
            ("templates", f"/v1/merchants/{mine}/templates", {"name": "x", "source": "x"}),
            ("drafts", "/v1/invoices", TERMS),
            ("replays", "/v1/replays", {"kind": "replay"}),
        ):
            refused(desk.post(path, body, key), 409, f"{what}_too_many", f"has 1 {what}", ROOM[what], what.upper())
        refused(desk.post(f"/v1/merchants/{mine}/keys", {"name": "x"}), 409, "keys_too_many")
        assert desk.post(f"/v1/merchants/{other}/keys", {"name": "x"}).status_code == 201, "another's are its own"
    with env.database.begin() as tx:
        disable_source(tx, source.id, now)
        retire_template(tx, template.id, now)
        revoke_key(tx, key_id, now)
        for what in ("sources", "templates", "keys"):
            assert count_of(tx, what, mine, now) == 0, "what is over makes room"
            check_room(env, tx, mine, what, env.clock())
        with pytest.raises(Refused, match="wait for one to end"):
            check_room(env, tx, mine, "replays", env.clock())
    env.close()


class Large(Body):
    text: str


def test_a_page_ends_where_it_becomes_too_large_and_goes_on_there() -> None:
    rows = ["x" * (LARGEST_PAGE // 3)] * 7
    first = page_of(list(enumerate(rows)), 6, lambda row: Large(text=row[1]), lambda row: str(row[0]))
    assert (len(first.data), first.next) == (3, "2")
    whole = page_of(list(enumerate(rows[:2])), 6, lambda row: Large(text=row[1]), lambda row: str(row[0]))
    assert (len(whole.data), whole.next) == (2, None)


def test_what_takes_long_leaves_threads_to_the_rest_and_turns_to_other_merchants() -> None:
    async def story() -> None:
        turns, over = Turns(), asyncio.Event()
        begun: list[str] = []

        async def work(whose: str) -> None:
            begun.append(whose)
            await over.wait()

        mine = [asyncio.create_task(turns.take("a", lambda: work("a"))) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert begun == ["a"] * OF_ONE_MERCHANT
        others = [asyncio.create_task(turns.take(str(n), lambda: work("other"))) for n in range(2 * AT_ONCE)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(begun) == AT_ONCE
        over.set()
        await asyncio.gather(*mine, *others)
        assert len(begun) == 20 + 2 * AT_ONCE
        assert not turns._of, "nothing is kept of those who are gone"

    asyncio.run(story())


def test_the_routes_that_may_take_long_are_of_that_kind() -> None:
    routes = [route for subject in SUBJECTS for route in subject.router.routes]
    long = {route.name for route in routes if isinstance(route, Lengthy)}
    assert long >= {"create_invoice", "preview", "change_draft", "create_template", "replay_many", "report"}
    assert long >= {route.name for route in routes if getattr(route, "path", "").startswith("/v1/exports")}


def test_they_answer_as_before(desk: Desk) -> None:
    assert desk.post("/v1/invoices/preview", TERMS).json()["total"] == 1
