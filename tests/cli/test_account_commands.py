"""The operator's commands, as they are typed."""

from __future__ import annotations

import getpass
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli.shell import Shell

from billhook.rules.book.change import Change
from billhook.rules.book.customer import Customer
from billhook.rules.signing import signing_key
from billhook.store import book, dead_letters, work
from billhook.store.inbox import Arrival, accept, get_event, inbox
from billhook.store.merchants import create_merchant, find_callers
from billhook.store.schema import new_id

NOW = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


@pytest.fixture
def dead(shell: Shell) -> Callable[[str], str]:
    """Adds an event that failed for good, and answers its id."""

    def add(
        external_id: str, *, event_type: str = "invoice.paid", merchant: str = "mrc_a", source: str = "src_a"
    ) -> str:
        body = external_id.encode()
        event = Arrival(
            new_id("evt"),
            merchant,
            source,
            "",
            external_id,
            event_type,
            b"{}",
            body,
            hashlib.sha256(body).digest(),
            NOW,
        )
        with shell.database.begin() as tx:
            accept(tx, [event], NOW)
            work.give_up(tx, inbox, [(event.id, "broken")], NOW)
            dead_letters.bury(tx, "inbox", [dead_letters.DeadLetter(merchant, event.id, "broken", 1)], NOW)
        return event.id

    return add


def state(shell: Shell, event_id: str) -> str:
    with shell.database.read() as tx:
        event = get_event(tx, event_id)
    assert event is not None
    return str(event["state"])


def test_a_demos_merchant_is_none_that_a_command_could_mean(shell: Shell) -> None:
    [merchant] = shell.json("merchants", "add", "Acme")
    with shell.database.begin() as tx:
        create_merchant(tx, "Demo Books Ltd", NOW, demo=True)
    [source] = shell.json("sources", "add", "standard")
    assert source["merchant_id"] == merchant["id"]


def test_from_nothing_to_a_source_and_an_endpoint(shell: Shell) -> None:
    assert "merchants add" in shell.fails("sources", "add", "standard")
    [merchant] = shell.json("merchants", "add", "Ada & Söhne", "--locale", "de")
    [source] = shell.json("sources", "add", "standard", "--name", "in-house")
    assert source["merchant_id"] == merchant["id"]
    assert source["address"] == f"http://127.0.0.1:8600/v1/sources/{source['id']}/events"
    assert signing_key(source["secret"])
    [endpoint] = shell.json("endpoints", "add", "https://example.com/hook", "--event", "invoice.*")
    assert endpoint["event_types"] == ["invoice.*"]
    shown = shell("sources", "list") + shell("endpoints", "list") + shell("merchants", "list")
    for word in (merchant["id"], "Ada & Söhne", source["id"], source["address"], endpoint["id"], "invoice.*"):
        assert word in shown
    for secret in (source["secret"], endpoint["secret"]):
        assert secret not in shown


def test_with_two_merchants_one_has_to_be_named(shell: Shell) -> None:
    [first] = shell.json("merchants", "add", "first")
    shell("merchants", "add", "second")
    assert "--merchant" in shell.fails("keys", "add", "program")
    assert "mrc_nobody" in shell.fails("keys", "add", "program", "--merchant", "mrc_nobody")
    [key] = shell.json("keys", "add", "program", "--merchant", first["id"])
    [everyones] = shell.json("keys", "add", "boss", "--operator")
    with shell.database.read() as tx:
        found = find_callers(tx, [key["key"], everyones["key"]], NOW)
        callers = found[key["key"]], found[everyones["key"]]
    assert [caller and caller.merchant_id for caller in callers] == [first["id"], None]
    assert [row["id"] for row in shell.json("keys", "list", "--merchant", first["id"])] == [key["id"]]
    assert key["key"] not in shell("keys", "list")
    shell("keys", "revoke", key["id"])
    with shell.database.read() as tx:
        assert find_callers(tx, [key["key"]], NOW) == {}
    assert key["id"] in shell.fails("keys", "revoke", key["id"])


