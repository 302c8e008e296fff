"""What the database itself holds of dunning: one case an invoice, one attempt under way, one bucket an account."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from store.databases import NOW
from store.dunning import new_attempt, new_case

from billhook.rules.book import Change, Customer, book_id
from billhook.rules.dunning_policy import PRESETS
from billhook.rules.standing import Debt
from billhook.store import book, dunning_cases, payment_attempts, provider_limits, standings
from billhook.store.database import Database, Tx
from billhook.store.dunning_policies import current_policies, narrowest, policies_of, retire_policy, set_policy


def test_an_invoice_has_one_case_for_good(database: Database) -> None:
    case = new_case("mrc_1")
    with database.begin() as tx:
        assert dunning_cases.add_case(tx, case, NOW)
        closed = dunning_cases.moved(case, "exhausted", "deadline", NOW)
        dunning_cases.change_case(tx, case, closed, state="done")
        assert not dunning_cases.add_case(tx, new_case("mrc_1"), NOW)
        assert dunning_cases.get_case(tx, case.id) == closed


@pytest.mark.parametrize("status", ["created", "submitted", "unknown", "requires_action"])
def test_of_one_invoice_one_attempt_is_under_way(database: Database, status: str) -> None:
    case = new_case("mrc_1")
    first = new_attempt(case)
    with database.begin() as tx:
        assert payment_attempts.add_attempt(tx, first)
        payment_attempts.change_attempt(tx, first.id, status=status)
        assert not payment_attempts.add_attempt(tx, new_attempt(case, 2))
        assert payment_attempts.in_flight(tx, [case.id]) == {case.id: "due"}
        payment_attempts.change_attempt(tx, first.id, status="failed")
        assert payment_attempts.add_attempt(tx, new_attempt(case, 2))
        assert payment_attempts.count_attempts(tx, case.id) == 2


def test_of_many_who_begin_an_attempt_at_once_one_does(database: Database) -> None:
    case = new_case("mrc_1")

    def begin(number: int) -> bool:
        with database.begin() as tx:
            return payment_attempts.add_attempt(tx, new_attempt(case, number))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(begin, range(8))) == 1


def test_what_was_submitted_remembers_when_it_first_went_out(database: Database) -> None:
    attempt = new_attempt(new_case("mrc_1"))
    with database.begin() as tx:
        payment_attempts.add_attempt(tx, attempt)
        payment_attempts.submit(tx, [attempt.id], NOW)
        payment_attempts.submit(tx, [attempt.id], NOW + timedelta(hours=1))
        (found,) = payment_attempts.attempts_of(tx, attempt.case_id)
    assert found == replace(attempt, status="submitted", sends=2, submitted_at=NOW)


def test_only_what_nobody_knows_the_end_of_is_asked_for_soon(database: Database) -> None:
    attempt = new_attempt(new_case("mrc_1"))
    with database.begin() as tx:
        payment_attempts.add_attempt(tx, attempt)
        assert payment_attempts.ask_soon(tx, [attempt.invoice_id], NOW) == []
        payment_attempts.change_attempt(tx, attempt.id, status="unknown")
        assert payment_attempts.ask_soon(tx, [attempt.invoice_id], NOW) == [attempt.id]


def test_policies_are_versions_and_the_narrowest_counts(database: Database) -> None:
    with database.begin() as tx:
        first = set_policy(tx, "mrc_1", "merchant", "", PRESETS["polar"], NOW, by="ada")
        second = set_policy(tx, "mrc_1", "merchant", "", PRESETS["kill-bill"], NOW, by="ada")
        price = set_policy(tx, "mrc_1", "price", "price_1", PRESETS["polar"], NOW, by="ada")
        theirs = set_policy(tx, "mrc_1", "customer", "cus_1", PRESETS["reminders-only"], NOW, by="ada")
        set_policy(tx, "mrc_2", "customer", "cus_2", PRESETS["polar"], NOW, by="eve")
        (current,) = current_policies(tx, ["mrc_1"]).values()
        assert (first.version, second.version) == (1, 2)
        assert policies_of(tx, [first.id])[first.id].retired_at == NOW
        assert narrowest(current, "cus_1", ["price_1"]) == theirs
        assert narrowest(current, "cus_2", ["price_1"]) == price
        assert narrowest(current, None, []) == second
        retire_policy(tx, "mrc_1", "merchant", "", NOW)
        assert narrowest(current_policies(tx, ["mrc_1"])["mrc_1"], None, []) is None


def test_processes_share_one_bucket_and_a_pause(database: Database) -> None:
    def reserve(seconds: float) -> list[float]:
        with database.begin() as tx:
            turns = provider_limits.reserve_calls(tx, "src_1", "", 10, 20, NOW + timedelta(seconds=seconds))
        return [(turn - NOW).total_seconds() for turn in turns]

    with ThreadPoolExecutor(4) as pool:
        turns = sorted(turn for found in pool.map(reserve, [0.0] * 4) for turn in found)
    assert turns == [place / 20 for place in range(40)]
    with database.begin() as tx:
        provider_limits.pause_calls(tx, "src_1", "", NOW + timedelta(seconds=30))
        assert provider_limits.is_paused(tx, "src_1", "", NOW + timedelta(seconds=29))
        assert not provider_limits.is_paused(tx, "src_1", "", NOW + timedelta(seconds=30))
        assert provider_limits.reserve_calls(tx, "src_1", "acct_2", 1, 20, NOW) == [NOW]
    assert reserve(3)[0] == 30


def test_a_clock_that_was_ahead_holds_up_no_call_once_it_is_set_back(database: Database) -> None:
    ahead = NOW + timedelta(days=400)
    with database.begin() as tx:
        provider_limits.reserve_calls(tx, "src_1", "", 10, 20, ahead)
        provider_limits.pause_calls(tx, "src_1", "", ahead + timedelta(seconds=30))
        assert not provider_limits.is_paused(tx, "src_1", "", NOW)
        assert provider_limits.reserve_calls(tx, "src_1", "", 1, 20, NOW) == [NOW]
        provider_limits.pause_calls(tx, "src_1", "", NOW + timedelta(seconds=30))
        assert provider_limits.is_paused(tx, "src_1", "", NOW)


def test_turns_are_given_for_the_next_minute_only(database: Database) -> None:
    with database.begin() as tx:
        turns = provider_limits.reserve_calls(tx, "src_1", "", 1000, 2, NOW)
        assert (len(turns), turns[-1]) == (121, NOW + timedelta(minutes=1))
        assert provider_limits.reserve_calls(tx, "src_1", "", 1000, 2, NOW) == []
        assert len(provider_limits.reserve_calls(tx, "src_1", "", 1000, 2, NOW + timedelta(seconds=10))) == 20
        # A minute ahead, and set back: nobody waits for that minute.
        provider_limits.reserve_calls(tx, "src_1", "", 1, 2, NOW + timedelta(seconds=130))
        assert provider_limits.reserve_calls(tx, "src_1", "", 1, 2, NOW + timedelta(seconds=60)) == [
            NOW + timedelta(seconds=60)
        ]


def owed(tx: Tx, merchant_id: str | None, customer_id: str) -> list[Debt] | None:
    asked = (merchant_id, customer_id)
    # Beside questions of others: no answer is another's.
    return dunning_cases.debts_of_customers(tx, [asked, ("mrc_3", customer_id), (merchant_id, "cus_other")])[asked]


def test_debts_are_found_by_either_name_of_the_customer(database: Database) -> None:
    customer = Customer(external_id="cus_1")
    known = book_id("src_1", "", customer)
    with database.begin() as tx:
        book.apply(tx, [book.Entry("mrc_1", "src_1", "", Change(customer, NOW))], NOW)
        assert owed(tx, "mrc_1", known) == []
        dunning_cases.add_case(tx, new_case("mrc_1", customer_id=known), NOW)
        dunning_cases.add_case(tx, new_case("mrc_1", "in_3", customer="own", customer_id="cus_own"), NOW)
        dunning_cases.add_case(tx, new_case("mrc_1", "in_2", owing=False), NOW)
        dunning_cases.add_case(tx, new_case("mrc_2"), NOW)
        assert len(dunning_cases.debts(tx, "mrc_1", "cus_1")) == 1
        assert len(owed(tx, "mrc_1", known) or []) == 1
        assert len(owed(tx, None, known) or []) == 1
        assert owed(tx, "mrc_2", known) is None
        assert len(owed(tx, "mrc_1", "cus_own") or []) == 1
        assert dunning_cases.debts(tx, "mrc_1", "cus_2") == []


def test_a_told_standing_is_kept(database: Database) -> None:
    with database.begin() as tx:
        assert standings.told_standings(tx, "mrc_1", ["cus_1"]) == {"cus_1": "active"}
        standings.set_standings(tx, "mrc_1", {"cus_1": "grace"}, NOW)
        standings.set_standings(tx, "mrc_1", {"cus_1": "suspended"}, NOW)
        assert standings.told_standings(tx, "mrc_1", ["cus_1"]) == {"cus_1": "suspended"}
