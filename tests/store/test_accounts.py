"""Merchants, their keys, sources and endpoints, and the vault their secrets lie in."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from store.databases import NOW

from billhook.errors import SettingsError
from billhook.store import endpoints, merchants, sources
from billhook.store.database import Database
from billhook.store.merchants import Caller
from billhook.store.vault import Vault, new_key


def test_merchants_are_listed_in_pages(database: Database) -> None:
    with database.begin() as tx:
        made = [merchants.create_merchant(tx, name, NOW, locale="de") for name in ("a", "b", "c")]
        assert merchants.list_merchants(tx, limit=2) == made[:2]
        assert merchants.list_merchants(tx, after=made[1].id) == made[2:]
        assert merchants.get_merchant(tx, made[0].id) == made[0]
        assert merchants.get_merchant(tx, "mrc_none") is None


def test_a_key_tells_who_calls_until_it_is_revoked(database: Database) -> None:
    with database.begin() as tx:
        merchant = merchants.create_merchant(tx, "a", NOW)
        key_id, key = merchants.create_key(tx, merchant.id, "shop", NOW)
        operator_id, operator = merchants.create_key(tx, None, "operator", NOW)
        assert merchants.find_callers(tx, [key, operator], NOW) == {
            key: Caller(key_id, merchant.id, name="shop"),
            operator: Caller(operator_id, None, name="operator"),
        }
        assert merchants.find_callers(tx, [key + "x"], NOW) == {}
        assert not merchants.revoke_key(tx, key_id, NOW, merchant_id="mrc_other")
        assert merchants.revoke_key(tx, key_id, NOW, merchant_id=merchant.id)
        assert not merchants.revoke_key(tx, key_id, NOW)
        assert merchants.find_callers(tx, [key], NOW) == {}
        assert merchants.find_callers(tx, [operator], NOW) != {}
        stored = tx.execute(sa.select(merchants.api_keys)).all()
    assert key not in str(stored)


def test_a_source_accepts_two_secrets_while_one_is_being_rotated(database: Database) -> None:
    with database.begin() as tx:
        merchant = merchants.create_merchant(tx, "a", NOW)
        source = sources.create_source(
            tx, merchant.id, "stripe", "shop", b"one", NOW, api_key=b"sk", api_base="http://x"
        )
        assert sources.get_source(tx, source.id) == source
        assert source.sealed_secrets == [b"one"]
        sources.rotate_secret(tx, source.id, b"two")
        rotating = sources.get_source(tx, source.id)
        assert rotating is not None
        assert rotating.sealed_secrets == [b"two", b"one"]
        sources.end_rotation(tx, source.id)
        rotated = sources.get_source(tx, source.id)
        assert rotated is not None
        assert rotated.sealed_secrets == [b"two"]


def test_a_source_can_be_disabled_and_told_another_api(database: Database) -> None:
    later = NOW + timedelta(days=1)
    with database.begin() as tx:
        merchant = merchants.create_merchant(tx, "a", NOW)
        source = sources.create_source(tx, merchant.id, "stripe", "shop", b"one", NOW)
        sources.disable_source(tx, source.id, later)
        sources.set_api_key(tx, source.id, b"sk", "http://localhost")
        [changed] = sources.list_sources(tx)
        assert (changed.disabled_at, changed.api_key, changed.api_base) == (later, b"sk", "http://localhost")
        sources.disable_source(tx, source.id, None)
        sources.set_api_key(tx, source.id, None, None)
        assert sources.list_sources(tx, merchant.id) == [source]
    with pytest.raises(sa.exc.IntegrityError), database.begin() as tx:
        sources.create_source(tx, "mrc_none", "stripe", "shop", b"one", NOW)


def test_a_disabled_endpoint_still_listens_and_a_deleted_one_is_gone(database: Database) -> None:
    with database.begin() as tx:
        made = [
            endpoints.create_endpoint(tx, merchant, "https://x.test", ["invoice.*", "é"], b"s", NOW, description="d")
            for merchant in ("mrc_a", "mrc_a", "mrc_b", "mrc_c")
        ]
        endpoints.set_disabled(tx, made[0].id, NOW, "answers 410")
        disabled = endpoints.get_endpoint(tx, made[0].id)
        assert disabled is not None
        assert endpoints.endpoints_of_merchants(tx, ["mrc_a", "mrc_b"]) == [disabled, *made[1:3]]
        assert endpoints.endpoints_of_merchants(tx, []) == []
        assert (disabled.disabled_at, disabled.disabled_reason) == (NOW, "answers 410")
        endpoints.set_disabled(tx, made[0].id, None, None)
        assert endpoints.list_endpoints(tx) == made
        assert endpoints.list_endpoints(tx, "mrc_a") == made[:2]
        endpoints.update_endpoint(tx, made[1].id, deleted_at=NOW)
        assert endpoints.list_endpoints(tx, "mrc_a") == endpoints.endpoints_of_merchants(tx, ["mrc_a"]) == made[:1]
        assert endpoints.get_endpoint(tx, made[1].id) is None
        assert endpoints.endpoints_of(tx, [made[1].id])[made[1].id].deleted_at == NOW


def test_the_vault_opens_what_it_sealed_and_shows_nothing() -> None:
    vault = Vault([new_key()])
    sealed = vault.seal("whsec_é")
    assert vault.open(sealed) == "whsec_é"
    assert b"whsec" not in sealed
    assert vault.seal("whsec_é") != sealed


def test_a_new_key_in_front_seals_and_the_old_one_still_opens() -> None:
    old, new = new_key(), new_key()
    sealed_before = Vault([old]).seal("secret")
    rotating = Vault([new, old])
    assert rotating.open(sealed_before) == "secret"
    assert Vault([new]).open(rotating.seal("secret")) == "secret"


def test_a_secret_sealed_with_a_key_that_is_gone_is_the_operators_to_correct() -> None:
    sealed = Vault([new_key()]).seal("secret")
    with pytest.raises(SettingsError, match="another encryption key"):
        Vault([new_key()]).open(sealed)


@pytest.mark.parametrize("keys", [[], ["short"], [""], ["é" * 44], [new_key(), "x" * 43]])
def test_what_is_not_a_key_is_refused_by_name(keys: list[str]) -> None:
    with pytest.raises(SettingsError, match="BILLHOOK_ENCRYPTION_KEYS"):
        Vault(keys)
