"""Two people change one merchant's settings at once."""

from __future__ import annotations

import threading

import pytest
from actions.office import Office

from billhook.actions.invoicing_settings import change_logo, change_seller
from billhook.rules.document import Logo, Seller
from billhook.store.database import Database

LOGO = Logo(media_type="image/png", key="logos/aa/bb.png", sha256="0" * 64, width=1, height=1)


@pytest.fixture
def office(database: Database) -> Office:
    return Office.open(database)


def test_who_sets_the_seller_does_not_take_back_the_logo_that_another_sets(office: Office) -> None:
    begun, done = threading.Event(), threading.Event()

    def rename() -> None:
        begun.set()
        with office.env.database.begin() as tx:
            change_seller(tx, office.merchant_id, Seller(name="Renamed"))
        done.set()

    other = threading.Thread(target=rename)
    with office.env.database.begin() as tx:
        change_logo(tx, office.merchant_id, LOGO)
        other.start()
        begun.wait()
        assert not done.wait(0.2)  # it waits for what is being written
    other.join()
    assert (office.merchant.seller.name, office.merchant.seller.logo) == ("Renamed", LOGO)