def test_a_source_is_rotated_keyed_and_switched(shell: Shell) -> None:
    shell("merchants", "add", "one")
    [source] = shell.json("sources", "add", "stripe", "--secret", "-", typed="whsec_typed\n")
    assert "secret" not in source
    [rotated] = shell.json("sources", "rotate", source["id"], "--secret", "whsec_next")
    assert rotated["rotating"]
    shell("sources", "end-rotation", source["id"])
    shell("sources", "set-api-key", source["id"], "--api-key", "-", typed="sk_1\n")
    shell("sources", "disable", source["id"])
    [now] = shell.json("sources", "list")
    assert (now["rotating"], now["api_key"], now["disabled_at"] is None) == (False, "set", False)
    shell("sources", "enable", source["id"])
    shell("sources", "set-api-key", source["id"])
    [now] = shell.json("sources", "list")
    assert (now["api_key"], now["disabled_at"]) == (None, None)


def test_a_merchants_contact_is_set_and_taken_away(shell: Shell) -> None:
    [merchant] = shell.json("merchants", "add", "one", "--contact-email", "ops@example.com")
    assert merchant["contact_email"] == "ops@example.com"
    for address, stored in (("Ada <ada@example.com>", "Ada <ada@example.com>"), ("", None)):
        [merchant] = shell.json("merchants", "set", merchant["id"], "--contact-email", address)
        assert merchant["contact_email"] == stored
        assert shell.json("merchants", "list") == [merchant]
    for odd in ("ops", "a@b, c@d", "a@example.com\nBcc: b@example.com"):
        assert "contact_email" in shell.fails("merchants", "set", merchant["id"], "--contact-email", odd)
    assert "mrc_x" in shell.fails("merchants", "set", "mrc_x", "--contact-email", "a@example.com")


def test_what_cannot_work_is_one_sentence(shell: Shell) -> None:
    shell("merchants", "add", "one")
    assert "paypal" not in shell.fails("sources", "add", "paypal", "--secret", "x")
    assert "stripe makes it" in shell.fails("sources", "add", "stripe")
    assert "http" in shell.fails("endpoints", "add", "ftp://example.com")
    assert "invoice.piad" in shell.fails("endpoints", "add", "https://example.com", "--event", "invoice.piad")
    assert "tlh" in shell.fails("merchants", "add", "x", "--locale", "tlh")
    for words in (("sources", "rotate"), ("sources", "disable"), ("endpoints", "enable"), ("events", "show")):
        assert "'x_1'" in shell.fails(*words, "x_1")
    assert "inbox" in shell.fails("dead-letters", "list", "--queue", "outbox")
    for words in ((), ("--dead", "evt_1"), ("evt_1", "--queue", "inbox"), ("evt_1", "--all"), ("--dead", "--dry-run")):
        shell.fails("replay", *words, code=2)


def test_without_a_schema_the_next_step_is_named(tmp_path: Path) -> None:
    shell = Shell(tmp_path / "new")
    assert "billhook migrate" in shell.fails("merchants", "list")


def test_events_are_listed_and_shown_as_they_came(shell: Shell, dead: Callable[..., str]) -> None:
    event_id = dead("e1", event_type="\x1b[31m[red]")
    listed = shell("events", "list", "--state", "dead")
    assert event_id in listed
    assert "\\x1b[31m[red]" in listed, "what a sender wrote steers no terminal"
    assert shell("events", "list", "--state", "processed") == "No such events.\n"
    [event] = shell.json("events", "show", event_id)
    assert (event["body"], event["last_error"], event["conflicts"]) == ("e1", "broken", [])
    assert "token" not in event
    assert shell("events", "conflicts") == "No conflicts.\n"
    other = Arrival(new_id("evt"), "mrc_a", "src_a", "", "e1", "t", b"{}", b"\xffother", b"2" * 32, NOW)
    with shell.database.begin() as tx:
        accept(tx, [other], NOW)
    [conflict] = shell.json("events", "conflicts")
    assert (conflict["inbox_id"], conflict["body"]) == (event_id, "\\xffother")


