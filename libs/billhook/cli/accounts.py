"""The operator's commands for merchants and their keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer

from billhook.cli.arguments import Owner, owner_of, text_of
from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, Narrow, opened, say, show, show_one
from billhook.store import merchants

merchant_commands = command_group("merchants")
key_commands = command_group("keys")


_MERCHANT = ("id", "name", "locale", "created_at", "contact_email")


def _merchant(merchant: Any) -> dict[str, Any]:
    """Its seller and its invoicing are commands of their own."""
    return {name: getattr(merchant, name) for name in _MERCHANT}


@merchant_commands.command("add")
def add_merchant(
    name: Annotated[str, typer.Argument(help="As it stands on invoices that name no seller of their own.")],
    locale: Annotated[str, typer.Option(help="How documents write dates and amounts: en, de-AT, pt_BR…")] = "en",
    contact_email: Annotated[str | None, typer.Option(help="Who is told by mail when an endpoint fails.")] = None,
    as_json: Json = False,
) -> None:
    """Make a merchant."""
    from billhook.actions.sources import check_contact
    from billhook.rules.money import parse_locale

    with opened() as env:
        check_contact(contact_email)
        try:
            parse_locale(locale)
        except ValueError as error:
            raise CommandError(f"{error}.") from None
        with env.database.begin() as tx:
            merchant = merchants.create_merchant(
                tx, text_of("name", name), env.clock(), locale=locale, contact_email=contact_email
            )
        show_one(_merchant(merchant), as_json=as_json)


@merchant_commands.command("list")
def list_merchants(as_json: Json = False) -> None:
    """List all merchants."""
    with opened() as env, env.database.read() as tx:
        found = [_merchant(merchant) for merchant in merchants.list_merchants(tx, limit=10_000)]
        show(found, _MERCHANT, as_json=as_json, empty="No merchants yet.")


@merchant_commands.command("set")
def set_merchant(
    merchant_id: Annotated[str, typer.Argument(metavar="MERCHANT_ID")],
    contact_email: Annotated[
        str, typer.Option(help="Who is told by mail when an endpoint fails. Empty: nobody.", show_default=False)
    ],
    as_json: Json = False,
) -> None:
    """Set whom to tell when something of a merchant's needs a person."""
    from billhook.actions.sources import check_contact

    with opened() as env:
        check_contact(contact_email or None)
        with env.database.begin() as tx:
            merchants.set_contact(tx, owner_of(tx, merchant_id), contact_email or None)
            merchant = merchants.get_merchant(tx, merchant_id)
        show_one(_merchant(merchant), as_json=as_json)


@merchant_commands.command("limits")
def show_limits(merchant: Owner = None, as_json: Json = False) -> None:
    """Show how many of each thing a merchant has, and may have."""
    from billhook.actions.limits import room_of

    with opened() as env, env.database.read() as tx:
        found = room_of(env, tx, owner_of(tx, merchant), env.clock())
        rows = [{"what": what, "used": used, "limit": limit} for what, (used, limit) in found.items()]
        show(rows, ("what", "used", "limit"), as_json=as_json, empty="")


@key_commands.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="Who or what uses it.")],
    merchant: Owner = None,
    operator: Annotated[bool, typer.Option("--operator", help="A key for all merchants.")] = False,
    scope: Annotated[merchants.Scope, typer.Option(help="Look only, publish events only, or everything.")] = "write",
    expires_in_days: Annotated[int | None, typer.Option(min=1, max=3650, help="Left out: until it is revoked.")] = None,
    as_json: Json = False,
) -> None:
    """Make a bearer key for the desk. It is shown this once."""
    from billhook.actions.limits import check_room

    with opened() as env:
        if operator and merchant:
            raise CommandError("A key is one merchant's (--merchant) or the operator's (--operator), not both.")
        with env.database.begin() as tx:
            owner = None if operator else owner_of(tx, merchant)
            if owner is not None:
                check_room(env, tx, owner, "keys", env.clock())
            now = env.clock()
            expires_at = None if expires_in_days is None else now + timedelta(days=expires_in_days)
            key_id, key = merchants.create_key(
                tx, owner, text_of("name", name), now, scope=scope, expires_at=expires_at
            )
        made = {"id": key_id, "merchant_id": owner, "name": name, "scope": scope, "expires_at": expires_at, "key": key}
        show_one(made, as_json=as_json)


@key_commands.command("list")
def list_keys(merchant: Narrow = None, as_json: Json = False) -> None:
    """List keys, revoked ones too; those without a merchant are the operator's."""
    with opened() as env, env.database.read() as tx:
        found = [vars(key) for key in merchants.list_keys(tx, merchant)]
        columns = ("id", "merchant_id", "name", "scope", "created_at", "last_used_at", "expires_at", "revoked_at")
        show(found, columns, as_json=as_json, empty="No keys yet.")


@key_commands.command("revoke")
def revoke_key(key_id: Annotated[str, typer.Argument(metavar="KEY_ID")], as_json: Json = False) -> None:
    """Make a key stop working at once."""
    with opened() as env:
        with env.database.begin() as tx:
            if not merchants.revoke_key(tx, key_id, env.clock()):
                raise CommandError(f"There is no working key {key_id!r}. See `billhook keys list`.")
        say(f"{key_id} works no longer.", as_json=as_json, id=key_id)
