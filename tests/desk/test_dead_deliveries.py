"""Dead deliveries of endpoints that nothing is sent to: replaying them is refused, and their letters stay open."""

from __future__ import annotations

import pytest
from desk.world import NOW, Belongings, Desk, World, made, refused

from billhook.store import work
from billhook.store.dead_letters import DeadLetter, bury, list_dead
from billhook.store.deliveries import NewDelivery, add_deliveries, deliveries


@pytest.fixture
def dead(desk: Desk, world: World) -> dict[str, str]:
    """The letters of two dead deliveries: one to the endpoint that will be stopped, one to another."""
    ours = world.ours
    other = made(desk.post("/v1/endpoints", {"url": "https://example.com/other"}, key=ours.key))["id"]
    with desk.env.database.begin() as tx:
        [well] = add_deliveries(tx, [NewDelivery(ours.merchant_id, ours.ids["message_id"], other)], NOW)
        both = (ours.ids["delivery_id"], well)
        work.give_up(tx, deliveries, [(one, "gave up") for one in both], NOW)
        bury(tx, "deliveries", [DeadLetter(ours.merchant_id, one, "gave up", 10) for one in both], NOW)
        letters = {letter["work_id"]: letter["id"] for letter in list_dead(tx, queue="deliveries")}
    return {"stopped": letters[ours.ids["delivery_id"]], "well": letters[well]}


def stop(desk: Desk, ours: Belongings, how: str) -> None:
    path = f"/v1/endpoints/{ours.ids['endpoint_id']}"
    if how == "disabled":
        desk.post(f"{path}/disable", {"reason": "moving house"}, key=ours.key)
    else:
        desk.ask("DELETE", path, ours.key)


@pytest.mark.parametrize("how", ["disabled", "deleted"])
def test_a_letter_of_an_endpoint_that_is_stopped_is_not_replayed(
    desk: Desk, world: World, dead: dict[str, str], how: str
) -> None:
    key = world.ours.key
    stop(desk, world.ours, how)
    path = f"/v1/dead-letters/{dead['stopped']}"
    refused(desk.post(f"{path}/replay", key=key), 409, f"endpoint_{how}", world.ours.ids["endpoint_id"])
    assert desk.get(path, key=key).json()["resolved_at"] is None
    assert desk.post(f"/v1/dead-letters/{dead['well']}/replay", key=key).json()["resolution"] == "replayed"
    if how == "disabled":
        desk.post(f"/v1/endpoints/{world.ours.ids['endpoint_id']}/enable", key=key)
        assert desk.post(f"{path}/replay", key=key).json()["resolution"] == "replayed"


@pytest.mark.parametrize("how", ["disabled", "deleted"])
def test_in_bulk_the_others_are_replayed_and_it_says_why_these_are_not(
    desk: Desk, world: World, dead: dict[str, str], how: str
) -> None:
    key = world.ours.key
    stop(desk, world.ours, how)
    done = desk.post("/v1/dead-letters/replay", {"queue": "deliveries", "limit": 1}, key=key).json()
    assert (done["replayed"], done["more"]) == (1, False)
    [why] = done["refused"]
    assert (why["endpoint_id"], why["letters"]) == (world.ours.ids["endpoint_id"], 1)
    assert how in why["reason"]
    [still_open] = desk.get("/v1/dead-letters", key=key, queue="deliveries").json()["data"]
    assert still_open["id"] == dead["stopped"]
