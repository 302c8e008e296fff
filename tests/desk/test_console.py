"""The console's pages over HTTP: who gets in, what each shows, and what comes of hostile input."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, get_args

import pytest
from desk.console_visits import signed_in, visitor
from desk.world import NOW, OPERATOR, Desk, World, add_event, add_letter, open_case

from billhook.rules.dunning import CAUSES
from billhook.rules.dunning_calendar import StepKind
from billhook.rules.dunning_policy import FinalAction
from billhook.rules.payment_attempts import COUNTS
from billhook.rules.reconcile import FINDING_CLASSES
from billhook.store import operators, queue_pauses, work
from billhook.store.inbox import inbox
from billhook.store.mails import list_mails
from billhook.store.merchants import create_key
from billhook.store.operator_actions import list_actions
from billhook_testing.clock import ManualClock
from services.desk.console import case_words
from services.desk.console.app import PAGES
from services.desk.console.findings import WORDS

PLACES = (
    *("/", "/events", "/invoices", "/deliveries", "/endpoints", "/dunning", "/findings", "/dead-letters"),
    *("/queues", "/merchants", "/audit", "/you", "/overview/live"),
)


def routes(method: str) -> set[str]:
    return {route.path for part in PAGES for route in part.router.routes if method in route.methods}


def test_who_is_not_signed_in_sees_nothing_and_comes_back_to_where_they_wanted(desk: Desk, world: World) -> None:
    stranger = visitor(desk)
    ids = {**world.ours.ids, "letter_id": world.ours.ids["dead_letter_id"], "document_id": "doc_" + "0" * 32}
    ids |= {"case_id": "case_" + "0" * 32, "finding_id": "fnd_" + "0" * 32, "queue": "inbox"}
    for path in sorted(routes("GET")):
        if path.startswith(("/sign-in", "/m/")):
            continue
        answer = stranger.session.get(desk.address + path.format(**ids), allow_redirects=False, timeout=30)
        assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/sign-in"), path
    assert 'name="next" value="/events?state=dead&amp;type=a%2Fb"' in stranger.get("/events?state=dead&type=a%2Fb").text
    # A session that ends while a page asks for its part again leads back to the page.
    asks = {"HX-Request": "true", "HX-Current-URL": f"{desk.address}/?x=1"}
    answer = stranger.session.get(f"{desk.address}/overview/live", headers=asks, timeout=30)
    assert (answer.status_code, answer.headers["hx-redirect"]) == (204, "/sign-in?next=/%3Fx%3D1")
    answer = stranger.get("/events")
    assert 'name="next" value="/events"' in answer.text
    answer = stranger.session.post(f"{desk.address}/sign-in/key", data={"key": OPERATOR, "next": "/events"}, timeout=30)
    assert answer.url == f"{desk.address}/events"
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(answer.history[0].headers["set-cookie"].split("; "))
    mailed = {"Sec-Fetch-Site": "cross-site"}
    answer = stranger.session.get(f"{desk.address}/events", headers=mailed, timeout=30)
    assert answer.status_code == 200, "a link may stand in a mail"
    for foreign in ("//evil.example", "/\\evil.example", "https://evil.example"):
        given = {"key": OPERATOR, "next": foreign}
        answer = stranger.session.post(f"{desk.address}/sign-in/key", data=given, allow_redirects=False, timeout=30)
        assert answer.headers["location"] == "/"


def test_every_page_shows_what_there_is_and_every_link_on_it_leads_somewhere(desk: Desk, world: World) -> None:
    case = open_case(desk.env, world.ours, invoice_id=world.ours.ids["invoice_id"])
    somebody = signed_in(desk)
    ours = world.ours.ids
    pages = {
        **dict.fromkeys(PLACES, ""),
        f"/events/{ours['event_id']}": "It came in",
        f"/deliveries/{ours['delivery_id']}": "answered 500",
        f"/endpoints/{ours['endpoint_id']}": "https://example.com/hook",
        f"/invoices/{ours['invoice_id']}": "€10.00",
        f"/dead-letters/{ours['dead_letter_id']}": "cannot be understood",
        f"/merchants/{world.ours.merchant_id}": "Ours",
        f"/dunning/{case}": "Calendar",
        f"/find?q={ours['event_id']}": "It came in",
        "/find?q=nobody": "Nothing is called",
    }
    seen: set[str] = set()
    for path, words in pages.items():
        answer = somebody.get(path)
        assert answer.status_code == 200, (path, answer.text[:500])
        assert words in answer.text, path
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert " style=" not in answer.text
        assert " onclick=" not in answer.text
        seen |= somebody.links(answer.text)
    for link in sorted(seen - set(pages)):
        assert somebody.get(link).status_code == 200, link
    # Amounts are money everywhere, and never the minor units.
    assert "1000" not in re.sub(r"<[^>]*>", " ", somebody.get(f"/invoices/{ours['invoice_id']}").text)


def test_what_a_sender_wrote_is_text(desk: Desk, world: World) -> None:
    hostile = "<img src=x onerror=alert(1)>\"'`{{7*7}}"
    body = ('{"type":"invoice.paid","note":"</pre><script>alert(1)</script>' + "x" * 400_000 + '"}').encode()
    merchant, source = world.ours.merchant_id, world.ours.ids["source_id"]
    event = add_event(desk.env, merchant, source, hostile, body)
    binary = add_event(desk.env, merchant, source, "evt_binary", b"\xff\x00<script>")
    with desk.env.database.begin() as tx:
        work.give_up(tx, inbox, [(event, hostile)], NOW)
    somebody = signed_in(desk)
    for path in (
        f"/events/{event}",
        f"/events/{binary}",
        "/events",
        "/",
        f"/find?q={hostile}",
        f"/events?type={hostile}",
    ):
        answer = somebody.get(path)
        assert answer.status_code in (200, 422), path
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text
        assert "7*7" not in answer.text or "{{7*7}}" in answer.text
    page = somebody.get(f"/events/{event}")
    assert len(page.content) < 120_000, "the page of the largest event is bounded"
    assert "Only the beginning is shown" in page.text
    whole = somebody.get(f"/events/{event}/body")
    assert whole.content == body
    assert whole.headers["content-type"] == "application/octet-stream"
    assert whole.headers["content-disposition"].startswith("attachment")


HOSTILE = (
    *("/events/evt_1", "/events/..%2f..%2fetc", "/invoices/inv_x", "/events?source='%20or%201=1", "/events?since=x"),
    *("/invoices?before=1.2", "/dead-letters?queue=none", "/dunning?stage=x", "/queues/inbox", "/nothing", "/m/forged"),
    *("/documents/doc_00000000000000000000000000000000.pdf", "/console/../app.py", "/sign-in/link/forged"),
)


def test_hostile_paths_are_refused_in_a_sentence(desk: Desk) -> None:
    somebody = signed_in(desk)
    for path in HOSTILE:
        answer = somebody.get(path)
        assert answer.status_code in (404, 405, 422), path
        assert "Traceback" not in answer.text


def test_a_fault_of_ours_is_a_page_that_tells_nothing_of_the_inside(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebody = signed_in(desk)

    def broken(*_: Any) -> None:
        raise RuntimeError("of the inside")

    monkeypatch.setattr("services.desk.console.queues.queues_shown", broken)
    answer = somebody.get("/queues")
    assert answer.status_code == 500
    assert "That did not work" in answer.text
    assert "of the inside" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_forms_need_a_session_the_token_of_their_page_and_a_role(desk: Desk, world: World, clock: ManualClock) -> None:
    ids = {**world.ours.ids, "letter_id": world.ours.ids["dead_letter_id"], "queue": "inbox"}
    ids |= {"case_id": open_case(desk.env, world.ours), "finding_id": "fnd_" + "0" * 32}
    verbs = {path for path in routes("POST") if not path.startswith(("/sign-", "/m/"))}
    ids |= {"passkey_id": "passkey_" + "0" * 32}
    somebody, stranger = signed_in(desk), visitor(desk)
    with desk.env.database.begin() as tx:
        watcher = operators.add_operator(tx, "w@example.com", "Watcher", "view", NOW, by="test")
        assert watcher is not None
        token = operators.begin_session(tx, "w@example.com", "view", clock(), operator_id=watcher.id)
    only_looks = visitor(desk)
    only_looks.session.cookies.set(desk.cookie("billhook_session"), token)
    before = _state(desk)
    for path in sorted(verbs):
        path = path.format(**ids)
        assert stranger.post(path, csrf="x").url.startswith(f"{desk.address}/sign-in")
        for forged in ("", "x", "0" * 40):
            assert somebody.post(path, csrf=forged).status_code == 403, path
        foreign = {"Origin": "https://evil.example"}
        data = {"csrf": somebody.csrf, "reason": "why"}
        assert somebody.session.post(desk.address + path, data=data, headers=foreign, timeout=30).status_code == 403
        if not path.startswith("/you/"):  # what is one's own, everybody may
            assert only_looks.post(path, csrf=only_looks.csrf or _csrf_of(token), reason="why").status_code == 403, path
    assert _state(desk) == before, "nothing of it changed anything"
    with desk.env.database.begin() as tx:
        operators.change_operator(tx, watcher.id, disabled_at=clock())
    assert only_looks.get("/").url.startswith(f"{desk.address}/sign-in")


def _csrf_of(token: str) -> str:
    from services.desk.console.session import csrf_of

    return csrf_of(token)


def _state(desk: Desk) -> Any:
    with desk.env.database.read() as tx:
        return [tx.execute(inbox.select()).all(), queue_pauses.paused(tx), len(list_actions(tx))]


def test_each_verb_leaves_a_name_in_the_audit_log(desk: Desk, world: World) -> None:
    somebody, ours = signed_in(desk), world.ours.ids
    done = {
        f"/events/{ours['event_id']}/replay": {},
        f"/endpoints/{ours['endpoint_id']}/test": {},
        f"/endpoints/{ours['endpoint_id']}/disable": {"reason": "it is being moved"},
        f"/endpoints/{ours['endpoint_id']}/enable": {"replay_held": "yes"},
        f"/deliveries/{ours['delivery_id']}/replay": {},
        f"/dead-letters/{ours['dead_letter_id']}/discard": {"reason": "the sender was mistaken"},
        f"/dunning/{open_case(desk.env, world.ours)}/grace": {"days": "3"},
        f"/dunning/{open_case(desk.env, world.ours)}/stop": {"reason": "they called"},
        "/queues/mails/pause": {"reason": "the mail server is down"},
        "/queues/mails/resume": {},
        f"/merchants/{world.ours.merchant_id}/view": {},
        "/dead-letters/many": {"verb": "replay", "sure": "yes", "letter": world.theirs.ids["dead_letter_id"]},
    }
    for path, fields in done.items():
        answer = somebody.post(path, **fields)
        assert answer.status_code == 200, (path, answer.text[-800:])
    with desk.env.database.read() as tx:
        noted = list_actions(tx, limit=100)
    assert [row["action"] for row in reversed(noted)][1:] == [
        *("event.replay", "endpoint.test", "endpoint.disable", "endpoint.enable", "delivery.replay"),
        *("dead_letter.discard", "dunning_case.grace", "dunning_case.stop", "queue.pause", "queue.resume"),
        *("merchant_view.open", "dead_letters.replay"),
    ]
    assert {row["by"] for row in noted} == {"operator"}
    assert "the sender was mistaken" in somebody.get("/audit").text
    # What is over cannot be done again, and what needs a reason is not done without one.
    assert somebody.post(f"/dead-letters/{ours['dead_letter_id']}/replay").status_code == 409
    assert somebody.post(f"/endpoints/{ours['endpoint_id']}/disable").status_code == 422


def test_many_letters_are_shown_before_they_are_replayed(desk: Desk, world: World) -> None:
    somebody, letter = signed_in(desk), world.ours.ids["dead_letter_id"]
    shown = somebody.post("/dead-letters/many", verb="replay", queue="inbox", holds="UNDERSTOOD")
    assert "Replay 2 dead letters?" in shown.text
    assert "no such" not in shown.text
    assert "Replay 0 dead letters?" in somebody.post("/dead-letters/many", verb="replay", holds="100%").text
    assert "Discard 1 dead letter?" in somebody.post("/dead-letters/many", verb="discard", letter=letter).text
    with desk.env.database.read() as tx:
        assert tx.execute(inbox.select().where(inbox.c.state == "dead")).first() is not None
    late = add_letter(desk.env, world.ours.merchant_id, world.ours.ids["source_id"], "evt_late")
    assert somebody.post("/dead-letters/many", verb="replay", sure="yes", queue="inbox").status_code == 422
    meant = re.findall(r'name="letter" value="(dlq_[0-9a-f]+)"', shown.text)
    assert "2 are done again" in somebody.post("/dead-letters/many", verb="replay", sure="yes", letter=meant).text
    assert late in somebody.get("/dead-letters").text, "nobody was shown that one"


def test_a_mailed_code_signs_in_once_and_bears_five_guesses(desk: Desk, world: World, clock: ManualClock) -> None:
    with desk.env.database.begin() as tx:
        operators.add_operator(tx, "Ada@example.com", "Ada", "operate", NOW, by="test")
    ada, other = visitor(desk), visitor(desk)
    asked = [
        somebody.post("/sign-in/code", email=email)
        for somebody, email in ((ada, "ADA@example.com"), (other, "no@example.com"))
    ]
    assert asked[0].text.replace("ada@", "no@") == asked[1].text, "nobody learns who is an operator"
    with desk.env.database.read() as tx:
        [mail] = list_mails(tx, merchant_id=None)
    assert mail["recipient"] == "ada@example.com"
    code = re.search(r"\d{6}", mail["body"])
    assert code is not None
    wrong = f"{(int(code[0]) + 1) % 10**6:06d}"
    assert other.post("/sign-in/answer", code=code[0]).status_code == 403, "in another browser it is nothing"
    for _ in range(4):
        assert ada.post("/sign-in/answer", code=wrong).status_code == 403
    answer = ada.post("/sign-in/answer", code=code[0], email="ada@example.com", next="/queues")
    assert answer.url == f"{desk.address}/queues"
    assert "look and mend" in answer.text
    assert ada.post("/queues/inbox/pause", reason="why").status_code == 403, "that is for admins"
    assert ada.session.post(f"{desk.address}/sign-out", timeout=30).url == f"{desk.address}/sign-in"
    again = visitor(desk)
    again.post("/sign-in/code", email="ada@example.com")
    for _ in range(5):
        again.post("/sign-in/answer", code="000000")
    with desk.env.database.read() as tx:
        newest = re.search(r"\d{6}", list_mails(tx, merchant_id=None)[0]["body"])
    assert newest is not None
    assert again.post("/sign-in/answer", code=newest[0]).status_code == 403, "after five guesses none is taken"
    for _ in range(5):
        again.post("/sign-in/code", email="ada@example.com")
    with desk.env.database.read() as tx:
        assert len(list_mails(tx, merchant_id=None)) == 3, "so many codes are good at a time"
    clock.move(hours=1)
    again.post("/sign-in/code", email="ada@example.com")
    with desk.env.database.read() as tx:
        assert len(list_mails(tx, merchant_id=None)) == 4


def test_two_desks_on_one_host_keep_their_own_people(desk: Desk) -> None:
    """Browsers keep one jar for all ports. The other desk is this one, under another port."""
    somebody, there = signed_in(desk), {"Host": "127.0.0.1:9"}
    data = {"key": OPERATOR}
    somebody.session.post(f"{desk.address}/sign-in/key", data=data, headers=there, allow_redirects=False)
    assert {desk.cookie("billhook_session"), "billhook_session_9"} <= set(somebody.session.cookies.keys())
    page = somebody.session.get(f"{desk.address}/audit", headers=there).text
    out = {"csrf": page.partition('name="csrf" value="')[2].partition('"')[0]}
    somebody.session.post(f"{desk.address}/sign-out", data=out, headers=there, allow_redirects=False)
    assert "billhook_session_9" not in somebody.session.cookies
    answer = somebody.get("/queues")
    assert answer.url == f"{desk.address}/queues", "still signed in here"
    assert "You are signed out" not in answer.text


def test_a_link_signs_in_once_and_looking_at_it_spends_nothing(desk: Desk, clock: ManualClock) -> None:
    with desk.env.database.begin() as tx:
        token = operators.add_sign_in_link(tx, "this machine", clock(), timedelta(hours=1))
    somebody = visitor(desk)
    for _ in range(3):
        assert "Sign in to the console" in somebody.get(f"/sign-in/link/{token}").text
    assert "Sign out" in somebody.post(f"/sign-in/link/{token}").text
    assert "this machine" in somebody.get("/audit").text
    assert visitor(desk).post(f"/sign-in/link/{token}").status_code == 404
    clock.move(hours=13)
    assert somebody.get("/").url.startswith(f"{desk.address}/sign-in"), "a session has an end"


def test_only_an_operators_key_signs_in_and_only_while_it_is_good(desk: Desk, world: World) -> None:
    with desk.env.database.begin() as tx:
        key_id, key = create_key(tx, None, "night shift", NOW)
    for wrong in (world.ours.key, "bh_nonsense", ""):
        answer = visitor(desk).session.post(f"{desk.address}/sign-in/key", data={"key": wrong}, timeout=30)
        assert answer.status_code == 403
    somebody = visitor(desk)
    assert "key night shift" in somebody.session.post(f"{desk.address}/sign-in/key", data={"key": key}, timeout=30).text
    assert desk.ask("DELETE", f"/v1/keys/{key_id}").status_code in (204, 404)
    from billhook.store.merchants import revoke_key

    with desk.env.database.begin() as tx:
        revoke_key(tx, key_id, NOW)
    assert somebody.get("/").url.startswith(f"{desk.address}/sign-in")


def test_events_are_found_by_what_they_are(desk: Desk, world: World) -> None:
    somebody, ours = signed_in(desk), world.ours.ids
    for number in range(60):
        add_event(desk.env, world.ours.merchant_id, ours["source_id"], f"evt_more_{number:02}")
    first = somebody.get("/events").text
    assert first.count("evt_more_") == 50
    link = re.search(r'hx-get="(/events\?[^"]*)"', first)
    assert link is not None
    rest = somebody.session.get(desk.address + link[1], headers={"HX-Request": "true"}, timeout=30).text
    assert rest.count("evt_more_") == 10
    assert "<html" not in rest
    assert somebody.get("/events", id="evt_more_07").url.startswith(f"{desk.address}/events/evt_")
    assert somebody.get("/events", state="dead").text.count("evt_2") == 2
    assert somebody.get("/events", state="dead", merchant=world.theirs.merchant_id).text.count("evt_2") == 1
    assert "No event is like that" in somebody.get("/events", type="nothing.like.it").text
    assert "No event is like that" in somebody.get("/events", since="2199-01-01T00:00").text


def test_whatever_differs_or_happens_has_words() -> None:
    assert WORDS.keys() == set(FINDING_CLASSES)
    assert case_words.CAUSES.keys() == set(CAUSES)
    assert case_words.TRIGGERS.keys() == COUNTS.keys()
    assert case_words.COMING.keys() == set(get_args(StepKind))
    assert case_words.ENDS.keys() == set(get_args(FinalAction))
    assert case_words.said_of("attempt_operator") == "tried to collect, by an operator"


def test_a_paused_queue_gives_out_nothing(desk: Desk, world: World) -> None:
    somebody, env = signed_in(desk), desk.env
    somebody.post("/queues/inbox/pause", reason="a bad release")

    def taken() -> int:
        with env.database.begin() as tx:
            claim = work.claim(tx, inbox, ids=None, limit=10, max_attempts=5, now=NOW, lease=timedelta(seconds=5))
            return len(claim.rows)

    assert taken() == 0
    assert "a bad release" in somebody.get("/").text
    assert somebody.post("/queues/inbox/pause", reason="again").status_code == 409
    somebody.post("/queues/inbox/resume")
    assert taken() == 2
    assert somebody.post("/queues/nothing/pause", reason="x").status_code == 404
