"""What `billhook up` prepares and prints, so that the first event can be posted at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import typer

from billhook.actions.sources import new_signing_secret
from billhook.cli.output import done_by
from billhook.documents.wkhtmltopdf import find_wkhtmltopdf
from billhook.runtime.env import Env
from billhook.runtime.service import service_names
from billhook.runtime.settings import Settings
from billhook.store import migrate
from billhook.store.merchants import companies, create_key, create_merchant
from billhook.store.operator_actions import note_action
from billhook.store.operators import add_sign_in_link
from billhook.store.sources import create_source, list_sources

_NO_PDF = """\
PDFs      wkhtmltopdf is not installed: documents in merchants' own HTML templates wait until it is
          (apt-get install wkhtmltopdf)."""


@dataclass(frozen=True)
class Start:
    """A merchant and a source to begin with."""

    source_id: str
    secret: str
    desk_key: str | None
    """Shown once, when it was made."""


def prepare(env: Env) -> Start | None:
    """Make a first merchant with a source and an operator's key where there is no merchant yet. None where the first
    merchant has no source that the printed example could use."""
    now = env.clock()
    with env.database.begin() as tx:
        found = companies(tx, limit=1)
        if not found:
            merchant = create_merchant(tx, "My company", now)
            secret = new_signing_secret()
            source = create_source(tx, merchant.id, "standard", "first source", env.vault.seal(secret), now)
            _, key = create_key(tx, None, "operator", now)
            note_action(tx, "merchant.add", merchant.id, by=done_by(), now=now, merchant_id=merchant.id)
            return Start(source.id, secret, key)
        for source in list_sources(tx, found[0]):
            if source.provider == "standard" and source.disabled_at is None:
                return Start(source.id, env.vault.open(source.secret), None)
    return None


def ready_the_ground(settings: Settings) -> None:
    """Make what an installation needs before its services start."""
    env = Env(settings)
    env.make_var()
    env.mailer  # noqa: B018 (refuses an address that cannot work)
    migrate.upgrade(env.database)
    env.make_encryption_key()
    env.close()


def welcome(settings: Settings, *, made_key: bool, ready: bool) -> None:
    """Print where everything is, and a way in."""
    env = Env(settings)
    typer.echo(banner(env, prepare(env), made_key=made_key, ready=ready, sign_in=sign_in_link(env)))
    env.close()


SIGN_IN = timedelta(hours=1)


def sign_in_link(env: Env) -> str:
    """A way into the console for whoever is at this machine, once."""
    now = env.clock()
    with env.database.begin() as tx:
        token = add_sign_in_link(tx, "this machine", now, SIGN_IN)
        note_action(tx, "operator.sign_in_link", "this machine", by=done_by(), now=now)
    return f"{env.settings.public}/sign-in/link/{token}"


def banner(env: Env, start: Start | None, *, made_key: bool, ready: bool, sign_in: str) -> str:
    """The lines to print."""
    settings = env.settings
    shown = settings.shown()
    lines = [
        "",
        "billhook is running. Ctrl-C drains and stops it."
        if ready
        else "Not every service is ready after a minute: the log says why. Ctrl-C stops it.",
        "",
        f"Console   {sign_in}",
        "          (signs in once, within the hour; `.venv/bin/billhook operators sign-in` prints another)",
        "",
        f"Events    POST {settings.source_address('<source id>')}   (docs: {settings.address_of('ingress')}/docs)",
        f"API       {settings.address_of('desk')}/docs   (bearer key: `.venv/bin/billhook keys add NAME`)",
        *(
            f"{'Metrics' if i == 0 else '':<9} {settings.address_of(name)}/metrics   ({name})"
            for i, name in enumerate(sorted(service_names(), key=settings.port_of))
        ),
        f"Ledger    {shown['database_url']}",
        f"Objects   {shown['objects_url']}",
        f"Queue     {shown['queue_url']}",
    ]
    if made_key:
        lines.append(f"Key       made {env.encryption_key_file}; it opens the stored secrets: keep a copy elsewhere")
    if find_wkhtmltopdf() is None:
        lines.append(_NO_PDF)
    if start is not None:
        if start.desk_key:
            lines += ["", f"Your operator key for the desk, shown this once:  {start.desk_key}"]
        lines += ["", "Post a signed event:", "", _curl(env, start)]
    return "\n".join(lines) + "\n"


_SIGN: Final = "import base64, hmac, sys; key, _, text = sys.stdin.read().partition(chr(10)); " + (
    'print(base64.b64encode(hmac.digest(base64.b64decode(key), text.encode(), "sha256")).decode())'
)


def _curl(env: Env, start: Start) -> str:
    """A command for a POSIX shell. It signs at the moment it runs, so it works for as long as the source does, and each
    run is a new event. The secret goes through a pipe: an argument stands in the list of processes."""
    key = start.secret.removeprefix("whsec_")
    url = env.settings.source_address(start.source_id)
    body = '{"type":"customer.created","data":{"external_id":"cus_1","name":"Ada Lovelace","email":"ada@example.com"}}'
    return (
        f"""  ts=$(date +%s); id=msg_$ts; body='{body}'\n"""
        f"""  signature=$(printf '%s\\n%s' '{key}' "$id.$ts.$body" \\\n"""
        f"""    | python3 -c '{_SIGN}')\n"""
        f"""  curl -sS {url} \\\n"""
        f"""    -H 'Content-Type: application/json' -H "webhook-id: $id" -H "webhook-timestamp: $ts" \\\n"""
        f"""    -H "webhook-signature: v1,$signature" -d "$body"\n"""
    )
