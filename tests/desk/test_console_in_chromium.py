"""The console as an operator meets it: in a browser, by keyboard, on a phone, in the dark, through a screen reader."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from desk.browser import chromium
from desk.world import Desk, World, made, new_env, open_case, serving, settle
from playwright.sync_api import Browser, BrowserContext, Page, expect
from store.databases import lay_ledger

from billhook.store.operator_actions import list_actions
from billhook.store.operators import add_operator, add_sign_in_link, begin_session

__all__ = ["chromium"]

SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    var = tmp_path_factory.mktemp("var")
    lay_ledger(var / "billhook.db")
    env = new_env(f"sqlite:///{var / 'billhook.db'}", var)
    with serving(env) as found:
        yield found
    env.close()


@pytest.fixture(scope="module")
def world(desk: Desk) -> World:
    return World(settle(desk.env, "Ours"), settle(desk.env, "Theirs"))


WHOLE: dict[str, Any] = {"resultTypes": ["violations"]}
IN_THE_DARK: dict[str, Any] = {**WHOLE, "runOnly": ["color-contrast"]}
"""All else that axe looks for is the same in both."""


def sound(page: Page, *, dark: bool = True) -> None:
    """Nothing that axe calls serious, and nothing to the side, neither in the light nor in the dark."""
    for scheme, options in (("light", WHOLE), ("dark", IN_THE_DARK))[: 1 + dark]:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        found: dict[str, Any] = Axe().run(page, options=options).response
        serious = [(one["id"], one["nodes"][0]["html"]) for one in found["violations"] if one["impact"] in SERIOUS]
        assert serious == [], (page.url, scheme)
    width = page.viewport_size["width"] if page.viewport_size else 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width, page.url


def signed_in(desk: Desk, context: BrowserContext, said: list[str]) -> Page:
    with desk.env.database.begin() as tx:
        token = add_sign_in_link(tx, "ada", desk.env.clock(), timedelta(hours=1))
    page = context.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(f"{desk.address}/sign-in/link/{token}")
    page.keyboard.press("Enter")  # the button has the focus
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    return page


def test_an_operator_finds_what_failed_and_mends_it_by_keyboard(desk: Desk, world: World, chromium: Browser) -> None:
    said: list[str] = []
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, timezone_id="Asia/Tokyo", locale="en-GB")
    with context:
        page = signed_in(desk, context, said)
        page.keyboard.press("/")
        page.keyboard.type(world.ours.ids["event_id"])
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="It came in")).to_be_visible()
        # 09:00 in UTC is 18:00 for who looks from Tokyo.
        expect(page.locator("time").first).to_contain_text("18:00")
        page.goto(f"{desk.address}/events")
        page.get_by_label("From").fill("2026-01-05T17:00")
        page.get_by_role("button", name="Search").click()
        expect(page).to_have_url(f"{desk.address}/events?since=2026-01-05T08%3A00%3A00.000Z")
        expect(page.get_by_label("From")).to_have_value("2026-01-05T17:00")
        page.go_back()
        expect(page.get_by_label("Type")).to_be_enabled()
        page.goto(f"{desk.address}/dead-letters")
        page.get_by_label("Choose all that are shown").check()
        page.get_by_role("button", name="Replay…").press("Enter")
        expect(page.get_by_role("heading", name="Replay 2 dead letters?")).to_be_visible()
        page.get_by_role("button", name="Replay 2").press("Enter")
        expect(page.get_by_role("status")).to_contain_text("2 are done again")
        page.goto(f"{desk.address}/queues")
        row = page.get_by_role("row", name="mails")
        row.get_by_text("Pause…").click()
        row.get_by_label("Why").fill("the server is down")
        row.get_by_role("button", name="Pause").press("Enter")
        expect(page.get_by_role("row", name="mails")).to_contain_text("the server is down")
        page.goto(desk.address)
        expect(page.get_by_role("listitem").filter(has_text="mails is paused")).to_contain_text("18:00")
        with desk.env.database.read() as tx:
            done = [row["action"] for row in list_actions(tx, limit=2)]
    assert done == ["queue.pause", "dead_letters.replay"]
    assert said == [], "nothing was blocked, and nothing broke"


ASK_AGAIN = "htmx.ajax('GET', '/overview/live', {source: '#live', target: '#live', swap: 'innerHTML'})"
"""What the page does every five seconds."""


def test_live_figures_take_nothing_away_and_say_when_they_stand_still(
    desk: Desk, world: World, chromium: Browser
) -> None:
    with chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce") as context:
        page = signed_in(desk, context, [])
        live, still = page.locator("#live"), page.get_by_text("these figures stand still since")
        live.evaluate("live => { live.firstElementChild.id = 'before' }")
        page.get_by_role("link", name="all events").focus()
        page.evaluate(ASK_AGAIN)
        expect(page.get_by_role("link", name="all events")).to_be_focused()
        expect(live.locator("#before")).to_be_attached()
        page.locator("#find").focus()
        context.route("**/overview/live", lambda route: route.abort())
        page.evaluate(f"{ASK_AGAIN}.catch(() => 0)")
        expect(still).to_be_visible()
        context.unroute("**/overview/live")
        page.evaluate(ASK_AGAIN)
        expect(live.locator("#before")).not_to_be_attached()
        expect(still).to_be_hidden()


def test_every_page_is_sound_on_a_screen_and_on_a_phone(desk: Desk, world: World, chromium: Browser) -> None:
    ours = world.ours.ids
    case = open_case(desk.env, world.ours)
    view = made(desk.post(f"/v1/merchants/{world.ours.merchant_id}/views", {}, world.ours.key))
    merchants = view["url"].removeprefix(desk.env.settings.public)
    said: list[str] = []
    still = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    with still as context:
        page = signed_in(desk, context, said)
        for path in ("/", f"/events/{ours['event_id']}", "/dead-letters", "/queues", f"/dunning/{case}"):
            page.goto(desk.address + path)
            sound(page)
        page.set_viewport_size({"width": 390, "height": 800})
        for path in ("/", f"/events/{ours['event_id']}", "/invoices", f"/deliveries/{ours['delivery_id']}", merchants):
            page.goto(desk.address + path)
            sound(page, dark=path == merchants)  # the others' colours are those of the screen
        page.goto(f"{desk.address}{merchants}/deliveries/{ours['delivery_id']}")
        page.get_by_role("link", name="https://example.com/hook").click()
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Renew").click()
        expect(page.get_by_text("It is shown this once")).to_be_visible()
        page.context.clear_cookies()
        page.goto(desk.address + "/sign-in")
        sound(page)
    assert not [line for line in said if "Content Security Policy" in line]


def test_a_person_adds_a_passkey_and_comes_by_it(desk: Desk, world: World, chromium: Browser) -> None:
    """With an authenticator of Chromium's own, which asks nobody for a finger."""
    before, port = desk.env.settings, desk.address.rpartition(":")[2]
    address = f"http://localhost:{port}"
    desk.env.settings = replace(before, public_url=address)
    with desk.env.database.begin() as tx:
        operator = add_operator(tx, "ada@example.com", "Ada", "operate", desk.env.clock(), by="test")
        assert operator is not None
        token = begin_session(tx, operator.email, operator.role, desk.env.clock(), operator_id=operator.id)
    said: list[str] = []
    with chromium.new_context(viewport={"width": 390, "height": 800}, reduced_motion="reduce") as context:
        context.add_cookies([{"name": desk.cookie("billhook_session"), "value": token, "url": address}])
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        devtools = context.new_cdp_session(page)
        devtools.send("WebAuthn.enable")
        kind = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True}
        options = {**kind, "isUserVerified": True, "automaticPresenceSimulation": True}
        authenticator = devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"]
        page.goto(f"{address}/you")
        page.get_by_label("What you call it").fill("Laptop")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text("Laptop signs you in from now on")
        sound(page)
        page.get_by_label("What you call it").fill("Laptop again")
        page.get_by_role("button", name="Add a passkey").click()
        expect(page.get_by_role("alert")).to_contain_text("a passkey for you on this device already")
        context.clear_cookies()
        page.goto(f"{address}/queues")
        sound(page, dark=False)
        devtools.send("WebAuthn.setUserVerified", {"authenticatorId": authenticator, "isUserVerified": False})
        page.get_by_role("button", name="Sign in with a passkey").click()
        expect(page.get_by_role("alert")).to_contain_text("Nothing happened")
        devtools.send("WebAuthn.setUserVerified", {"authenticatorId": authenticator, "isUserVerified": True})
        page.get_by_role("button", name="Sign in with a passkey").press("Enter")
        expect(page.get_by_role("heading", name="Queues")).to_be_visible()
        page.goto(desk.address + "/sign-in")
        page.get_by_role("button", name="Sign in with a passkey").click()
        expect(page.get_by_role("alert")).to_contain_text(f"Passkeys work at {address}")
        # Without a script there is the code, and no button that does nothing.
        with chromium.new_context(java_script_enabled=False) as plain:
            page = plain.new_page()
            page.goto(f"{address}/sign-in")
            expect(page.get_by_role("button", name="Send me a code")).to_be_visible()
            expect(page.get_by_role("button", name="Sign in with a passkey")).to_be_hidden()
    desk.env.settings = before
    assert said == [], "nothing was blocked, and nothing broke"
