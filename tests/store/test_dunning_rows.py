"""What the database itself holds of dunning: one case an invoice, one attempt under way, so many permits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from store.databases import NOW
from store.dunning import new_attempt, new_case

from billhook.rules.book.change import Change
from billhook.rules.book.customer import Customer
from billhook.rules.book.objects import book_id
from billhook.rules.dunning_policy import PRESETS
from billhook.rules.standing import Debt
from billhook.store import book, dunning_cases, payment_attempts, provider_limits, standings
from billhook.store.database import Database, Tx
from billhook.store.debts import debts_of_customers
from billhook.store.dunning_policies import current_policies, narrowest, policies_of, retire_policy, set_policy
from billhook.store.merchants import create_key, create_merchant, revoke_key


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


def taken(tx: Tx, count: int, rate: float, now: datetime, account: str = "") -> list[float]:
    limit, patience = provider_limits.lock_limit(tx, "src_1", account), timedelta(seconds=5)
    lasts = timedelta(seconds=0.1)
    permits = provider_limits.exchange_permits(
        tx, limit, [], count, rate, now, within=patience, longest=patience, lasts=lasts
    )
    return [round((permit.start - NOW).total_seconds(), 3) for permit in permits]


def is_paused(tx: Tx, now: datetime) -> bool:
    return provider_limits.lock_limit(tx, "src_1", "").pause_at(now) is not None


def test_processes_share_the_permits_and_a_pause(database: Database) -> None:
    def take(seconds: float) -> list[float]:
        with database.begin() as tx:
            return taken(tx, 10, 20, NOW + timedelta(seconds=seconds))

    with ThreadPoolExecutor(4) as pool:
        permits = sorted(at for found in pool.map(take, [0.0] * 4) for at in found)
    # Twenty in the first second, each process's own spread; twenty more a second after these.
    assert len(permits) == 40
    assert all(later - earlier >= 1.1 for earlier, later in zip(permits, permits[20:], strict=False))
    with database.begin() as tx:
        provider_limits.pause_calls(tx, "src_1", "", NOW + timedelta(seconds=30))
        assert is_paused(tx, NOW + timedelta(seconds=29))
        assert not is_paused(tx, NOW + timedelta(seconds=30))
        assert taken(tx, 1, 20, NOW, "acct_2") == [0]
        assert taken(tx, 1, 20, NOW) == []
    assert take(26)[0] == 30


def test_a_clock_that_was_ahead_holds_up_no_call_once_it_is_set_back(database: Database) -> None:
    ahead = NOW + timedelta(days=400)
    with database.begin() as tx:
        taken(tx, 20, 20, ahead)
        provider_limits.pause_calls(tx, "src_1", "", ahead + timedelta(seconds=30))
        assert not is_paused(tx, NOW)
        assert taken(tx, 1, 20, NOW) == [0]
        provider_limits.pause_calls(tx, "src_1", "", NOW + timedelta(seconds=30))
        assert is_paused(tx, NOW)


def test_turns_are_planned_for_the_next_minute_only(database: Database) -> None:
    def booked(tx: Tx, count: int, seconds: float) -> list[datetime]:
        limit = provider_limits.lock_limit(tx, "src_1", "")
        return provider_limits.book_calls(tx, limit, count, 2, NOW + timedelta(seconds=seconds))

    with database.begin() as tx:
        turns = booked(tx, 1000, 0)
        assert (len(turns), turns[-1]) == (121, NOW + timedelta(minutes=1))
        assert booked(tx, 1000, 0) == []
        assert len(booked(tx, 1000, 10)) == 20
        # A minute ahead, and set back: nobody waits for that minute.
        booked(tx, 1, 130)
        assert booked(tx, 1, 60) == [NOW + timedelta(seconds=60)]


def owed(database: Database, merchant_id: str | None, customer_id: str) -> list[Debt] | None:
    asked = (merchant_id, customer_id)
    # Beside questions of others: no answer is another's.
    beside = [asked, ("mrc_3", customer_id), (merchant_id, "cus_other")]
    return debts_of_customers(database, beside, NOW).of[asked]


def test_debts_are_found_by_either_name_of_the_customer(database: Database) -> None:
    customer = Customer(external_id="cus_1")
    known = book_id("src_1", "", customer)
    with database.begin() as tx:
        book.apply(tx, [book.Entry("mrc_1", "src_1", "", Change(customer, NOW))], NOW)
    assert owed(database, "mrc_1", known) == []
    with database.begin() as tx:
        dunning_cases.add_case(tx, new_case("mrc_1", customer_id=known), NOW)
        dunning_cases.add_case(tx, new_case("mrc_1", "in_3", customer="own", customer_id="cus_own"), NOW)
        dunning_cases.add_case(tx, new_case("mrc_1", "in_2", owing=False), NOW)
        dunning_cases.add_case(tx, new_case("mrc_2"), NOW)
        assert len(dunning_cases.debts(tx, "mrc_1", "cus_1")) == 1
        assert dunning_cases.debts(tx, "mrc_1", "cus_2") == []
    [debt] = owed(database, "mrc_1", known) or []
    assert (debt.opened_at, debt.grace_until) == (NOW, new_case("mrc_1").grace_until)
    assert len(owed(database, None, known) or []) == 1
    assert owed(database, "mrc_2", known) is None
    assert len(owed(database, "mrc_1", "cus_own") or []) == 1


def test_the_read_that_finds_debts_says_whose_keys_are_good(database: Database) -> None:
    with database.begin() as tx:
        merchant_id = create_merchant(tx, "A", NOW).id
        good, _ = create_key(tx, merchant_id, "good", NOW)
        past, _ = create_key(tx, merchant_id, "past", NOW, expires_at=NOW)
        gone, _ = create_key(tx, merchant_id, "gone", NOW)
        revoke_key(tx, gone, NOW)
    asked = [(merchant_id, "cus_1")]
    assert debts_of_customers(database, asked, NOW, keys=[good, past, gone, "key_none"]).good_keys == {good}
    assert debts_of_customers(database, asked, NOW).good_keys == set()


def test_a_told_standing_is_kept(database: Database) -> None:
    with database.begin() as tx:
        assert standings.told_standings(tx, "mrc_1", ["cus_1"]) == {"cus_1": "active"}
        standings.set_standings(tx, "mrc_1", {"cus_1": "grace"}, NOW)
        standings.set_standings(tx, "mrc_1", {"cus_1": "suspended"}, NOW)
        assert standings.told_standings(tx, "mrc_1", ["cus_1"]) == {"cus_1": "suspended"}
