"""A backlog that nobody may send now is in no claim's way."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from consumers.world import World

from billhook.rules.delivery import FRESH
from billhook.store.deliveries import deliveries
from services.courier.plain import LATE, LOOK_THROUGH_AGAIN, FastPath

URL = "https://merchant.test/hook"


def test_what_is_passed_over_is_looked_through_once_in_a_while(world: World) -> None:
    busy = world.endpoint(URL, "busy")
    world.endpoint(URL, "other")
    courier = world.courier()
    plain = FastPath(courier.steps, world.database, courier.limits, courier.steps.leases())

    def taken() -> list[str]:
        return [job.message.type for job in plain.claim(FRESH, None, 100).jobs]

    def say_other(ago: timedelta) -> None:
        """It has been due for so long, by the clock of whoever said it."""
        message = world.say("other")
        with world.database.begin() as tx:
            of_it = deliveries.c.message_id == message
            tx.execute(sa.update(deliveries).where(of_it).values(due_at=world.clock() - ago))

    world.say("busy")
    with courier.limits.lock:
        courier.limits.enter(busy, world.merchant_id, courier.limits.traffic(busy).most)
    assert taken() == []
    say_other(LATE / 2)  # whoever is a little late is found at once,
    assert taken() == ["other"]
    say_other(LATE * 2)  # and who is later than anybody can be, when all is looked through again
    assert taken() == []
    world.clock.move(seconds=LOOK_THROUGH_AGAIN.total_seconds())
    assert taken() == ["other"]
    with courier.limits.lock:
        courier.limits.enter(busy, world.merchant_id, -1)
    assert taken() == ["busy"]  # there is room for what was passed over
