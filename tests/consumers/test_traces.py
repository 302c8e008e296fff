"""Traces: from the POST through the queues to the last delivery, under the ids of whoever posted."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from consumers.dunning import open_shop
from consumers.lifecycle import event, invoice
from consumers.world import SECRET, World, run_until_quiet, stripe_signature
from courier.dispatching import dispatching, until
from ingress.asgi import Client, running
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from billhook.documents.engines import Engines
from billhook.errors import SettingsError
from billhook.outlets.mail.mailer import open_mailer
from billhook.outlets.objects import open_objects
from billhook.outlets.webhooks.response import Response
from billhook.runtime.env import Env
from billhook.runtime.service import Health
from billhook.runtime.settings import Settings, read_settings
from billhook.store import queues
from billhook.store.database import Database
from billhook.tracing import Tracing
from services.courier.mailing import Mailing
from services.ingress.app import build

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SENDER = "00f067aa0ba902b7"
SENT = f"00-{TRACE}-{SENDER}-01"


class Told(InMemorySpanExporter):
    """What was exported."""

    def named(self, name: str, trace: str | None = None) -> list[ReadableSpan]:
        return [span for span in self.get_finished_spans() if span.name == name and trace in (None, trace_of(span))]

    def in_trace(self, trace: str) -> Counter[str]:
        return Counter(span.name for span in self.get_finished_spans() if trace_of(span) == trace)


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def id_of(span: ReadableSpan) -> str:
    return f"{span.context.span_id:016x}"


def linked(spans: list[ReadableSpan]) -> set[str]:
    return {f"{link.context.span_id:016x}" for span in spans for link in span.links}


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def traced(world: World, told: Told) -> World:
    world.tracing = Tracing("test", told, at_once=True)
    return world


@contextlib.contextmanager
def door(world: World, var: Path) -> Iterator[Client]:
    """The ingress, on the world's ledger."""
    env = Env(Settings(var=var, queue_url="redis://127.0.0.1:1/0"), clock=world.clock)
    vars(env).update(database=world.database, vault=world.vault, tracing=world.tracing)
    with running(build(env, Health())) as client:
        yield client
    env.bell.close()
    env.broker.close()


def post(world: World, client: Client, told: dict[str, Any], **headers: str) -> str:
    body = json.dumps(told).encode()
    signed = stripe_signature(body, at=world.clock().timestamp())
    answer = client.post(f"/v1/sources/{world.stripe_source}/events", body, stripe_signature=signed, **headers)
    assert answer.status == 200, answer.body
    return str(answer.json["id"])


def test_one_post_is_one_trace_up_to_the_last_delivery_and_over_replays(
    traced: World, told: Told, tmp_path: Path
) -> None:
    world = traced
    world.endpoint("https://nowhere.invalid/hook?secret=shibboleth", "invoice.paid")
    paid = event(1, "invoice.paid", invoice("in_1", "paid", paid=1190, customer_name="Ada Lovelace"), 1_772_366_400)
    with door(world, tmp_path) as client:
        event_id = post(world, client, paid, traceparent=SENT)
        post(world, client, paid)  # once more, by a sender that says nothing of a trace
    world.post()
    with contextlib.closing(Engines()) as engines:
        world.render(engines, open_objects((tmp_path / "objects").as_uri()))
    with dispatching(world) as office:

        def answered(*responses: Response, state: str) -> None:
            office.look()
            until(lambda: office.client.sent, "the attempt")
            assert not any("trace" in name.lower() for name in office.client.sent[0][0].headers), "it is inner"
            office.answer(*responses)
            until(lambda: office.states() == [state] and world.rows("deliveries", "token") == [(None,)], state)

        answered(Response("5xx", 500), state="due")
        world.clock.move(hours=1)
        answered(state="delivered")
        with world.database.begin() as tx:
            for queue, row_id in (("deliveries", world.rows("deliveries", "id")[0][0]), ("inbox", event_id)):
                queues.replay(tx, queue, [row_id], by="ada", now=world.clock())
        answered(state="delivered")
    world.post()

    assert told.in_trace(TRACE) == {"accept": 1, "process inbox": 2, "process documents": 2, "deliver": 3}
    (accept,) = told.named("accept", TRACE)
    first, again = told.named("process inbox", TRACE)
    assert parent_of(accept) == SENDER
    assert (parent_of(first), parent_of(again)) == (id_of(accept), id_of(accept))
    delivered = told.named("deliver", TRACE)
    assert {parent_of(span) for span in (*delivered, *told.named("process documents", TRACE))} == {id_of(first)}
    assert [span.attributes["billhook.outcome"] for span in delivered if span.attributes] == [
        *("retry", "delivered", "delivered")
    ]
    assert [span.attributes["billhook.answer"] for span in delivered if span.attributes] == ["5xx", "2xx", "2xx"]
    assert id_of(accept) in linked(told.named("commit inbox"))
    assert id_of(first) in linked(told.named("settle inbox"))
    assert {id_of(span) for span in delivered} <= linked(told.named("settle deliveries"))
    assert world.rows("inbox", "traceparent") == [(f"00-{TRACE}-{id_of(accept)}-01",)]
    assert {told for (told,) in world.rows("documents", "traceparent")} == {f"00-{TRACE}-{id_of(first)}-01"}
    duplicate = next(span for span in told.named("accept") if trace_of(span) != TRACE)
    assert duplicate.attributes
    assert duplicate.attributes["billhook.event_id"] == event_id

    said = " ".join(span.to_json() for span in told.get_finished_spans())
    assert event_id in said
    for secret in (SECRET, "shibboleth", "Ada Lovelace", "A-in_1", "nowhere.invalid"):
        assert secret not in said


