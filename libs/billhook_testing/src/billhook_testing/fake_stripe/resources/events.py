"""The event log, newest first."""

from __future__ import annotations

from fnmatch import fnmatchcase

from billhook_testing.fake_stripe.params import Params
from billhook_testing.fake_stripe.routes import PAGING, Route, page, retrieve, within
from billhook_testing.fake_stripe.world import Json, World

PATH = "/v1/events"


def _list(world: World, params: Params, ids: dict[str, str]) -> Json:
    wanted = params.texts("types") or [params.text("type") or "*"]
    undelivered = None if "delivery_success" not in params else not params.flag("delivery_success")
    found = [
        event
        for event in reversed(world.all("event"))
        if any(fnmatchcase(event["type"], pattern) for pattern in wanted)
        and within(params, "created", event["created"])
        and (undelivered is None or (event["pending_webhooks"] > 0) == undelivered)
    ]
    return page(found, params, PATH)


ROUTES = [
    retrieve("event", PATH),
    Route("GET", PATH, _list, f"{PAGING} type types delivery_success"),
]
