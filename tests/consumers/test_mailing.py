"""From a row to a mail in somebody's hands, or a dead letter that says why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from consumers.world import Silence, World, run_until_quiet
from outlets.mail_server import MailServer, mail_server

from billhook.outlets.mail.mailer import Mailer, open_mailer
from billhook.outlets.objects import Objects, document_key, open_objects
from billhook.queue.steps import Steps
from billhook.rules.retry import MAX_ATTEMPTS
from billhook.store import queues
from billhook.store.mails import Attachment, NewMail, add_mails
from services.courier.mailing import Mailing, MailJob

SENDER = "billhook <billing@acme.test>"
PDF = b"%PDF-1.4 an invoice"
DIGEST = hashlib.sha256(PDF).hexdigest()


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return open_objects((tmp_path / "objects").as_uri())


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


@pytest.fixture
def mailer(server: MailServer) -> Mailer:
    return open_mailer(f"smtp://127.0.0.1:{server.port}?tls=none", SENDER)


def write(world: World, *about: str, attachments: tuple[Attachment, ...] = ()) -> list[str]:
    new = [NewMail(world.merchant_id, one, "ada@acme.test", f"About {one}", "Hello\n", attachments) for one in about]
    with world.database.begin() as tx:
        return [add_mails(tx, [mail], world.clock())[0] for mail in new]


def steps_of(world: World, mailer: Mailer, objects: Objects) -> Steps[MailJob, None]:
    return Steps(Mailing(mailer, objects, world.clock, a_day=2), world.database, Silence(), world.metrics, world.clock)


def send(world: World, mailer: Mailer, objects: Objects) -> None:
    """Let the courier try every mail that is due."""
    run_until_quiet(steps_of(world, mailer, objects))


def test_a_mail_is_sent_and_settled(world: World, mailer: Mailer, server: MailServer, objects: Objects) -> None:
    first, second = write(world, "one", "two")
    send(world, mailer, objects)
    arrived = [message_from_bytes(one.content, policy=policy.default) for one in server.arrived]
    assert {(mail["Message-ID"], mail["Subject"]) for mail in arrived} == {
        (f"<{first}@acme.test>", "About one"),
        (f"<{second}@acme.test>", "About two"),
    }
    assert {mail["Date"].datetime for mail in arrived} == {world.clock().replace(microsecond=0)}
    assert world.rows("mails", "state", "attempts") == [("sent", 1), ("sent", 1)]


def test_without_a_mail_server_mails_are_files(world: World, objects: Objects, tmp_path: Path) -> None:
    [mail_id] = write(world, "one")
    send(world, open_mailer((tmp_path / "mail").as_uri(), SENDER), objects)
    assert b"Subject: About one" in (tmp_path / "mail" / f"{mail_id}.eml").read_bytes()
    assert world.rows("mails", "state") == [("sent",)]


def test_a_file_goes_along_from_the_object_store(
    world: World, mailer: Mailer, server: MailServer, objects: Objects
) -> None:
    objects.put_once(document_key(DIGEST), PDF)
    file = Attachment("invoice.pdf", "application/pdf", document_key(DIGEST), DIGEST)
    write(world, "one", attachments=(file, replace(file, name="copy.pdf")))
    send(world, mailer, objects)
    [arrived] = server.arrived
    mail = message_from_bytes(arrived.content, policy=policy.default)
    files = [(part.get_filename(), part.get_content()) for part in mail.iter_attachments()]
    assert files == [("invoice.pdf", PDF), ("copy.pdf", PDF)]


def test_a_mail_whose_file_is_missing_waits_for_it_and_in_the_end_is_given_up(
    world: World, mailer: Mailer, server: MailServer, objects: Objects
) -> None:
    write(world, "one", attachments=(Attachment("invoice.pdf", "application/pdf", document_key(DIGEST), DIGEST),))
    send(world, mailer, objects)
    assert server.arrived == []
    ((state, reason),) = world.rows("mails", "state", "last_error")
    assert state == "due"
    assert f"{document_key(DIGEST)} is not in" in reason

    objects.put_once(document_key(DIGEST), PDF)
    world.clock.move(minutes=10)
    send(world, mailer, objects)
    assert len(server.arrived) == 1

    other = hashlib.sha256(b"never written").hexdigest()
    write(world, "two", attachments=(Attachment("invoice.pdf", "application/pdf", document_key(other), other),))
    for _ in range(MAX_ATTEMPTS):
        send(world, mailer, objects)
        world.clock.move(hours=10)
    assert len(server.arrived) == 1
    ((reason,),) = world.rows("dead_letters", "reason")
    assert f"{document_key(other)} is not in" in reason


def test_a_mail_that_is_not_taken_now_is_sent_later_as_the_same_mail(
    world: World, mailer: Mailer, server: MailServer, objects: Objects
) -> None:
    [mail_id] = write(world, "one")
    written_at = world.clock().replace(microsecond=0)  # a mail counts whole seconds
    server.answers["DATA"] = ["451 4.7.1 greylisted"]
    send(world, mailer, objects)
    ((state, attempts, error),) = world.rows("mails", "state", "attempts", "last_error")
    assert (state, attempts) == ("due", 1)
    assert error.endswith("451 4.7.1 greylisted")

    world.clock.move(minutes=10)
    send(world, mailer, objects)
    [arrived] = server.arrived
    mail = message_from_bytes(arrived.content, policy=policy.default)
    assert (mail["Message-ID"], mail["Date"].datetime) == (f"<{mail_id}@acme.test>", written_at)
    assert world.rows("mails", "state", "attempts", "last_error") == [("sent", 2, None)]


def test_an_address_that_is_refused_is_a_dead_letter_in_the_servers_words_and_holds_up_nobody(
    world: World, mailer: Mailer, server: MailServer, objects: Objects
) -> None:
    write(world, "one", "two")
    server.answers["RCPT"] = ["550 5.1.1 no such user"]
    send(world, mailer, objects)
    assert sorted(world.rows("mails", "state", "attempts")) == [("dead", 1), ("sent", 1)]
    ((queue, work_id, reason),) = world.rows("dead_letters", "queue", "work_id", "reason")
    assert queue == "mails"
    assert "the address ada@acme.test was refused" in reason
    assert "550 5.1.1 no such user" in reason
    ((kind, body),) = world.rows("messages", "type", "body")
    told = json.loads(body)["data"]
    assert (kind, told["id"], told["recipient"]) == ("mail.refused", work_id, "ada@acme.test")
    assert "550 5.1.1 no such user" in told["reason"]

    with world.database.begin() as tx:
        queues.replay(tx, "mails", [work_id], by="test", now=world.clock())
    send(world, mailer, objects)
    assert world.rows("mails", "state") == [("sent",), ("sent",)]


def test_a_merchant_mails_so_many_times_a_day_and_what_is_over_that_goes_later(
    world: World, mailer: Mailer, server: MailServer, objects: Objects
) -> None:
    with world.database.begin() as tx:
        theirs = [NewMail(world.merchant_id, f"{n}", "a@b.test", "Invoice", "", sender_name="Acme") for n in range(4)]
        add_mails(tx, theirs, world.clock())
    send(world, mailer, objects)
    write(world, "what billhook says is not counted")
    send(world, mailer, objects)
    assert len(server.arrived) == 3
    waiting = {row for row in world.rows("mails", "state", "attempts", "last_error") if row[0] == "due"}
    limit = "the merchant's limit of 2 mails in 24 hours is reached: it goes out later"
    assert waiting == {("due", 0, limit)}

    world.clock.move(hours=23)
    send(world, mailer, objects)
    assert len(server.arrived) == 3
    world.clock.move(hours=1)
    send(world, mailer, objects)
    assert [state for (state,) in world.rows("mails", "state")] == ["sent"] * 5


def test_while_no_server_answers_mails_wait_and_in_the_end_are_given_up(world: World, objects: Objects) -> None:
    with mail_server() as gone:
        nobody = open_mailer(f"smtp://127.0.0.1:{gone.port}?tls=none", SENDER)
    write(world, "one")
    for _ in range(MAX_ATTEMPTS):
        assert world.rows("mails", "state") == [("due",)]
        send(world, nobody, objects)
        world.clock.move(hours=10)
    assert world.rows("mails", "state", "attempts") == [("dead", MAX_ATTEMPTS)]


def test_after_a_crash_between_sending_and_settling_the_mail_goes_again_under_the_same_id(
    world: World, mailer: Mailer, server: MailServer, objects: Objects
) -> None:
    write(world, "one")
    dying = steps_of(world, mailer, objects)
    _, envelopes = dying.claim(None, 1)
    dying.handler.perform(envelopes)
    send(world, mailer, objects)
    assert len(server.arrived) == 1, "the lease is not over"

    world.clock.move(seconds=60)
    send(world, mailer, objects)
    first, second = server.arrived
    assert first.content == second.content
    assert world.rows("mails", "state", "attempts") == [("sent", 2)]
