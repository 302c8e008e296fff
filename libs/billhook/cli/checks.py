"""`billhook check`: whether what is configured answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from billhook.documents.wkhtmltopdf import find_wkhtmltopdf
from billhook.runtime.env import Env
from billhook.store import fitness, sealed


@dataclass(frozen=True)
class Check:
    what: str
    ok: bool
    detail: str


def check_everything(env: Env) -> list[Check]:
    """One line for each thing billhook needs."""
    return [
        _try("database", lambda: _database(env)),
        _try("schema", lambda: _schema(env)),
        _try("clock", lambda: _clock(env)),
        _try("queue", lambda: _queue(env)),
        _try("secrets", lambda: _secrets(env)),
        _try("objects", lambda: _objects(env)),
        _try("pdf", lambda: _pdf(env)),
    ]


def _try(what: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(what, True, ask())
    except Exception as error:
        return Check(what, False, str(error).strip().splitlines()[0])


def _database(env: Env) -> str:
    with env.database.read() as tx:
        version = "sqlite_version()" if env.database.sqlite else "current_setting('server_version')"
        return f"{tx.dialect.name} {tx.execute(sa.text(f'SELECT {version}')).scalar_one()}"


def _schema(env: Env) -> str:
    if problem := fitness.misfit(env.database):
        raise LookupError(problem)
    return f"at {fitness.revision(env.database)}"


def _clock(env: Env) -> str:
    skew = fitness.clock_skew(env.database, env.clock)
    if abs(skew) > fitness.MOST_SKEW_SECONDS:
        raise LookupError(f"{fitness.skew_said(skew)}: work would be done early or late. Set both by NTP.")
    return "the database's agrees with ours"


def _queue(env: Env) -> str:
    if env.settings.embedded_queue:
        return "embedded, started by `billhook up`"
    info = env.broker.client.info("server")
    return f"{info.get('server_name', 'redis')} {info.get('valkey_version', info['redis_version'])}"


def _secrets(env: Env) -> str:
    """Every one that is stored is opened: a key may be taken away when none needs it."""
    env.vault.open(env.vault.seal("check"))
    said, closed = [], []
    for table in sealed.COLUMNS:
        needed = sealed.keys_needed(env.database, env.vault, table)
        if lost := needed.pop(None, 0):
            closed.append(f"{lost} of {table.name}")
        keys = (f"{needed[place]} by {_key(place)}" for place in sorted(place for place in needed if place is not None))
        said.append(f"{table.name}: {', '.join(keys) or 'none'}")
    if closed:
        raise LookupError(
            f"{' and '.join(closed)} were sealed with a key that is not among BILLHOOK_ENCRYPTION_KEYS: put it behind"
            " the current one"
        )
    return "; ".join(said)


def _key(place: int) -> str:
    return f"key {place + 1} (`billhook secrets reseal`)" if place else "the current key"


def _objects(env: Env) -> str:
    if not env.makes and not env.settings.objects_url and not env.settings.var.exists():
        return f"to be made in {env.settings.var.absolute()}"
    # Content-addressed and written once, so checking again writes nothing.
    digest = env.objects.put_once("checks/billhook.txt", b"billhook check\n")
    env.objects.get("checks/billhook.txt", digest)
    return "written and read back"


def _pdf(env: Env) -> str:
    path = find_wkhtmltopdf()
    if path is not None:
        return f"{'Typst' if env.settings.pdf_engine != 'wkhtmltopdf' else 'wkhtmltopdf'}; wkhtmltopdf is {path}"
    if env.settings.pdf_engine == "wkhtmltopdf":
        raise LookupError("wkhtmltopdf is not installed; documents wait until it is (apt-get install wkhtmltopdf)")
    return "Typst. wkhtmltopdf is not installed: documents in merchants' own templates wait until it is"
