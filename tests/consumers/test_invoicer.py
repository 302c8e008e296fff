"""From a finalized invoice to a file, and out by mail."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from consumers.lifecycle import event, invoice
from consumers.world import World
from pypdf import PdfReader

from billhook.documents.engines import Engines
from billhook.documents.typst import TypstRenderer
from billhook.documents.wkhtmltopdf import Wkhtmltopdf
from billhook.outlets.objects import Objects, open_objects
from billhook.rules.document import Logo, Snapshot
from billhook.rules.invoicing_settings import InvoicingSettings
from billhook.store.documents import NewDocument, add_documents, documents
from billhook.store.merchants import set_invoicing
from billhook.store.templates import create_template
from billhook_testing import samples
from services.invoicer.stages import STAGES

ABSENT = Path("/not-installed")


@pytest.fixture
def engines() -> Iterator[Engines]:
    """As they are on this machine."""
    with contextlib.closing(Engines()) as engines:
        yield engines


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return open_objects(f"file://{tmp_path / 'objects'}")


def ask(world: World, snapshot: Snapshot, **fields: Any) -> str:
    """Ask for a document of it; returns its id."""
    return ask_all(world, [snapshot], **fields)[0]


def ask_all(world: World, snapshots: list[Snapshot], **fields: Any) -> list[str]:
    wanted = [
        NewDocument(
            world.merchant_id,
            f"inv_{place}",
            snapshot.kind,
            snapshot.template,
            msgspec.json.encode(snapshot),
            **fields,
        )
        for place, snapshot in enumerate(snapshots)
    ]
    with world.database.begin() as tx:
        return add_documents(tx, wanted, world.clock())


def unsettle(world: World, *, attempts: int) -> None:
    forgotten = dict.fromkeys(("object_key", "sha256", "warning"))
    unsettled = {"state": "due", "due_at": world.clock(), "attempts": attempts, **forgotten}
    with world.database.begin() as tx:
        tx.execute(sa.update(documents).values(**unsettled))


def text_of(world: World, objects: Objects) -> str:
    """What the only document says, checked as readers check it."""
    ((key, sha256, size),) = world.rows("documents", "object_key", "sha256", "size")
    pdf = objects.get(key, sha256)
    assert len(pdf) == size
    return "".join(page.extract_text() for page in PdfReader(BytesIO(pdf)).pages).replace("\t", " ")


def test_a_paid_invoice_becomes_an_invoice_and_a_receipt(world: World, engines: Engines, objects: Objects) -> None:
    world.arrive(world.stripe_source, event(1, "invoice.paid", invoice("in_1", "paid", paid=1190), 1_772_366_400))
    world.post()
    world.render(engines, objects)

    files = world.rows("documents", "kind", "state", "object_key", "sha256", "size")
    assert [row[:2] for row in files] == [("invoice", "ready"), ("receipt", "ready")]
    for _, _, key, sha256, size in files:
        pdf = objects.get(key, sha256)
        assert len(pdf) == size
        text = PdfReader(BytesIO(pdf)).pages[0].extract_text().replace("\t", " ")
        assert "A-in_1" in text
        assert "Acme Ltd" in text
        assert "11.90" in text


def test_the_days_of_a_mirrored_invoice_are_those_of_its_merchants_zone(
    world: World, engines: Engines, objects: Objects
) -> None:
    with world.database.begin() as tx:
        set_invoicing(tx, world.merchant_id, InvoicingSettings(zone="Pacific/Auckland"))
    at = 1_772_366_400  # noon in UTC
    made = invoice("in_1", "open", status_transitions={"finalized_at": at})
    world.arrive(world.stripe_source, event(1, "invoice.finalized", made, at))
    world.post()
    world.render(engines, objects)
    assert "March 2, 2026" in text_of(world, objects).replace("\N{NO-BREAK SPACE}", " ")


def test_documents_wait_where_their_engine_is_missing_and_are_made_once_it_is_there(
    world: World, engines: Engines, objects: Objects, tmp_path: Path
) -> None:
    binary = tmp_path / "wkhtmltopdf"
    ask(world, samples.invoice(samples.terms(1)))
    with contextlib.closing(Engines("wkhtmltopdf", wkhtmltopdf=Wkhtmltopdf(binary))) as late:
        for _ in range(30):
            world.render(late, objects)
            world.clock.move(seconds=15)
        ((state, attempts, error),) = world.rows("documents", "state", "attempts", "last_error")
        assert (state, attempts) == ("due", 0)
        assert "apt-get install wkhtmltopdf" in error

        found = shutil.which("wkhtmltopdf")
        if found is None:
            pytest.skip("wkhtmltopdf is not installed: apt-get install wkhtmltopdf")
        binary.symlink_to(found)
        world.render(late, objects)
    assert world.rows("documents", "state", "last_error") == [("ready", None)]


def test_where_wkhtmltopdf_is_missing_typst_draws(world: World, objects: Objects) -> None:
    ask(world, samples.invoice(samples.terms(1)))
    with contextlib.closing(Engines(wkhtmltopdf=Wkhtmltopdf(ABSENT))) as engines:
        world.render(engines, objects)
        assert world.rows("documents", "state", "engine") == [("ready", TypstRenderer().name)]
    assert "INV-2026-0042" in text_of(world, objects)


def test_a_merchants_wish_for_an_engine_is_followed(world: World, engines: Engines, objects: Objects) -> None:
    with world.database.begin() as tx:
        set_invoicing(tx, world.merchant_id, InvoicingSettings(engine="typst"))
    ask(world, samples.invoice(samples.terms(1)))
    world.render(engines, objects)
    assert world.rows("documents", "state", "engine") == [("ready", TypstRenderer().name)]


def test_equal_documents_share_one_file_and_others_do_not(world: World, engines: Engines, objects: Objects) -> None:
    one, other = samples.invoice(samples.terms(1)), samples.invoice(samples.terms(2))
    ask_all(world, [one, other, one])
    world.render(engines, objects)
    keys = [key for _, key in world.rows("documents", "subject_id", "object_key")]
    assert keys[0] == keys[2] != keys[1]


def test_a_file_stored_before_a_crash_is_taken_and_not_drawn_again(world: World, objects: Objects) -> None:
    ask(world, samples.invoice(samples.terms(1)))
    with contextlib.closing(Engines("typst")) as engines:
        world.render(engines, objects)
    ((document_id, key, sha256),) = world.rows("documents", "id", "object_key", "sha256")
    unsettle(world, attempts=1)  # as if the process had died between storing the file and settling
    with contextlib.closing(Engines("typst", typst=TypstRenderer(command=("/nowhere",)))) as broken:
        world.render(broken, objects)
    assert world.rows("documents", "id", "state", "object_key", "sha256") == [(document_id, "ready", key, sha256)]


def test_a_warning_is_known_to_who_follows_a_worker_that_died_before_it_could_write_it(
    world: World, engines: Engines, objects: Objects
) -> None:
    ask(world, samples.invoice(samples.terms(1), description="Thanks \U00050001"))
    world.render(engines, objects)
    ((key, sha256, warning),) = world.rows("documents", "object_key", "sha256", "warning")
    assert "\\U00050001" in warning
    unsettle(world, attempts=1)
    world.render(engines, objects)
    assert world.rows("documents", "object_key", "sha256", "warning") == [(key, sha256, warning)]


def test_what_is_stored_under_the_name_stays_and_is_taken_if_it_is_whole(world: World, objects: Objects) -> None:
    ask(world, samples.invoice(samples.terms(1)))
    with contextlib.closing(Engines("typst")) as engines:
        world.render(engines, objects)
        ((key, sha256),) = world.rows("documents", "object_key", "sha256")
        # The same document drawn elsewhere, with other fonts.
        elsewhere = objects.get(key, sha256).replace(b"%PDF-1.7", b"%PDF-1.6", 1)
        path = next(Path(objects._root).rglob("*.pdf"))  # type: ignore[attr-defined]
        path.write_bytes(elsewhere)
        unsettle(world, attempts=0)
        world.render(engines, objects)
    digest = hashlib.sha256(elsewhere).hexdigest()
    assert world.rows("documents", "state", "object_key", "sha256") == [("ready", key, digest)]
    assert path.read_bytes() == elsewhere


def test_a_document_with_addresses_is_mailed_with_its_file(world: World, engines: Engines, objects: Objects) -> None:
    snapshot = samples.invoice(samples.terms(1))
    ask(world, snapshot, mail_to=("one@example.com", "two@example.com"))
    world.render(engines, objects)
    ((key, sha256),) = world.rows("documents", "object_key", "sha256")
    sent = world.rows("mails", "recipient", "attachments")
    assert [recipient for recipient, _ in sent] == ["one@example.com", "two@example.com"]
    for _, ((attachment),) in sent:
        assert (attachment["key"], attachment["sha256"]) == (key, sha256)


def test_an_e_invoice_is_pdf_a_with_the_data_in_it_and_a_receipt_is_none(
    world: World, engines: Engines, objects: Objects
) -> None:
    made = samples.terms(3, "de")
    ask_all(world, [samples.invoice(made), samples.receipt(made)], e_invoice=True)
    world.render(engines, objects)
    (first, second) = world.rows("documents", "subject_id", "state", "object_key", "sha256", "last_error")
    assert (first[1], second[1]) == ("ready", "ready"), (first, second)
    invoice_pdf, receipt_pdf = (PdfReader(BytesIO(objects.get(row[2], row[3]))) for row in (first, second))
    assert b"INV-2026-0042" in invoice_pdf.attachments["factur-x.xml"][0]
    assert not receipt_pdf.attachments
    measured = world.metrics.document_seconds
    assert all(measured.labels(stage)._value.get() > 0 for stage in STAGES)


def test_what_cannot_be_an_e_invoice_is_a_dead_letter_that_says_why(
    world: World, engines: Engines, objects: Objects
) -> None:
    ask(world, samples.invoice(samples.terms(1), number=None), e_invoice=True)
    world.render(engines, objects)
    ((state, error),) = world.rows("documents", "state", "last_error")
    assert state == "dead"
    assert "the number is missing" in error


def test_a_merchants_template_is_used_and_nobody_elses(
    world: World, wkhtmltopdf: Path, engines: Engines, objects: Objects
) -> None:
    with world.database.begin() as tx:
        ours = create_template(tx, world.merchant_id, "ours", "<h1>Ours: {{ document.title }}</h1>", world.clock()).id
    ask(world, samples.invoice(samples.terms(1), template=ours))
    world.render(engines, objects)
    assert text_of(world, objects).split() == ["Ours:", "Invoice"]


def test_a_template_that_is_not_the_merchants_is_a_dead_letter(
    world: World, engines: Engines, objects: Objects
) -> None:
    ask(world, samples.invoice(samples.terms(1), template="tpl_" + "0" * 32))
    world.render(engines, objects)
    ((state, error),) = world.rows("documents", "state", "last_error")
    assert state == "dead"
    assert "none of the merchant's" in error


@pytest.fixture
def wkhtmltopdf() -> Path:
    found = shutil.which("wkhtmltopdf")
    if found is None:
        pytest.skip("wkhtmltopdf is not installed: apt-get install wkhtmltopdf")
    return Path(found)


def engine(path: Path, wkhtmltopdf: Path, fate: str) -> Wkhtmltopdf:
    """One that meets its fate at the page with POISON in it, as long as the file `path`.cured is not there."""
    path.write_text(
        f"""#!/bin/sh