def test_dead_letters_are_replayed_and_discarded_with_a_trace(shell: Shell, dead: Callable[..., str]) -> None:
    first, second = dead("e1"), dead("e2")
    letters = {row["work_id"]: row["id"] for row in shell.json("dead-letters", "list", "--queue", "inbox")}
    assert letters.keys() == {first, second}
    assert "dlq_x" in shell.fails("dead-letters", "replay", letters[first], "dlq_x")
    assert state(shell, first) == "dead", "all of them or none"
    assert shell("dead-letters", "replay", letters[first]) == "1 replayed.\n"
    assert shell("dead-letters", "discard", letters[second]) == "1 discarded.\n"
    assert (state(shell, first), state(shell, second)) == ("due", "dead")
    assert shell("dead-letters", "list") == "No dead letters.\n"
    with shell.database.read() as tx:
        letter = dead_letters.get_dead(tx, letters[second])
    assert letter is not None
    assert (letter["resolution"], letter["resolved_by"]) == ("discarded", f"cli:{getpass.getuser()}")
    assert "discarded already" in shell.fails("dead-letters", "replay", letters[second])


def test_replay_takes_events_or_everything_dead(shell: Shell, dead: Callable[..., str]) -> None:
    ids = [dead(f"e{number}") for number in range(5)]
    assert shell("replay", ids[0]) == "1 replayed.\n"
    assert shell("replay", ids[0]) == "0 replayed.\n", "it is due already"
    assert "evt_x" in shell.fails("replay", ids[1], "evt_x")
    assert shell("replay", "--dead", "--queue", "documents") == "0 replayed.\n"
    assert shell("replay", "--dead") == "4 replayed.\n"
    assert {state(shell, event_id) for event_id in ids} == {"due"}


def test_replay_makes_a_job_of_what_is_not_named_and_says_before_what_it_would_change(
    shell: Shell, dead: Callable[..., str]
) -> None:
    [merchant] = shell.json("merchants", "add", "one")
    [source] = shell.json("sources", "add", "stripe", "--secret", "whsec_x")
    event_id = dead("e1", merchant=merchant["id"], source=source["id"])
    tried = shell("replay", "--state", "dead", "--dry-run")
    assert tried.startswith("1 events would be processed again: 1 invoice.paid.\nThey would change nothing.\n")
    assert f"{event_id} would fail again: " in tried
    assert shell.json("replay", event_id, "--dry-run")[0]["events"] == 1
    assert state(shell, event_id) == "dead"
    [job] = shell.json("replay", "--state", "dead", "--source", source["id"], "--type", "x.*")
    assert (job["kind"], job["states"], job["event_types"]) == ("events", ["dead"], ["x.*"])
    assert "`billhook replays follow" in shell("replay", "--all", "--no-follow")
    assert [row["kind"] for row in shell.json("replays", "list")] == ["events", "events"]
    assert "'due'" in shell.fails("replay", "--state", "due")
    assert "src_x" in shell.fails("replay", "--source", "src_x")


def test_the_commands_work_while_the_product_writes(shell: Shell, dead: Callable[..., str]) -> None:
    event_id = dead("e1")
    with shell.database.read() as tx:  # a reader's view stays open all along
        assert get_event(tx, event_id) is not None
        assert shell("replay", event_id) == "1 replayed.\n"


def test_a_customer_is_erased_when_it_is_confirmed_and_what_stays_is_said(shell: Shell) -> None:
    [merchant] = shell.json("merchants", "add", "Acme")
    ada = Customer(external_id="cus_ada", name="Ada", email="ada@acme.test")
    with shell.database.begin() as tx:
        book.apply(tx, [book.Entry(merchant["id"], "src_1", "", Change(ada, NOW))], NOW)
    assert "no customer" in shell.fails("customers", "erase", "cus_bob", "--yes")
    asked = shell.run("customers", "erase", "cus_ada", typed="n\n")
    assert (asked.exit_code, "cus_ada (Ada)" in asked.output) == (1, True)
    rows = {row["what"]: row for row in shell.json("customers", "erase", "cus_ada", "--yes")}
    assert (rows["objects"]["count"], rows["invoices"]["count"]) == (1, 0)
    assert "the law" not in rows["objects"]["became"]
    assert "kept" in rows["invoices"]["became"]
    with shell.database.read() as tx:
        [found] = book.list_objects(tx, "customer", merchant_id=merchant["id"])
    assert (found["name"], found["email"], found["external_id"]) == (None, None, "cus_ada")


def test_limits_are_shown(shell: Shell) -> None:
    shell.json("merchants", "add", "Acme")
    shell.json("sources", "add", "standard")
    shown = {row["what"]: row for row in shell.json("merchants", "limits")}
    assert (shown["sources"]["used"], shown["sources"]["limit"]) == (1, 50)
