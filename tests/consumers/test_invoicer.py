"""From a finalized invoice to a file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from consumers.lifecycle import event, invoice
from consumers.world import World
from pypdf import PdfReader

from billhook.outlets.objects import open_objects
from billhook.outlets.pdf import Wkhtmltopdf


def test_a_paid_invoice_becomes_an_invoice_and_a_receipt(world: World, tmp_path: Path) -> None:
    objects = open_objects(f"file://{tmp_path}")
    world.arrive(world.stripe_source, event(1, "invoice.paid", invoice("in_1", "paid", paid=1190), 1_772_366_400))
    world.post()
    world.render(Wkhtmltopdf(), objects)

    files = world.rows("documents", "kind", "state", "object_key", "sha256", "size")
    assert [row[:2] for row in files] == [("invoice", "ready"), ("receipt", "ready")]
    for _, _, key, sha256, size in files:
        pdf = objects.get(key, sha256)
        assert len(pdf) == size
        text = PdfReader(BytesIO(pdf)).pages[0].extract_text().replace("\t", " ")
        assert "A-in_1" in text
        assert "Acme Ltd" in text
        assert "11.90" in text


def test_documents_wait_where_the_engine_is_missing_and_are_made_once_it_is_there(world: World, tmp_path: Path) -> None:
    objects = open_objects(f"file://{tmp_path}")
    world.arrive(world.stripe_source, event(1, "invoice.finalized", invoice("in_1", "open"), 1_772_366_400))
    world.post()
    for _ in range(30):
        world.render(Wkhtmltopdf(tmp_path / "not-installed"), objects)
        world.clock.move(seconds=15)
    ((state, attempts, error),) = world.rows("documents", "state", "attempts", "last_error")
    assert (state, attempts) == ("due", 0)
    assert "apt-get install wkhtmltopdf" in error

    world.render(Wkhtmltopdf(), objects)
    assert world.rows("documents", "state", "last_error") == [("ready", None)]
