"""What the customer of a failed payment reads, and what they do not any more once it is paid."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
import pytest
import sqlalchemy as sa
from consumers.dunning import POLICY, PUBLIC, Shop, open_shop
from consumers.test_dunning_own import issued

from billhook.rules.dunning_policy import PRESETS, MailText, Policy, Reminder, filled_in, refusals
from billhook.store.database import Database
from billhook.store.links import find_link
from billhook.store.mails import mails
from billhook.store.merchants import merchants


@pytest.fixture
def shop(database: Database) -> Iterator[Shop]:
    with open_shop(database) as opened:
        yield opened


def written(shop: Shop) -> list[tuple[str, str]]:
    """Subjects and texts, in the order in which they were written."""
    return [(subject, body) for _, subject, body in shop.world.rows("mails", "id", "subject", "body")]


def test_each_failure_is_told_with_what_comes_next_and_where_to_pay(shop: Shop) -> None:
    shop.policy(POLICY)
    customer, case = shop.renewal_fails()
    shop.dun()
    ((subject, body),) = written(shop)
    assert subject == f"TEST Payment for invoice {case.number} failed", "its source is in test mode"
    assert body.startswith("Made in test mode.")
    assert "€19.00" in body
    assert "We will try again on" in body
    assert f"You can pay here: {case.pay_url}" in body

    shop.fake.decline(customer, "stolen_card")
    shop.pass_days(3)
    assert "Please use another one." in written(shop)[-1][1]


def test_before_a_try_and_for_a_step_of_their_own_customers_are_told_in_time_and_where(shop: Shop) -> None:
    policy = Policy(grace_days=9, attempts=(3,), end_day=9, time_of_day="09:00", remind_days_before_attempt=1)
    shop.policy(policy)
    customer, case = shop.renewal_fails(metadata={"time_zone": "Asia/Tokyo"})
    assert case.zone == "Asia/Tokyo"
    shop.dun()
    shop.fake.decline(customer, "authentication_required")
    shop.pass_days(4)
    (attempt,) = shop.attempts(case)
    before, upcoming, action = (body for _, body in written(shop))
    assert f"You can pay here: {case.pay_url}" in before
    assert "we will try again to collect €19.00" in upcoming
    assert "Your bank asks you to confirm the payment." in action
    assert all(f"You can pay here: {case.pay_url}" in body for body in (upcoming, action))
    assert attempt.status == "requires_action"


def test_a_mail_that_was_not_sent_is_withdrawn_when_the_money_comes(shop: Shop) -> None:
    shop.policy(POLICY)
    _, case = shop.renewal_fails()
    shop.dun()
    with shop.world.database.begin() as tx:
        tx.execute(sa.update(mails).values(state="sent"))
    shop.pass_days(3)
    assert len(written(shop)) == 2
    shop.fake.client().v1.invoices.pay(case.invoice, {"paid_out_of_band": True})
    shop.hear()
    assert len(written(shop)) == 1


def test_it_is_in_the_language_of_the_invoice_or_in_the_merchants_own_words(shop: Shop) -> None:
    with shop.world.database.begin() as tx:
        tx.execute(sa.update(merchants).values(locale="de-DE"))
    shop.policy(
        msgspec.structs.replace(
            POLICY,
            reminders=(Reminder(day=1),),
            mails={"overdue": MailText(subject="Noch offen: {number}", text="Hallo {customer}, {amount}! {link}")},
        )
    )
    _, case = shop.renewal_fails()
    shop.pass_days(1)
    (failed, _), (own, text) = written(shop)
    assert failed == f"TEST Zahlung der Rechnung {case.number} fehlgeschlagen"
    assert own == f"TEST Noch offen: {case.number}"
    note, _, text = text.partition("\n\n")
    assert note.startswith("Im Testmodus erstellt.")
    assert text == f"Hallo Ada, 19,00\N{NO-BREAK SPACE}€! {case.pay_url}"


def test_a_customer_without_an_address_is_not_written_to(shop: Shop) -> None:
    shop.policy(POLICY)
    shop.renewal_fails(email="")
    assert written(shop) == []


def test_words_that_nothing_fills_in_are_refused() -> None:
    policy = msgspec.structs.replace(POLICY, mails={"last": MailText(subject="x", text="{password}")})
    assert any("{password}" in reason for reason in refusals(policy))
    assert filled_in("{customer}", {"customer": "{link}", "link": "x"}) == "{link}"


def test_an_own_invoice_is_shown_where_it_can_be_looked_at(shop: Shop) -> None:
    shop.policy(PRESETS["reminders-only"])
    _, invoice = issued(shop)
    shop.pass_days(12)
    ((subject, body),) = written(shop)
    assert subject == f"Reminder: invoice {invoice.number}"
    (token,) = re.findall(rf"{PUBLIC}/i/(\S+)", body)
    with shop.world.database.read() as tx:
        link = find_link(tx, token, shop.world.clock())
    assert link is not None
    assert link.invoice_id == invoice.id
