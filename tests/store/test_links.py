"""Hosted links open one invoice to whoever holds them, for a time."""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa
from store.databases import NOW

from billhook.store.database import Database
from billhook.store.links import create_link, find_link, hosted_links, list_links, revoke_link

EXPIRES = NOW + timedelta(days=30)


def test_a_link_opens_its_invoice_until_it_expires(database: Database) -> None:
    with database.begin() as tx:
        link_id, token = create_link(tx, "mrc_a", "inv_1", EXPIRES, NOW)
        found = find_link(tx, token, EXPIRES - timedelta(microseconds=1))
        assert found is not None
        assert (found.id, found.merchant_id, found.invoice_id) == (link_id, "mrc_a", "inv_1")
        assert find_link(tx, token, EXPIRES) is None
        assert find_link(tx, token[:-1], NOW) is None
        assert find_link(tx, "", NOW) is None


def test_a_token_has_256_bits_and_is_not_stored(database: Database) -> None:
    with database.begin() as tx:
        tokens = {create_link(tx, "mrc_a", "inv_1", EXPIRES, NOW)[1] for _ in range(3)}
        stored = [bytes(digest) for digest in tx.execute(sa.select(hosted_links.c.digest)).scalars()]
    assert len(tokens) == 3
    assert {len(token) for token in tokens} == {43}  # 32 bytes in base64
    assert not {token.encode() for token in tokens} & set(stored)


def test_a_revoked_link_opens_nothing_and_no_merchant_revokes_anothers(database: Database) -> None:
    with database.begin() as tx:
        link_id, token = create_link(tx, "mrc_a", "inv_1", EXPIRES, NOW)
        _, other = create_link(tx, "mrc_a", "inv_1", EXPIRES, NOW)
        assert not revoke_link(tx, link_id, NOW, merchant_id="mrc_b")
        assert find_link(tx, token, NOW) is not None
        assert revoke_link(tx, link_id, NOW, merchant_id="mrc_a")
        assert not revoke_link(tx, link_id, NOW)
        assert find_link(tx, token, NOW) is None
        assert find_link(tx, other, NOW) is not None
        assert [link.revoked_at for link in list_links(tx, "inv_1")] == [NOW, None]