def test_what_is_no_traceparent_begins_a_trace_of_its_own(traced: World, told: Told, tmp_path: Path) -> None:
    wrong = (
        "",
        "nonsense",
        SENT[:-3],
        SENT.upper(),
        f"00-{'0' * 32}-{SENDER}-01",
        f"ff-{TRACE}-{SENDER}-01",
        "é" * 999,
    )
    with door(traced, tmp_path) as client:
        for number, traceparent in enumerate(wrong):
            post(traced, client, event(number, "x.y", {}, 1_772_366_400), traceparent=traceparent)
    accepted = told.named("accept")
    assert all(span.parent is None for span in accepted)
    assert len({trace_of(span) for span in accepted} - {TRACE}) == len(wrong)
    kept = {f"00-{trace_of(span)}-{id_of(span)}-" for span in accepted}
    assert {traceparent[:-2] for (traceparent,) in traced.rows("inbox", "traceparent")} == kept


def test_a_sender_that_wants_no_trace_has_none_recorded(traced: World, told: Told, tmp_path: Path) -> None:
    with door(traced, tmp_path) as client:
        post(traced, client, event(1, "x.y", {}, 1_772_366_400), traceparent=f"00-{TRACE}-{SENDER}-00")
    traced.post()
    assert told.in_trace(TRACE) == {}
    ((kept,),) = traced.rows("inbox", "traceparent")
    assert (kept[3:35], kept[-2:]) == (TRACE, "00")


def test_work_that_fails_says_so_and_without_tracing_rows_keep_none(world: World, told: Told) -> None:
    broken = event(2, "invoice.paid", {"id": "in_9", "object": "invoice"}, 1)
    world.arrive(world.stripe_source, broken)
    world.post()
    assert world.rows("inbox", "traceparent", "state") == [(None, "dead")]
    world.tracing = Tracing("test", told, at_once=True)
    world.arrive(world.stripe_source, {**broken, "id": "evt_3"})
    world.post()
    (failed,) = told.named("process inbox")
    assert failed.parent is None
    assert failed.attributes
    assert failed.attributes["billhook.outcome"] == "dead"
    assert not failed.status.is_ok


def test_a_failed_payment_is_followed_to_the_mail_and_the_attempt(
    database: Database, told: Told, tmp_path: Path
) -> None:
    with open_shop(database) as shop:
        shop.policy()
        shop.world.tracing = Tracing("test", told, at_once=True)
        shop.renewal_fails()
        shop.dun()
        shop.pass_days(3)
        mailer = open_mailer((tmp_path / "mail").as_uri(), "billing@acme.test")
        run_until_quiet(shop.world.steps(Mailing(mailer, open_objects(tmp_path.as_uri()), shop.world.clock, a_day=9)))
        ((case,),) = shop.world.rows("dunning_cases", "traceparent")
        messages = dict(shop.world.rows("messages", "type", "traceparent"))
    trace = case[3:35]
    found = told.in_trace(trace)
    assert found.keys() >= {"process inbox", "process dunning_cases", "process payment_attempts", "process mails"}
    assert {messages[name][3:35] for name in ("dunning.case_opened", "dunning.attempt_failed")} == {trace}


def test_a_service_sends_its_spans_where_the_setting_says(tmp_path: Path) -> None:
    taken: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(self.path.encode() + self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        env = Env(Settings(var=tmp_path, traces_url=f"http://127.0.0.1:{collector.server_port}/v1/traces"))
        assert env.tracing is None, "a command is no service"
        env = Env(env.settings)
        env.service = "ingress"
        assert env.tracing is not None
        env.tracing.begin("accept", "server", SENT, {"event_id": "evt_1"}).end("accepted", {})
        env.close()
        collector.shutdown()
    (sent,) = taken
    assert sent.startswith(b"/v1/traces")
    for word in (b"billhook-ingress", b"accept", b"evt_1", bytes.fromhex(TRACE)):
        assert word in sent
    for wrong in ("collector:4318", "ftp://collector", "http://"):
        with pytest.raises(SettingsError, match="BILLHOOK_TRACES_URL"):
            read_settings(var=tmp_path, traces_url=wrong)


def test_without_the_extra_a_service_that_is_to_trace_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "billhook.tracing", None)
    env = Env(Settings(var=tmp_path, traces_url="http://collector:4318/v1/traces"))
    env.service = "ingress"
    with pytest.raises(SettingsError, match=r"install billhook\[tracing\]"):
        env.tracing  # noqa: B018


def test_a_collector_that_is_away_is_said_once_and_holds_up_no_end(caplog: pytest.LogCaptureFixture) -> None:
    class Away(InMemorySpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.FAILURE

    tracing = Tracing("test", Away())
    for _ in range(3):
        tracing.begin("accept", "server", None, {}).end("accepted", {})
    tracing.close()
    assert [record.getMessage() for record in caplog.records] == ["the collector of traces is away"]