while read -r source target; do
  if grep -q POISON "$source" && ! [ -e {path}.cured ]; then {fate}; fi
  echo "$source $target" | {wkhtmltopdf} "$@" || exit 1
done
"""
    )
    path.chmod(0o755)
    return Wkhtmltopdf(path, seconds=5)


@pytest.mark.parametrize("fate", ["sleep 600", "kill -9 $$"])
def test_an_engine_that_hangs_or_dies_costs_one_document_a_try_and_the_others_nothing(
    world: World, wkhtmltopdf: Path, objects: Objects, tmp_path: Path, fate: str
) -> None:
    numbers = ("N-1", "POISON", "N-3")
    ask_all(world, [samples.invoice(samples.terms(1), number=number) for number in numbers])
    mortal = engine(tmp_path / "engine", wkhtmltopdf, fate)
    with contextlib.closing(Engines("wkhtmltopdf", wkhtmltopdf=mortal)) as engines:
        world.render(engines, objects)
        assert world.rows("documents", "subject_id", "state", "attempts") == [
            ("inv_0", "ready", 1),
            ("inv_1", "due", 1),
            ("inv_2", "ready", 1),
        ]
        (tmp_path / "engine.cured").touch()
        world.clock.move(seconds=2)
        world.render(engines, objects)
    assert world.rows("documents", "subject_id", "state", "attempts")[1] == ("inv_1", "ready", 2)


def test_a_document_whose_logo_is_not_there_waits_alone(world: World, engines: Engines, objects: Objects) -> None:
    good = samples.invoice(samples.terms(1))
    logo = Logo(media_type="image/png", key="logos/aa/bb.png", sha256="0" * 64, width=1, height=1)
    lost = msgspec.structs.replace(good, seller=msgspec.structs.replace(good.seller, logo=logo))
    ask_all(world, [good, lost])
    world.render(engines, objects)
    (first, second) = world.rows("documents", "subject_id", "state", "last_error")
    assert first == ("inv_0", "ready", None)
    assert second[1] == "due"
    assert "logos/aa/bb.png" in second[2]
