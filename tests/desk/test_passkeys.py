"""Passkeys over HTTP: what a good one may do, and what comes of each way to forge one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import requests
from desk.console_visits import Visitor, signed_in, visitor
from desk.soft_passkey import PRESENT, SoftPasskey, bytes_of, text_of
from desk.world import NOW, Desk, serving

from billhook.store import operators, passkeys
from billhook.store.mails import list_mails
from billhook.store.operator_actions import list_actions
from billhook_testing.clock import ManualClock
from services.desk.console import ceremonies
from services.desk.console.ceremonies import NotProven, Party, party_of

WRONG = "That passkey is not known here"


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """At an address with a name, as browsers want it."""
    port = desk.address.rpartition(":")[2]
    desk.env.settings = replace(desk.env.settings, public_url=f"http://localhost:{port}")
    return desk


def soft(desk: Desk, **lies: Any) -> SoftPasskey:
    return SoftPasskey(desk.env.settings.public, "localhost", **lies)


def person(desk: Desk, email: str = "ada@example.com") -> Visitor:
    """Somebody who has just signed in by a code."""
    with desk.env.database.begin() as tx:
        operator = operators.add_operator(tx, email, "", "operate", NOW, by="test")
        assert operator is not None
        token = operators.begin_session(tx, email, "operate", desk.env.clock(), operator_id=operator.id)
    somebody = visitor(desk)
    somebody.session.cookies.set(desk.cookie("billhook_session"), token)
    return somebody


def asked(somebody: Visitor, path: str = "/you/passkeys/challenge") -> Any:
    answer = somebody.post(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def has_one(desk: Desk, somebody: Visitor, name: str = "Laptop", **lies: Any) -> SoftPasskey:
    passkey = soft(desk, **lies)
    answer = somebody.post("/you/passkeys", name=name, answer=passkey.made(asked(somebody)))
    assert f"{name} signs you in from now on" in answer.text, answer.text
    return passkey


def comes_by(desk: Desk, passkey: SoftPasskey, somebody: Visitor | None = None) -> requests.Response:
    somebody = somebody or visitor(desk)
    options = asked(somebody, "/sign-in/passkey/challenge")
    return somebody.post("/sign-in/passkey", csrf="", answer=passkey.shown(options), next="/queues")


def is_in(answer: requests.Response) -> bool:
    assert answer.status_code == 200 or WRONG in answer.text, answer.text
    return "Sign out" in answer.text


def deeds(desk: Desk) -> list[str]:
    with desk.env.database.read() as tx:
        return [row["action"] for row in reversed(list_actions(tx, limit=100))]


def test_a_person_adds_one_comes_by_it_and_takes_it_away(desk: Desk, clock: ManualClock) -> None:
    ada = person(desk)
    assert "None yet" in ada.get("/you").text
    laptop = has_one(desk, ada)
    assert asked(ada)["excludeCredentials"][0]["id"] == text_of(laptop.credential_id), "no second one in its place"
    laptop.count = 1
    answer = comes_by(desk, laptop)
    assert is_in(answer)
    assert answer.url == f"{desk.address}/queues"
    assert "look and mend" in answer.text
    page = ada.get("/you").text
    assert "Laptop" in page
    assert "never" not in page
    with desk.env.database.read() as tx:
        [mail] = list_mails(tx, merchant_id=None)
        [kept] = passkeys.passkeys_of(tx, laptop.user.decode())
    assert (mail["recipient"], "Laptop" in mail["body"]) == ("ada@example.com", True)
    assert WRONG not in ada.post(f"/you/passkeys/{kept.id}/remove").text
    laptop.count = 2
    assert not is_in(comes_by(desk, laptop))
    assert deeds(desk) == ["passkey.add", "sign_in", "passkey.remove"]
    clock.move(minutes=16)
    assert ada.post("/you/passkeys/challenge").status_code == 409, "a session that is older makes no way in"
    assert ada.post("/you/passkeys/challenge", csrf="x").status_code == 403


def test_only_the_very_passkey_signs_in_and_only_here(desk: Desk) -> None:
    """Each lie by itself; the truth, told last, gets in."""
    ada, eve = person(desk), person(desk, "eve@example.com")
    laptop = has_one(desk, ada)
    hers = has_one(desk, eve)
    lies = {
        "one that nobody knows": soft(desk),
        "another's key": replace(laptop, key=hers.key),
        "another's name": replace(laptop, user=hers.user),
        "at another page": replace(laptop, origin="https://localhost.evil.example"),
        "at the same name without its port": replace(laptop, origin="http://localhost"),
        "for another party": replace(laptop, rp_id="evil.example"),
        "in another page's frame": replace(laptop, framed=True),
        "nobody was there": replace(laptop, flags=0),
        "nobody proved who they are": replace(laptop, flags=PRESENT),
    }
    refused = {lie: comes_by(desk, passkey) for lie, passkey in lies.items()}
    for lie, answer in refused.items():
        assert answer.status_code == 403, lie
        assert not is_in(answer), lie
        assert answer.text == refused["one that nobody knows"].text, "and nobody learns which"
    assert is_in(comes_by(desk, laptop))


def test_a_challenge_is_answered_once_in_time_and_where_it_was_given(desk: Desk, clock: ManualClock) -> None:
    ada = person(desk)
    laptop = has_one(desk, ada)
    first, second = visitor(desk), visitor(desk)
    options = asked(first, "/sign-in/passkey/challenge")
    asked(second, "/sign-in/passkey/challenge")
    answer = laptop.shown(options)
    assert not is_in(second.post("/sign-in/passkey", csrf="", answer=answer)), "another browser's"
    assert not is_in(first.post("/sign-in/passkey", csrf="", answer="{}")), "a wrong answer uses it up too"
    assert not is_in(first.post("/sign-in/passkey", csrf="", answer=answer))
    options = asked(first, "/sign-in/passkey/challenge")
    holder = first.session.cookies.get_dict()[desk.cookie("billhook_passkey")]
    answer = laptop.shown(options)
    assert is_in(first.post("/sign-in/passkey", csrf="", answer=answer))
    thief = visitor(desk)
    thief.session.cookies.set(desk.cookie("billhook_passkey"), holder)
    assert not is_in(thief.post("/sign-in/passkey", csrf="", answer=answer)), "a second time"
    late = visitor(desk)
    options = asked(late, "/sign-in/passkey/challenge")
    clock.move(minutes=5)
    assert not is_in(late.post("/sign-in/passkey", csrf="", answer=laptop.shown(options))), "too late"


def test_a_passkey_is_made_for_the_session_that_asked(desk: Desk, clock: ManualClock) -> None:
    ada, eve = person(desk), person(desk, "eve@example.com")
    passkey, stranger = soft(desk), visitor(desk)
    for_ada, for_sign_in = asked(ada), asked(stranger, "/sign-in/passkey/challenge")
    answer = passkey.made(for_ada)
    assert eve.post("/you/passkeys", name="x", answer=answer).status_code == 409, "Eve asked for none"
    asked(eve)
    assert eve.post("/you/passkeys", name="x", answer=answer).status_code == 422, "it was Ada's challenge"
    name = desk.cookie("billhook_passkey")
    eve.session.cookies.set(name, stranger.session.cookies.get_dict()[name])
    lie = passkey.made({**for_ada, "challenge": for_sign_in["challenge"]})
    assert eve.post("/you/passkeys", name="x", answer=lie).status_code == 409, "a challenge of a sign-in makes none"
    lies = ({"origin": "https://evil.example"}, {"rp_id": "evil"}, {"flags": PRESENT}, {"framed": True})
    for lie in (replace(passkey, **told) for told in lies):
        assert ada.post("/you/passkeys", name="x", answer=lie.made(asked(ada))).status_code == 422
    has_one(desk, ada, credential_id=passkey.credential_id)
    again = soft(desk, credential_id=passkey.credential_id)
    assert eve.post("/you/passkeys", name="x", answer=again.made(asked(eve))).status_code == 409, "Ada has it"
    with desk.env.database.read() as tx:
        found = passkeys.find_passkey(tx, passkey.credential_id)
    assert found is not None
    assert eve.post(f"/you/passkeys/{found.id}/remove").status_code == 404, "Ada's is none of Eve's"
    by_key = signed_in(desk)
    assert by_key.post("/you/passkeys/challenge").status_code == 409, "a key is no person"
    assert "people’s" in by_key.get("/you").text


def test_a_copy_that_counts_less_is_refused_and_written_down(desk: Desk) -> None:
    ada = person(desk)
    laptop = has_one(desk, ada, count=7)
    copy = replace(laptop)
    laptop.count = 9
    assert is_in(comes_by(desk, laptop))
    for count in (0, 8, 9):
        copy.count = count
        assert not is_in(comes_by(desk, copy)), count
    laptop.count = 10
    assert is_in(comes_by(desk, laptop))
    assert deeds(desk).count("passkey.refused") == 3
    # Those that sync never count: nothing but noughts is right.
    phone = has_one(desk, ada, "Phone")
    assert is_in(comes_by(desk, phone))
    assert is_in(comes_by(desk, phone))


def test_who_was_disabled_has_no_passkeys_any_more(desk: Desk) -> None:
    ada = person(desk)
    laptop = has_one(desk, ada)
    with desk.env.database.begin() as tx:
        operators.change_operator(tx, laptop.user.decode(), disabled_at=NOW)
    assert not is_in(comes_by(desk, laptop))
    with desk.env.database.begin() as tx:
        operators.change_operator(tx, laptop.user.decode(), role="admin")
    assert not is_in(comes_by(desk, laptop)), "who comes back adds them anew"


def test_a_person_has_ten_at_most(desk: Desk) -> None:
    ada = person(desk)
    late = asked(ada)
    operator_id = bytes_of(late["user"]["id"]).decode()
    with desk.env.database.begin() as tx:
        for number in range(passkeys.MOST_PASSKEYS):
            assert passkeys.add_passkey(tx, operator_id, f"{number}", bytes([number]), b"k", 0, NOW) is not None
    assert ada.post("/you/passkeys", name="x", answer=soft(desk).made(late)).status_code == 409
    assert ada.post("/you/passkeys/challenge").status_code == 409
    assert "as many as one may have" in ada.get("/you").text


NO_ANSWERS = (
    *("", "null", "[]", "7", '"x"', "{", "[" * 5000, '{"id":1}', '{"id":"a","rawId":"a","type":"public-key"}'),
    *(
        json.dumps({"id": "YQ", "rawId": "YQ", "type": "public-key", "response": {"clientDataJSON": "e30", **response}})
        for response in (
            {"clientDataJSON": "!", "authenticatorData": "!", "signature": "!"},
            {"authenticatorData": "YQ", "signature": "YQ"},
            # A list of 2^40 things, and a text of as many bytes, of which none is there.
            *(
                {"attestationObject": text_of(cbor)}
                for cbor in (b"", b"\x9b\0\0\1\0\0\0\0\0", b"\x5b\0\0\1\0\0\0\0\0", b"\xa1" * 5000, b"\xff")
            ),
        )
    ),
)


def test_what_is_no_answer_is_refused_in_a_sentence(desk: Desk) -> None:
    party = Party("localhost", "http://localhost")
    for answer in NO_ANSWERS:
        with pytest.raises(NotProven):
            ceremonies.made(party, b"c", answer)
        with pytest.raises(NotProven):
            ceremonies.shown(party, b"c", b"k", answer)
    ada, stranger = person(desk), visitor(desk)
    asked(ada)
    asked(stranger, "/sign-in/passkey/challenge")
    assert ada.post("/you/passkeys", name="x", answer=NO_ANSWERS[-1]).status_code == 422
    assert not is_in(stranger.post("/sign-in/passkey", csrf="", answer=NO_ANSWERS[-1]))


def test_whoever_knocks_too_often_has_to_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.desk.console.sign_in.TRIES_PER_SECOND", 0.001)
    with serving(desk.env) as slow:
        stranger = visitor(slow)
        for path, fields in {
            "/sign-in/passkey/challenge": {},
            "/sign-in/passkey": {},
            "/sign-in/code": {"email": "no@example.com"},
            "/sign-in/key": {"key": "bh_wrong"},
        }.items():
            found = [stranger.post(path, csrf="", **fields) for _ in range(2)]
            assert [answer.status_code == 429 for answer in found] == [False, True], path
            assert found[1].headers["retry-after"] == "1"


def test_where_browsers_allow_none_none_is_offered(desk: Desk) -> None:
    parties = {
        "https://bills.example": Party("bills.example", "https://bills.example"),
        "https://Bills.example:443/console": Party("bills.example", "https://bills.example"),
        "https://bills.example:8443": Party("bills.example", "https://bills.example:8443"),
        "http://localhost:8601": Party("localhost", "http://localhost:8601"),
        "https://b\u00fccher.example": Party("xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        "http://bills.example": None,
        "http://127.0.0.1:8601": None,
        "https://192.0.2.7": None,
        "https://[2001:db8::1]:8443": None,
        "https://bills.example:x": None,
    }
    assert {url: party_of(url) for url in parties} == parties
    ada = person(desk)
    assert "data-passkey" in visitor(desk).get("/sign-in").text
    desk.env.settings = replace(desk.env.settings, public_url="http://127.0.0.1:8601")
    assert "data-passkey" not in visitor(desk).get("/sign-in").text
    assert "BILLHOOK_PUBLIC_URL" in ada.get("/you").text
    assert "BILLHOOK_PUBLIC_URL" in ada.post("/you/passkeys/challenge").text
    assert visitor(desk).post("/sign-in/passkey/challenge", csrf="").status_code == 409
