"""An old encryption key can be taken away once everything is sealed with the new one."""

from __future__ import annotations

from pathlib import Path

import pytest
from store.databases import NOW

from billhook.cli.checks import check_everything
from billhook.errors import SettingsError
from billhook.runtime.env import Env
from billhook.runtime.settings import read_settings
from billhook.store import endpoints, merchants, sealed, sources
from billhook.store.database import Database
from billhook.store.vault import Vault, new_key

OLD, NEW = new_key(), new_key()


def secrets_of(database: Database, vault: Vault) -> list[str]:
    with database.read() as tx:
        [source] = sources.list_sources(tx)
        found = [*source.sealed_secrets, source.api_key]
        for endpoint in endpoints.list_endpoints(tx):
            found += [*endpoint.secrets(NOW), endpoint.headers]
    return [vault.open(one) for one in found if one is not None]


def said(database: Database, tmp_path: Path, keys: str) -> tuple[bool, str]:
    env = Env(
        read_settings(
            var=tmp_path, database_url=database.url.render_as_string(hide_password=False), encryption_keys=keys
        )
    )
    found = next(check for check in check_everything(env) if check.what == "secrets")
    env.close()
    return found.ok, found.detail


def test_every_secret_is_sealed_anew_and_check_says_which_keys_are_needed(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, both, new = Vault([OLD]), Vault([NEW, OLD]), Vault([NEW])
    later = 10**17  # microseconds: a rotation that is under way
    with database.begin() as tx:
        merchant = merchants.create_merchant(tx, "a", NOW)
        source = sources.create_source(tx, merchant.id, "stripe", "s", old.seal("one"), NOW, api_key=old.seal("rk_1"))
        sources.rotate_secret(tx, source.id, old.seal("two"))
        for number in range(3):
            endpoints.create_endpoint(
                tx,
                merchant.id,
                "https://a.test",
                ["*"],
                old.seal(f"whsec_{number}"),
                NOW,
                headers=old.seal('{"x":"y"}'),
                previous_secrets=[[old.seal(f"earlier {number}").decode(), later]],
            )
    before = secrets_of(database, old)
    assert len(before) == 3 + 3 * 3
    ok, detail = said(database, tmp_path, f"{NEW},{OLD}")
    assert ok
    assert "sources: 3 by key 2 (`billhook secrets reseal`)" in detail
    ok, detail = said(database, tmp_path, NEW)
    assert (ok, "3 of sources and 9 of endpoints" in detail) == (False, True)

    monkeypatch.setattr(sealed, "BATCH", 1)
    first = sealed.reseal(database, both, endpoints.endpoints)
    assert next(first) == (1, 1)
    first.close()  # interrupted
    assert list(sealed.reseal(database, both, endpoints.endpoints)) == [(1, 0), (1, 1), (1, 1)]
    assert list(sealed.reseal(database, both, sources.sources)) == [(1, 1)]
    assert secrets_of(database, new) == before
    assert said(database, tmp_path, NEW) == (True, "sources: 3 by the current key; endpoints: 9 by the current key")


def test_what_no_key_opens_stops_it_and_nothing_is_lost(database: Database) -> None:
    with database.begin() as tx:
        merchant = merchants.create_merchant(tx, "a", NOW)
        sources.create_source(tx, merchant.id, "stripe", "s", Vault([OLD]).seal("one"), NOW)
    with pytest.raises(SettingsError, match="another encryption key"):
        list(sealed.reseal(database, Vault([NEW]), sources.sources))
    assert secrets_of(database, Vault([OLD])) == ["one"]
