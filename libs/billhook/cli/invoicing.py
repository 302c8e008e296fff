"""The operator's commands for how a merchant invoices: `billhook merchants seller …` and `… invoicing …`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from billhook.cli.accounts import merchant_commands
from billhook.cli.arguments import owner_of
from billhook.cli.output import CommandError, Json, opened, show_one
from billhook.store.merchants import get_merchant

MerchantId = Annotated[str, typer.Argument(metavar="MERCHANT_ID")]


@merchant_commands.command("seller")
def seller(
    merchant_id: MerchantId,
    file: Annotated[str | None, typer.Option("--set", help="A file with all of it as JSON; `-` reads it.")] = None,
    logo: Annotated[Path | None, typer.Option(help="A PNG or JPEG file.")] = None,
    no_logo: Annotated[bool, typer.Option("--no-logo", help="Take the logo away.")] = False,
    as_json: Json = False,
) -> None:
    """Show how documents show the merchant, or set it. Documents issued before stay as they are."""
    from billhook.actions.invoicing_settings import change_logo, change_seller, store_logo
    from billhook.actions.typed_json import whole
    from billhook.cli.invoices import read_bytes, read_json
    from billhook.rules.document import Seller

    with opened() as env:
        if logo is not None and no_logo:
            raise CommandError("A logo is set (--logo) or taken away (--no-logo), not both.")
        given = None if file is None else read_json(file, Seller)
        picture = None if logo is None else store_logo(env, read_bytes(str(logo)))
        with env.database.begin() as tx:
            owner_of(tx, merchant_id)
            if given is not None:
                change_seller(tx, merchant_id, given)
            if picture is not None or no_logo:
                change_logo(tx, merchant_id, picture)
            merchant = get_merchant(tx, merchant_id)
            assert merchant is not None
        show_one(whole(merchant.seller), as_json=as_json)


@merchant_commands.command("invoicing")
def invoicing(
    merchant_id: MerchantId,
    file: Annotated[
        str | None, typer.Option("--set", help="A file with the settings as JSON; what is left out is the default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how the merchant's own invoices are numbered, made and sent, or set it."""
    from billhook.actions.invoicing_settings import change_invoicing
    from billhook.actions.typed_json import whole
    from billhook.cli.invoices import read_json
    from billhook.rules.invoicing_settings import InvoicingSettings

    with opened() as env:
        given = None if file is None else read_json(file, InvoicingSettings)
        with env.database.begin() as tx:
            owner_of(tx, merchant_id)
            if given is not None:
                change_invoicing(tx, merchant_id, given)
            merchant = get_merchant(tx, merchant_id)
            assert merchant is not None
        show_one(whole(merchant.invoicing), as_json=as_json)
