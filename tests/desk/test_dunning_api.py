"""Dunning at the desk: policies, cases, and the standing that products ask for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from desk.world import NOW, Desk, World, open_case, refused
from store.dunning import new_attempt

from billhook.actions.sources import register_source
from billhook.providers.stripe_collecting import StripeCollecting
from billhook.store.dunning_cases import cases_by_id
from billhook.store.merchants import create_key, revoke_key
from billhook.store.payment_attempts import add_attempt, payment_attempts
from billhook_testing.fake_stripe import FakeStripe
from billhook_testing.fake_stripe.world import Policy as AccountPolicy

STRICT = {"attempts": [1, 3], "end_day": 3, "grace_days": 2}


@pytest.fixture
def fake() -> Iterator[FakeStripe]:
    with FakeStripe(policy=AccountPolicy(retry_days=())) as running:
        yield running


def connect(desk: Desk, world: World, fake: FakeStripe, api_key: str | None = None) -> None:
    with desk.env.database.begin() as tx:
        register_source(
            tx,
            desk.env.vault,
            desk.env.clock(),
            merchant_id=world.ours.merchant_id,
            provider="stripe",
            name="Stripe",
            secret="whsec_1",
            api_key=api_key or fake.api_key,
            api_base=fake.url,
        )


def test_a_policy_is_set_by_its_merchant_in_versions(desk: Desk, world: World) -> None:
    path, key = f"/v1/merchants/{world.ours.merchant_id}/dunning", world.ours.key
    first = desk.ask("PUT", path, key, json={"name": "ours"}).json()
    second = desk.ask("PUT", path, key, json={"name": "ours, again"}).json()
    assert (first["version"], second["version"]) == (1, 2)
    narrow = desk.ask("PUT", path, key, json={}, params={"scope_kind": "price", "scope": "price_1"})
    assert narrow.json()["scope"] == "price_1"
    assert [policy["id"] for policy in desk.get(path, key=key).json()] == [second["id"], narrow.json()["id"]]
    assert desk.ask("DELETE", path, key).status_code == 204
    assert [policy["id"] for policy in desk.get(path, key=key).json()] == [narrow.json()["id"]]
    assert set(desk.get("/v1/dunning/presets", key=key).json()) >= {"polar", "kill-bill"}


def test_a_policy_that_cannot_be_is_refused_with_the_reason(desk: Desk, world: World) -> None:
    path, key = f"/v1/merchants/{world.ours.merchant_id}/dunning", world.ours.key
    for body, said in (
        ({"attempts": [3, 2], "owner": "provider"}, "go up"),
        ({"zone": "Mars/Olympus"}, "IANA"),
        ({"grace_days": 40}, "grace_days"),
    ):
        refused(desk.ask("PUT", path, key, json=body), 422, "policy_invalid", said)
    assert desk.ask("PUT", path, key, json={"attempts": [-1.5]}).status_code == 422
    refused(desk.ask("PUT", path, key, json={}, params={"scope_kind": "price"}), 422, "scope_invalid", "price")
    refused(
        desk.ask("PUT", path, key, json={}, params={"source_id": world.theirs.ids["source_id"]}), 422, "source_invalid"
    )


def test_the_switch_to_billhook_looks_whether_it_may(desk: Desk, world: World, fake: FakeStripe) -> None:
    path, key = f"/v1/merchants/{world.ours.merchant_id}/dunning", world.ours.key
    refused(desk.ask("PUT", path, key, json=STRICT), 409, "dunning_source", "API key")
    for impossible in ("cancel_subscription", "pause_collection"):
        refused(desk.ask("PUT", path, key, json={"final_action": impossible}), 409, "dunning_source", "end no subs")
    connect(desk, world, fake)
    assert desk.ask("PUT", path, key, json=STRICT).status_code == 200

    fake.retry_by_itself([3])
    v1 = fake.client().v1
    customer = v1.customers.create({"name": "Ada"})
    v1.invoice_items.create({"customer": customer.id, "currency": "usd", "amount": 500})
    draft = v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
    v1.invoices.finalize_invoice(str(draft.id), {"auto_advance": True})
    refused(desk.ask("PUT", path, key, json=STRICT), 409, "dunning_owner", str(draft.id))
    v1.invoice_items.create({"customer": customer.id, "currency": "usd", "amount": 500})
    newer = v1.invoices.create({"customer": customer.id, "pending_invoice_items_behavior": "include"})
    v1.invoices.finalize_invoice(str(newer.id), {"auto_advance": False})
    api = StripeCollecting(fake.api_key, base_url=fake.url, page_size=1)
    assert api.retrying_invoice(account="") == draft.id  # it is on the second page
    api.close()
    assert desk.ask("PUT", path, key, json={"owner": "provider"}).status_code == 200

    fake.faults.api("rate_limit", probability=1.0)
    refused(desk.ask("PUT", path, key, json=STRICT), 409, "dunning_unanswered", "did not answer")


def test_a_key_that_may_not_write_is_found_at_the_switch(desk: Desk, world: World, fake: FakeStripe) -> None:
    connect(desk, world, fake, api_key="sk_test_other")
    path = f"/v1/merchants/{world.ours.merchant_id}/dunning"
    refused(desk.ask("PUT", path, world.ours.key, json=STRICT), 409, "dunning_key", "Invalid API Key")


def test_a_case_is_shown_with_its_calendar_and_who_did_what(desk: Desk, world: World) -> None:
    key, case_id = world.ours.key, open_case(desk.env, world.ours)
    path = f"/v1/dunning/cases/{case_id}"
    shown = desk.get(path, key=key).json()
    assert [step["what"] for step in shown["coming"]][:2] == ["attempt", "attempt"]
    longer = desk.post(f"{path}/grace", {"days": 5}, key=key).json()
    assert longer["grace_until"] > shown["grace_until"]
    tried = desk.post(f"{path}/attempt", key=key).json()
    assert [(one["trigger"], one["status"]) for one in tried["attempts"]] == [("operator", "created")]
    refused(desk.post(f"{path}/attempt", key=key), 409, "dunning_state", "under way")
    other = desk.ask("PUT", f"{path}/plan", key, json={"name": "mild"}).json()
    assert other["policy"]["scope_kind"] == "case"
    stopped = desk.post(f"{path}/stop", {"reason": "they called"}, key=key).json()
    assert (stopped["stage"], stopped["cause"], stopped["coming"]) == ("canceled", "stopped", [])
    by = {step["cause"]: step["by"] for step in stopped["steps"]}
    assert by == dict.fromkeys(
        ("grace_extended", "attempt_operator", "plan_changed", "stopped"), world.ours.ids["own_key_id"]
    )
    refused(desk.post(f"{path}/stop", {"reason": "again"}, key=key), 409, "dunning_state", "closed")
    (listed,) = desk.get("/v1/dunning/cases", key=key, stage="canceled").json()["data"]
    assert listed["id"] == case_id
    refused(desk.get("/v1/dunning/cases", key=key, stage="odd"), 422, "stage_unknown")


def test_a_product_asks_for_the_standing_with_the_tag_of_before(desk: Desk, world: World) -> None:
    key = world.ours.key
    path = f"/v1/customers/{world.ours.ids['customer_id']}/standing"
    active = desk.get(path, key=key)
    assert active.json()["state"] == "active"
    again = desk.ask("GET", path, key, {"If-None-Match": active.headers["ETag"]})
    assert (again.status_code, again.text) == (304, "")

    open_case(desk.env, world.ours, customer_id=world.ours.ids["customer_id"])
    grace = desk.ask("GET", path, key, {"If-None-Match": active.headers["ETag"]})
    assert grace.status_code == 200
    assert grace.json()["state"] == "grace"
    assert grace.json()["until"].startswith(f"{NOW + timedelta(days=7):%Y-%m-%d}")
    by_provider = desk.get("/v1/customers/cus_1/standing", key=key, source_id=world.ours.ids["source_id"])
    assert by_provider.json() == grace.json()
    # What is not plain is answered by the API behind, and alike.
    behind = desk.get(path, key=key, account="")
    assert (behind.json(), behind.headers["ETag"]) == (grace.json(), grace.headers["ETag"])
    # Whoever asks may keep it, and asks again with the tag.
    assert {one.headers["Cache-Control"] for one in (grace, again, behind)} == {"private, no-cache"}
    refused(desk.get("/v1/customers/cus_nobody/standing", key=key), 404, "not_found")


def test_a_key_that_was_revoked_learns_no_standing(desk: Desk, world: World) -> None:
    path = f"/v1/customers/{world.ours.ids['customer_id']}/standing"
    with desk.env.database.begin() as tx:
        key_id, key = create_key(tx, world.ours.merchant_id, "gone", NOW)
    assert [desk.get(path, key=key).status_code for _ in range(2)] == [200, 200]
    with desk.env.database.begin() as tx:
        revoke_key(tx, key_id, NOW)
    for _ in range(2):
        refused(desk.get(path, key=key), 401, "wrong_key")
    assert desk.get(path, key=world.ours.key).status_code == 200


def test_the_report_counts_what_came_and_what_was_lost(desk: Desk, world: World) -> None:
    key = world.ours.key
    case_id = open_case(desk.env, world.ours)
    with desk.env.database.begin() as tx:
        [case] = cases_by_id(tx, [case_id]).values()
        for number, status in ((1, "failed"), (2, "succeeded")):
            assert add_attempt(tx, new_attempt(case, number, status=status))
        tx.execute(sa.update(payment_attempts).values(state="done"))
        assert add_attempt(tx, new_attempt(case, 3, created_at=NOW - timedelta(seconds=90)))
    for stage, code, number in (
        ("recovered", "insufficient_funds", 2),
        ("exhausted", "insufficient_funds", None),
        ("recovered", None, None),
    ):
        open_case(desk.env, world.ours, stage=stage, decline_code=code, recovered_attempt=number, closed_at=NOW)
    report = desk.get("/v1/dunning/report", key=key, until=f"{NOW + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}").json()
    assert report["money"] == [
        {"currency": "eur", "recovered": 2000, "recovered_cases": 2, "lost": 1000, "lost_cases": 1}
    ]
    assert report["by_decline_code"] == [
        {"of": "insufficient_funds", "tried": 2, "recovered": 1},
        {"of": "none", "tried": 1, "recovered": 1},
    ]
    assert report["by_attempt"] == [
        {"of": "1", "tried": 1, "recovered": 0},
        {"of": "2", "tried": 1, "recovered": 1},
    ]
    assert report["open_cases"] == {"grace": 1}
    assert report["oldest_due_attempt_seconds"] == 90
    assert desk.get("/v1/dunning/report", key=world.theirs.key).json()["money"] == []
