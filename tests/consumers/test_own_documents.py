"""An invoice of a merchant's own, from the draft to the last file: at a moment chosen to hurt, and at the real one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from actions.office import TERMS, Office
from consumers.world import Silence, run_until_quiet
from pypdf import PdfReader

from billhook.actions import invoices
from billhook.documents.engines import Engines
from billhook.documents.wkhtmltopdf import find_wkhtmltopdf
from billhook.metrics import Metrics
from billhook.outlets.objects import Objects, open_objects
from billhook.queue.steps import Steps
from billhook.rules.book.customer import Address
from billhook.rules.document import Seller
from billhook.rules.terms import CreditTerms, Party, Terms
from billhook.runtime.clock import system_clock
from billhook.store.database import Database
from billhook_testing.clock import ManualClock
from services.invoicer.rendering import Rendering

BERLIN = Address(line1="Torstraße 140", city="Berlin", postal_code="10119", country="DE")
E_TERMS = Terms(
    currency="eur",
    buyer=Party(name="Ada", email="ada@example.com", address=BERLIN),
    lines=TERMS.lines,
    customer="cus_1",
    period_start=datetime(2026, 2, 1, 11, 7, 3, tzinfo=UTC),
    period_end=datetime(2026, 2, 28, 11, 7, 3, tzinfo=UTC),
)


@pytest.fixture(params=["auto", "typst", "wkhtmltopdf"])
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    if request.param == "wkhtmltopdf" and find_wkhtmltopdf() is None:
        pytest.skip("wkhtmltopdf is not installed: apt-get install wkhtmltopdf")
    with contextlib.closing(Engines(request.param)) as engines:
        yield engines


@pytest.fixture(params=["awkward", "real"])
def office(request: pytest.FixtureRequest, database: Database) -> Office:
    clock = ManualClock() if request.param == "awkward" else ManualClock(system_clock())
    office = Office.open(database, clock=clock)
    office.sell(Seller(name="Acme GmbH", address=BERLIN, tax_ids=("DE123456789",)))
    return office


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return open_objects(f"file://{tmp_path / 'objects'}")


def render(office: Office, engines: Engines, objects: Objects) -> None:
    rendering = Rendering(engines, objects, Metrics(), office.clock, "https://bills.test")
    run_until_quiet(Steps(rendering, office.env.database, Silence(), Metrics(), office.clock))


@pytest.mark.parametrize("e_invoice", [False, True])
def test_every_document_of_an_invoices_life_becomes_a_file(
    request: pytest.FixtureRequest, office: Office, engines: Engines, objects: Objects, e_invoice: bool
) -> None:
    if e_invoice and request.node.callspec.params["engines"] == "wkhtmltopdf":
        pytest.skip("only Typst draws PDF/A")
    office.settle(e_invoice=e_invoice)
    paid = office.paid(E_TERMS)
    office.do(invoices.credit, paid.id, CreditTerms())
    office.do(invoices.void, office.issued(E_TERMS).id)
    render(office, engines, objects)

    made = office.rows("documents")
    assert sorted(row["kind"] for row in made) == ["credit_note", "invoice", "invoice", "receipt", "void"]
    for row in made:
        assert (row["state"], row["last_error"]) == ("ready", None)
        assert PdfReader(BytesIO(objects.get(row["object_key"], row["sha256"]))).pages


def test_nothing_of_the_machine_is_in_what_a_merchant_reads(
    office: Office, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that breaks says where it lives; that is for the operator's log."""
    office.issued(E_TERMS)
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    (tmp_path / "typst.py").write_text("raise ValueError('fonts in /opt/secret are broken')\n")
    with contextlib.closing(Engines("typst")) as broken:
        render(office, broken, objects)
    [row] = office.rows("documents")
    assert row["last_error"] == "Typst ended and left no document"
