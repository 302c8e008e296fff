"""`billhook doctor`: what is wrong in an installation, and what to do about it."""

from __future__ import annotations

import typer

from billhook.actions.diagnosis import Complaint, complaints, queues_shown
from billhook.cli.checks import check_everything
from billhook.cli.output import show
from billhook.runtime.env import Env
from billhook.runtime.health import is_ready
from billhook.runtime.service import service_names
from billhook.runtime.settings import read_settings
from billhook.store.figures import open_letters

REMEDIES = {
    "database": "Is it running, and is BILLHOOK_DATABASE_URL right?",
    "schema": "Bring it up to date: `billhook migrate`.",
    "clock": "Set both machines by NTP.",
    "queue": "Is it running, and is BILLHOOK_QUEUE_URL right? Work goes on without it, a little later.",
    "secrets": "Put the key that sealed the secrets into BILLHOOK_ENCRYPTION_KEYS. `billhook new-key` makes a first.",
    "objects": "Can BILLHOOK_OBJECTS_URL be written to?",
    "pdf": "Install wkhtmltopdf, or let BILLHOOK_PDF_ENGINE be auto.",
}
"""What to do where something does not answer."""


def examine() -> list[Complaint]:
    """All that is wrong, the worst first. A setting that cannot work is told by `read_settings` itself."""
    env = Env(read_settings(), make=False)
    try:
        found = [
            Complaint("broken", f"{check.what}: {check.detail}", REMEDIES.get(check.what, "See `billhook check`."))
            for check in check_everything(env)
            if not check.ok
        ]
        if not any(complaint.what.startswith(("database:", "schema:")) for complaint in found):
            with env.database.read() as tx:
                found += complaints(tx, queues_shown(tx, env.clock()), open_letters(tx))
        return sorted([*found, *_silent(env)], key=lambda complaint: complaint.severity != "broken")
    finally:
        env.close()


def _silent(env: Env) -> list[Complaint]:
    """Services that do not answer here, where others do: one that runs elsewhere is asked there."""
    settings = env.settings
    ready = {name: is_ready(settings.host, settings.port_of(name)) for name in service_names()}
    if not any(ready.values()):
        return []
    return [
        Complaint(
            "warning",
            f"The {name} does not answer on this machine, where other services do.",
            f"Its log says why. Where it runs elsewhere, ask there; here: `billhook run {name}`.",
        )
        for name, answers in ready.items()
        if not answers
    ]


def show_examined(found: list[Complaint], *, as_json: bool) -> None:
    if as_json:
        show([vars(one) for one in found], (), as_json=True, empty="")
        return
    for one in found:
        since = f" Since {one.since:%Y-%m-%d %H:%M} UTC." if one.since else ""
        typer.echo(f"{'BROKEN' if one.severity == 'broken' else 'look':<7} {one.what}{since}\n        {one.do}")
    if not found:
        typer.echo("Nothing is wrong: everything answers, every queue is worked, and nothing has failed for good.")
