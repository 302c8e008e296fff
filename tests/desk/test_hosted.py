"""Hosted pages: who holds a link sees one invoice as it stands, and whoever does not learns nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import requests
from desk.hosting import Hosted, host, opened
from desk.world import NOW, Desk, World, new_env, refused, serving
from outlets.buckets import Bucket, s3rver

from billhook.actions import invoices
from billhook.documents.words import hosted_words
from billhook.errors import SettingsError
from billhook.rules.terms import CreditLine, CreditTerms
from billhook.runtime.settings import read_settings
from billhook.store.database import Database
from billhook.store.merchants import get_merchant
from billhook_testing import samples
from billhook_testing.clock import ManualClock

__all__ = ["s3rver"]

PDF = b"%PDF-1.4 the invoice"
RECEIPT = b"%PDF-1.4 the receipt"


@pytest.fixture
def hosted(desk: Desk) -> Hosted:
    return host(desk, samples.terms(3))


def test_a_link_shows_the_invoice_and_its_address_is_told_once(hosted: Hosted) -> None:
    link = hosted.link(expires_in_days=30)
    assert re.fullmatch(r"http://127\.0\.0\.1:8601/i/[\w-]{43}", link["url"])
    assert link["expires_at"] == "2026-02-04T09:00:00Z"
    page = opened(link["here"])
    assert page.status_code == 200
    for said in ("INV-0001", "Northwind Cloud Ltd", "Harbor &amp; Sons Logistics, Inc.", "Team plan", "€785.68 due"):
        assert said in page.text
    token = link["url"].rpartition("/")[2]
    listed = hosted.ask("GET")
    assert [row["id"] for row in listed.json()["data"]] == [link["id"]]
    assert token not in listed.text


def test_a_page_is_kept_by_nobody_found_by_nobody_and_runs_nothing(hosted: Hosted) -> None:
    hosted.settle("invoice", PDF)
    here = hosted.link()["here"]
    for answer in (opened(here), opened(f"{here}/document.pdf"), opened(f"{here}x"), opened(f"{here}/other.pdf")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "noindex" in answer.headers["X-Robots-Tag"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers
        if answer.headers["Content-Type"].startswith("text/html"):
            policy = answer.headers["Content-Security-Policy"]
            assert policy.startswith("default-src 'none'; style-src 'nonce-")
            assert "unsafe" not in policy
            assert "script" not in policy
            assert "<script" not in answer.text
    assert opened(here).headers["Content-Security-Policy"] != opened(here).headers["Content-Security-Policy"]


def test_no_answer_tells_a_link_that_was_good_from_one_that_never_was(hosted: Hosted, clock: ManualClock) -> None:
    revoked, expired, good = hosted.link(), hosted.link(expires_in_days=1), hosted.link()
    assert hosted.ask("DELETE", f"/{revoked['id']}").status_code == 204
    clock.move(days=2)
    never = f"{hosted.desk.address}/i/{'A' * 43}"
    answers = [
        opened(base + path, method)
        for method in ("GET", "HEAD")
        for path in ("", "/document.pdf", "/receipt.pdf")
        for base in (
            revoked["here"],
            expired["here"],
            never,
            never + "A" * 5000,
            never[:-1] + "%00",
            never[:-1] + "%ff",
        )
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({re.sub('nonce="[^"]+"', "", answer.text) for answer in answers}) == 2, "one for GET, nothing for HEAD"
    names = {tuple(sorted(set(answer.headers) - {"date"})) for answer in answers}
    assert len(names) == 1
    assert opened(good["here"]).status_code == 200


WISHES = [("", "en"), ("de-AT,en;q=0.7", "de"), ("tlh, ar;q=0.3", "ar"), (";;,,\\", "en"), ("x" * 5000, "en")]


def test_the_page_of_a_link_that_does_not_work_speaks_the_visitors_language(desk: Desk) -> None:
    for accepted, language in WISHES:
        page = opened(f"{desk.address}/i/nothing", **{"Accept-Language": accepted})
        assert hosted_words(language).gone in page.text
        assert f'lang="{language}"' in page.text


def test_links_last_as_long_as_was_asked_up_to_a_limit(hosted: Hosted, clock: ManualClock) -> None:
    usual, longest = hosted.link(), hosted.link(expires_in_days=400)
    for days in (0, -1, 401, 10**30):
        refused(hosted.ask("POST", json={"expires_in_days": days}), 422, "invalid", "expires_in_days")
    clock.move(days=90)
    assert opened(usual["here"]).status_code == 404
    clock.move(days=310, seconds=-1)
    assert opened(longest["here"]).status_code == 200


def test_revoking_again_changes_nothing_and_what_is_anothers_is_not_found(hosted: Hosted, world: World) -> None:
    link = hosted.link()
    for _ in range(2):
        assert hosted.ask("DELETE", f"/{link['id']}").status_code == 204
    assert hosted.ask("GET").json()["data"][0]["revoked_at"] == NOW.isoformat().replace("+00:00", "Z")
    other = hosted.link()
    path = f"/v1/invoices/{hosted.invoice_id}/links"
    for method, place in (("GET", path), ("POST", path), ("DELETE", f"{path}/{other['id']}")):
        body = {"json": {}} if method == "POST" else {}
        refused(hosted.desk.ask(method, place, world.ours.key, **body), 404, "not_found")
    elsewhere = f"/v1/invoices/{world.ours.ids['invoice_id']}/links/{other['id']}"
    refused(hosted.desk.ask("DELETE", elsewhere, world.ours.key), 404, "not_found")
    assert opened(other["here"]).status_code == 200


def test_a_draft_has_no_page(hosted: Hosted) -> None:
    env = hosted.desk.env
    with env.database.begin() as tx:
        merchant = get_merchant(tx, hosted.merchant_id)
        assert merchant is not None
        draft = invoices.draft(tx, merchant, invoices.check(samples.terms(1)), now=env.clock()).invoice
    answer = hosted.desk.ask("POST", f"/v1/invoices/{draft.id}/links", hosted.key, json={})
    refused(answer, 409, "no_document", "draft")


def test_while_the_pdf_is_made_the_page_says_so(hosted: Hosted) -> None:
    here = hosted.link()["here"]
    assert hosted_words("en").making in opened(here).text
    assert opened(f"{here}/document.pdf").status_code == 404
    hosted.settle("invoice", None)
    assert hosted_words("en").failed in opened(here).text
    assert opened(f"{here}/document.pdf").status_code == 404


def test_the_pdf_is_handed_out_under_its_name_if_it_is_what_was_made(hosted: Hosted) -> None:
    hosted.settle("invoice", PDF)
    here = hosted.link()["here"]
    assert "document.pdf" in opened(here).text
    answer = opened(f"{here}/document.pdf")
    assert answer.content == PDF
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="invoice-INV-0001.pdf"'
    for file in (hosted.desk.env.settings.var / "objects" / "documents").rglob("*.pdf"):
        file.write_bytes(PDF + b"?")
    damaged = opened(f"{here}/document.pdf")
    assert damaged.status_code == 500
    assert PDF not in damaged.content


def test_an_invoice_that_was_paid_since_says_so_and_has_a_receipt(hosted: Hosted) -> None:
    hosted.settle("invoice", PDF)
    here = hosted.link()["here"]
    assert samples.PAY_URL in opened(here).text
    assert opened(f"{here}/receipt.pdf").status_code == 404
    hosted.becomes("pay")
    paid = opened(here).text
    assert "€785.68 paid on January\N{NO-BREAK SPACE}5,\N{NO-BREAK SPACE}2026" in paid
    assert "Pay online" not in paid
    assert samples.PAY_URL not in paid
    hosted.settle("receipt", RECEIPT)
    assert "receipt.pdf" in opened(here).text
    assert opened(f"{here}/receipt.pdf").content == RECEIPT
    assert opened(f"{here}/document.pdf").content == PDF


def test_an_invoice_that_is_void_since_says_so_and_asks_for_nothing(hosted: Hosted) -> None:
    here = hosted.link()["here"]
    hosted.becomes("void")
    void = opened(here).text
    assert "This invoice is void." in void
    assert "Pay online" not in void
    hosted.settle("void", PDF)
    assert opened(f"{here}/document.pdf").headers["Content-Disposition"] == 'attachment; filename="void-INV-0001.pdf"'


def test_what_was_taken_back_is_told_and_not_asked_for(hosted: Hosted) -> None:
    here = hosted.link()["here"]
    hosted.becomes("credit", CreditTerms(lines=(CreditLine(line=0, amount=1000),)))
    page = opened(here).text
    assert re.search(r"<dt>Amount credited</dt><dd>−€10.00</dd>.*\n.*<dt>Amount due</dt><dd>€775.68</dd>", page)
    assert "€775.68 due" in page
    assert "Credit note CN-0001: The PDF is being made." in page
    assert opened(f"{here}/credit-note-1.pdf").status_code == 404
    notes = hosted.desk.get(f"/v1/invoices/{hosted.invoice_id}/credit-notes", key=hosted.key).json()["data"]
    hosted.settle("credit_note", RECEIPT, notes[0]["id"])
    assert "credit-note-1.pdf" in opened(here).text
    assert opened(f"{here}/credit-note-1.pdf").content == RECEIPT


def test_a_bucket_hands_the_file_out_itself_for_a_few_minutes(
    database: Database, tmp_path: Path, s3rver: Bucket, clock: ManualClock
) -> None:
    url = database.url.render_as_string(hide_password=False)
    env = new_env(url, tmp_path, clock)
    vars(env)["objects"] = s3rver.open("hosted")
    with serving(env) as desk:
        hosted = host(desk, samples.terms(1))
        hosted.settle("invoice", PDF)
        answer = opened(hosted.link()["here"] + "/document.pdf")
    env.close()
    assert answer.status_code == 302
    assert "X-Amz-Expires=300" in answer.headers["Location"]
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    file = requests.get(answer.headers["Location"], timeout=30)
    assert file.content == PDF
    assert file.headers["Content-Disposition"] == 'attachment; filename="invoice-INV-0001.pdf"'


def test_addresses_begin_where_customers_reach_the_desk(database: Database, tmp_path: Path) -> None:
    env = new_env(
        database.url.render_as_string(hide_password=False), tmp_path, public_url="https://bills.example/pages/"
    )
    with serving(env) as desk:
        link = host(desk, samples.terms(1)).link()
    env.close()
    assert link["url"].startswith("https://bills.example/pages/i/")


@pytest.mark.parametrize("url", ["ftp://bills.example", "bills.example", "https://", "https://x/?a=1", "https://x y/"])
def test_an_address_that_no_path_can_follow_is_a_setting_to_correct(url: str) -> None:
    with pytest.raises(SettingsError, match="BILLHOOK_PUBLIC_URL"):
        read_settings(public_url=url)
