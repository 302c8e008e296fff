"""The command to seal every stored secret with the current encryption key."""

from __future__ import annotations

import typer

from billhook.cli.groups import command_group
from billhook.cli.output import Json, opened, say
from billhook.store import sealed

secret_commands = command_group("secrets")


@secret_commands.command("reseal")
def reseal(as_json: Json = False) -> None:
    """Seal every stored secret with the first of BILLHOOK_ENCRYPTION_KEYS, so that the others can be taken away. May be
    interrupted, and started again; everything goes on working meanwhile."""
    with opened() as env:
        for table in sealed.COLUMNS:
            with env.database.read() as tx:
                total = sealed.count(tx, table)
            seen = anew = 0
            for looked_at, changed in sealed.reseal(env.database, env.vault, table):
                seen, anew = seen + looked_at, anew + changed
                said = f"{table.name}: {seen} of {max(seen, total)}, {anew} sealed anew"
                say(said, as_json=as_json, table=str(table.name), seen=seen, of=max(seen, total), anew=anew)
        if not as_json:
            typer.echo("Every secret is sealed with the current key: the others can be taken away.")
