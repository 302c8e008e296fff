"""Mails: each thing is told once, however often somebody tells it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from store.databases import NOW

from billhook.store import work
from billhook.store.database import Database
from billhook.store.mails import Attachment, NewMail, add_mails, list_mails, mails

LATER = NOW + timedelta(minutes=1)
FAILING = NewMail("mrc_a", "endpoint.failing:ep_1:2026", "ada@a.test", "It fails", "Hello Ada\n")
DISABLED = replace(FAILING, about="endpoint.disabled:ep_1:2026", subject="It was disabled")


def test_a_mail_about_something_is_written_once(database: Database) -> None:
    with database.begin() as tx:
        first = add_mails(tx, [FAILING, DISABLED, replace(FAILING, subject="once more")], NOW)
        assert len(first) == 2
    with database.begin() as tx:
        [theirs] = add_mails(tx, [DISABLED, replace(DISABLED, merchant_id="mrc_b")], LATER)
        assert add_mails(tx, [FAILING, DISABLED], LATER) == []
        assert add_mails(tx, [], LATER) == []
    with database.read() as tx:
        assert {row["id"] for row in list_mails(tx, merchant_id="mrc_a")} == {*first}
        assert {row["subject"] for row in list_mails(tx, merchant_id="mrc_a")} == {"It fails", "It was disabled"}
        assert work.due_ids(tx, mails, now=NOW, limit=9) == sorted(first)
        assert work.due_ids(tx, mails, now=LATER, limit=9) == [*sorted(first), theirs]


def test_a_mail_keeps_one_message_id_of_its_own(database: Database) -> None:
    with database.begin() as tx:
        ids = add_mails(tx, [FAILING, DISABLED], NOW)
    for at in (NOW, NOW + timedelta(hours=1)):
        with database.begin() as tx:
            claim = work.claim(tx, mails, ids=None, limit=9, max_attempts=9, now=at, lease=timedelta(minutes=1))
            assert {row["message_id"] for row in claim.rows} == {f"<{mail_id}@billhook>" for mail_id in ids}


def test_what_was_written_is_what_is_claimed(database: Database) -> None:
    file = Attachment("Rechnung März.pdf", "application/pdf", "documents/ab/cd.pdf", "ab" * 32)
    new = replace(FAILING, recipient="Zoë <zoe@a.test>", body="Grüße\n", attachments=(file,))
    with database.begin() as tx:
        add_mails(tx, [new], NOW)
        claim = work.claim(tx, mails, ids=None, limit=1, max_attempts=9, now=NOW, lease=timedelta(minutes=1))
    [row] = claim.rows
    assert (row["recipient"], row["subject"], row["body"]) == ("Zoë <zoe@a.test>", "It fails", "Grüße\n")
    assert [Attachment(**attachment) for attachment in row["attachments"]] == [file]
    assert (row["created_at"], row["due_at"], row["attempts"]) == (NOW, NOW, 1)


def test_mails_are_listed_by_merchant_and_state_newest_first(database: Database) -> None:
    theirs = replace(FAILING, merchant_id="mrc_b")
    with database.begin() as tx:
        made = [add_mails(tx, [mail], NOW)[0] for mail in (FAILING, DISABLED, theirs)]
        work.finish(tx, mails, made[:1], "sent", NOW)
    with database.read() as tx:

        def found(merchant_id: str | None, **wanted: str) -> list[str]:
            return [row["id"] for row in list_mails(tx, merchant_id=merchant_id, **wanted)]

        assert found("mrc_a") == [made[1], made[0]]
        assert found("mrc_b") == [made[2]]
        assert found(None) == made[::-1]
        assert found("mrc_a", state="sent") == [made[0]]
        assert found(None, before=made[1]) == [made[0]]
