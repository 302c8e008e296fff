"""A merchant's own pages: entered by a link that the API made, and no row of anybody else's on them."""

from __future__ import annotations

import re
from typing import Any

import requests
from desk.console_visits import Visitor, visitor
from desk.world import Belongings, Desk, World, made, refused

from billhook.store.documents import list_documents
from billhook.store.endpoints import get_endpoint
from billhook.store.operator_actions import list_actions
from billhook_testing.clock import ManualClock


def link(desk: Desk, whose: Belongings, **asked: Any) -> str:
    """The path of a new one."""
    view = made(desk.post(f"/v1/merchants/{whose.merchant_id}/views", asked, whose.key))
    return str(view["url"]).removeprefix(desk.env.settings.public)


def paths(root: str, whose: Belongings, document: str) -> list[str]:
    ids = whose.ids
    return [
        f"{root}/deliveries/{ids['delivery_id']}",
        f"{root}/endpoints/{ids['endpoint_id']}",
        f"{root}/invoices/{ids['invoice_id']}",
        f"{root}/documents/{document}.pdf",
        f"{root}/documents/{document}/page",
    ]


def document_of(desk: Desk, whose: Belongings) -> str:
    with desk.env.database.read() as tx:
        return str(list_documents(tx, whose.ids["invoice_id"])[0]["id"])


def test_a_merchant_sees_their_own_and_nothing_else(desk: Desk, world: World) -> None:
    root, somebody = link(desk, world.ours), visitor(desk)
    theirs = [world.theirs.merchant_id, *world.theirs.ids.values()]
    pages = [root, f"{root}/deliveries", f"{root}/invoices", *paths(root, world.ours, document_of(desk, world.ours))]
    links: set[str] = set()
    for path in pages:
        answer = somebody.get(path)
        assert answer.status_code == 200, path
        assert not [one for one in theirs if len(one) > 20 and one in answer.text], path
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        links |= somebody.links(answer.text)
    assert all(path.startswith((root, "/console/")) for path in links), "and no link leads to the operators' pages"
    assert all(somebody.get(path).status_code == 200 for path in links)
    for path in paths(root, world.theirs, document_of(desk, world.theirs)):
        assert somebody.get(path).status_code == 404, path
    for path in (f"{root}/deliveries?endpoint={world.theirs.ids['endpoint_id']}", f"{root}/deliveries?merchant=x"):
        assert world.theirs.ids["delivery_id"] not in somebody.get(path).text
    for verb in ("test", "disable", "enable", "rotate"):
        path = f"{root}/endpoints/{world.theirs.ids['endpoint_id']}/{verb}"
        assert somebody.session.post(desk.address + path, timeout=30).status_code == 404
    again = f"{root}/deliveries/{world.theirs.ids['delivery_id']}/replay"
    assert somebody.session.post(desk.address + again, timeout=30).status_code == 404
    refused(desk.post(f"/v1/merchants/{world.theirs.merchant_id}/views", {}, world.ours.key), 404, "not_found")


def test_they_send_again_renew_secrets_and_stop_and_start(desk: Desk, world: World) -> None:
    root, somebody, ids = link(desk, world.ours), visitor(desk), world.ours.ids

    def post(path: str, **fields: str) -> requests.Response:
        return somebody.session.post(f"{desk.address}{root}{path}", data=fields, timeout=30)

    endpoint = f"/endpoints/{ids['endpoint_id']}"
    renewed = post(f"{endpoint}/rotate")
    secret = re.search(r"whsec_[A-Za-z0-9+/=]+", renewed.text)
    assert secret is not None
    assert "shown this once" in renewed.text
    assert secret[0] not in somebody.get(f"{root}{endpoint}").text
    assert "counts no longer" in post(f"{endpoint}/rotate", at_once="yes").text
    assert post(f"{endpoint}/test").url.startswith(f"{desk.address}{root}/deliveries/dlv_")
    assert "disabled by its merchant" in post(f"{endpoint}/disable").text
    assert post(f"/deliveries/{ids['delivery_id']}/replay").status_code == 422, "nothing is sent to it now"
    assert "enabled" in post(f"{endpoint}/enable", replay_held="yes").text
    assert "It is sent again" in post(f"/deliveries/{ids['delivery_id']}/replay").text
    with desk.env.database.read() as tx:
        actions = [row["action"] for row in list_actions(tx)]
        assert get_endpoint(tx, ids["endpoint_id"]) is not None
    assert actions[::-1] == [
        *("endpoint.rotate", "endpoint.rotate", "endpoint.test", "endpoint.disable", "endpoint.enable"),
        "delivery.replay",
    ]


def test_a_link_shows_for_its_time_may_only_show_and_can_be_taken_back(
    desk: Desk, world: World, clock: ManualClock
) -> None:
    somebody: Visitor = visitor(desk)
    shows = link(desk, world.ours, may_change=False, expires_in_minutes=5, embed_origins=["https://app.example"])
    answer = somebody.get(shows)
    assert "frame-ancestors 'self' https://app.example" in answer.headers["content-security-policy"]
    path = f"{desk.address}{shows}/endpoints/{world.ours.ids['endpoint_id']}/disable"
    assert somebody.session.post(path, timeout=30).status_code == 403
    clock.move(minutes=6)
    assert somebody.get(shows).status_code == 404
    view = made(desk.post(f"/v1/merchants/{world.ours.merchant_id}/views", {}, world.ours.key))
    here = view["url"].removeprefix(desk.env.settings.public)
    assert somebody.get(here).status_code == 200
    mine = f"/v1/merchants/{world.ours.merchant_id}/views/{view['id']}"
    assert desk.ask("DELETE", mine, world.ours.key).status_code == 204
    assert somebody.get(here).status_code == 404
    for origin in ("*", "http://app.example", "https://a.example/path", "https://a.example; script-src *"):
        body = {"embed_origins": [origin]}
        refused(desk.post(f"/v1/merchants/{world.ours.merchant_id}/views", body, world.ours.key), 422, "invalid")
