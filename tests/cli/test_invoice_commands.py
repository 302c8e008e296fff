"""`billhook invoices …` and a merchant's seller and invoicing, as they are typed."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from cli.shell import Shell
from PIL import Image

from billhook.store.documents import list_documents

TERMS = {
    "currency": "eur",
    "buyer": {"name": "A buyer", "email": "buyer@example.com"},
    "lines": [{"description": "Seats", "quantity": "2", "unit_amount": "500"}],
}


@pytest.fixture
def merchant(shell: Shell) -> Any:
    """The only one."""
    return shell.json("merchants", "add", "one")[0]


def draft(shell: Shell, *words: str, **changed: Any) -> Any:
    return shell.json("invoices", "draft", "-", *words, typed=json.dumps({**TERMS, **changed}))[0]


def test_numbers_go_on_behind_those_that_the_ledger_does_not_know_of(shell: Shell, merchant: Any) -> None:
    assert shell.json("invoices", "finalize", draft(shell)["id"])[0]["number"] == "INV-0001"
    [counted] = shell.json("invoices", "count-from", "INV-", "17")
    assert (counted["last"], counted["skipped"]) == (17, 16)
    assert shell.json("invoices", "finalize", draft(shell)["id"])[0]["number"] == "INV-0018"
    assert "numbers never go back" in shell.run("invoices", "count-from", "INV-", "18").stderr
    assert "a mistake?" in shell.run("invoices", "count-from", "INV-", "1000000").stderr
    assert shell.json("invoices", "count-from", "CN-", "3")[0]["skipped"] == 3  # of which there was none yet


def test_an_invoice_lives_on_the_command_line(shell: Shell, merchant: Any, tmp_path: Path) -> None:
    first = draft(shell)
    assert (first["status"], first["number"], first["total"], first["documents"]) == ("draft", None, 1000, [])
    [issued] = shell.json("invoices", "finalize", first["id"])
    assert (issued["status"], issued["number"], issued["lines"]) == ("open", "INV-0001", 1)
    assert shell.json("invoices", "write-off", first["id"])[0]["status"] == "uncollectible"
    [paid] = shell.json("invoices", "pay", first["id"], "--reference", "bank 17")
    assert (paid["status"], paid["amount_paid"]) == ("paid", 1000)
    assert len(paid["documents"]) == 2
    file = tmp_path / "terms.json"
    file.write_text('{"lines": [{"line": 0, "amount": 400}]}')
    [note] = shell.json("invoices", "credit", first["id"], str(file), "--key", "refund-1")
    assert (note["number"], note["total"], note["replayed"]) == ("CN-0001", 400, False)
    assert shell.json("invoices", "credit", first["id"], str(file), "--key", "refund-1") == [{**note, "replayed": True}]
    assert shell.json("invoices", "credit", first["id"])[0]["total"] == 600
    assert shell.json("invoices", "show", first["id"])[0]["amount_credited"] == 1000
    assert "INV-0001" in shell("invoices", "show", first["id"])


def test_a_key_makes_one_invoice_and_a_draft_can_go(shell: Shell, merchant: Any) -> None:
    first = draft(shell, "--key", "order-1", "--finalize")
    assert (first["number"], draft(shell, "--key", "order-1", "--finalize")) == ("INV-0001", first)
    assert shell.json("invoices", "void", first["id"])[0]["status"] == "void"
    second = draft(shell)
    assert second["id"] in shell("invoices", "delete", second["id"])
    assert [row["id"] for row in shell.json("invoices", "list", "--status", "void")] == [first["id"]]
    assert shell("invoices", "list", "--customer", "nobody") == "No such invoices.\n"


def test_a_document_is_mailed_when_it_is_there(shell: Shell, merchant: Any) -> None:
    issued = draft(shell, "--finalize")
    [sent] = shell.json("invoices", "send", issued["id"], "--to", "ada@example.com", "--to", "bob@example.com")
    assert (sent["to"], sent["waiting"]) == (["ada@example.com", "bob@example.com"], True)
    with shell.database.read() as tx:
        [document] = list_documents(tx, issued["id"])
    assert document["mail_to"] == ["ada@example.com", "bob@example.com"]


def test_a_period_is_written_to_standard_output(shell: Shell, merchant: Any) -> None:
    issued = draft(shell, "--finalize", buyer={"name": "=1+1"})
    [row] = csv.DictReader(io.StringIO(shell("invoices", "export", "--from", "2020-01-01")))
    assert (row["number"], row["total"], row["customer_name"]) == ("INV-0001", "10.00", "'=1+1")
    [line] = shell("invoices", "export", "--format", "jsonl", "--merchant", merchant["id"]).splitlines()
    assert (json.loads(line)["id"], json.loads(line)["total"]) == (issued["id"], 1000)
    assert shell("invoices", "export", "--format", "jsonl", "--to", "2020-01-01") == ""
    assert "2026-01-31" in shell.fails("invoices", "export", "--from", "soon")
    assert ";10,00;" in shell("invoices", "export", "--preset", "excel")
    shell.json("invoices", "credit", issued["id"])
    [note] = csv.DictReader(io.StringIO(shell("invoices", "export", "--credit-notes")))
    assert (note["invoice_number"], note["total"]) == ("INV-0001", "10.00")


def test_what_cannot_be_done_with_an_invoice_is_one_sentence(shell: Shell, merchant: Any, tmp_path: Path) -> None:
    issued = draft(shell, "--finalize")["id"]
    for verb in ("show", "finalize", "pay", "void", "write-off", "delete", "credit", "send"):
        assert "invoices list" in shell.fails("invoices", verb, "inv_none")
    assert "cannot finalize" in shell.fails("invoices", "finalize", issued)
    assert "cannot delete" in shell.fails("invoices", "delete", issued)
    assert "receipt" in shell.fails("invoices", "send", issued, "--kind", "receipt")
    assert "paid_at" in shell.fails("invoices", "pay", issued, "--paid-at", "2020-01-01T00:00:00Z")
    assert "2026-01-31T09" in shell.fails("invoices", "pay", issued, "--paid-at", "soon")
    file = tmp_path / "terms.json"
    for text, said in (("{", "JSON"), ("{}", "currency"), (json.dumps({**TERMS, "lnes": []}), "lnes")):
        file.write_text(text)
        assert said in shell.fails("invoices", "draft", str(file))
    assert "cannot be read" in shell.fails("invoices", "draft", str(tmp_path / "none.json"))


def test_the_seller_and_the_numbering_are_set_from_files(shell: Shell, merchant: Any, tmp_path: Path) -> None:
    words = ("merchants", "seller", merchant["id"])
    assert shell.json(*words)[0]["name"] == "one"
    [seller] = shell.json(*words, "--set", "-", typed='{"name": "One GmbH", "accent": "#0a7d4f", "bank": ["IBAN X"]}')
    assert (seller["name"], seller["bank"], seller["logo"]) == ("One GmbH", ["IBAN X"], None)
    picture = tmp_path / "logo.png"
    Image.new("RGB", (30, 20)).save(picture)
    [with_logo] = shell.json(*words, "--logo", str(picture))
    assert (with_logo["logo"]["width"], with_logo["name"]) == (30, "One GmbH")
    assert shell.json(*words, "--no-logo")[0]["logo"] is None
    assert draft(shell)["customer_name"] == "A buyer"

    words = ("merchants", "invoicing", merchant["id"])
    assert shell.json(*words)[0]["invoices"]["prefix"] == "INV-"
    [settings] = shell.json(*words, "--set", "-", typed='{"invoices": {"prefix": "R-"}}')
    assert settings["invoices"] == {"prefix": "R-", "per": "merchant", "yearly": False, "digits": 4}
    assert draft(shell, "--finalize")["number"] == "R-0001"

    picture.write_text("no picture")
    assert "PNG or JPEG" in shell.fails("merchants", "seller", merchant["id"], "--logo", str(picture))
    assert "not both" in shell.fails("merchants", "seller", merchant["id"], "--logo", str(picture), "--no-logo")
    assert "mrc_none" in shell.fails("merchants", "seller", "mrc_none")
    assert shell.json("merchants", "list")[0].keys() == {"id", "name", "locale", "created_at", "contact_email"}
