"""The operator's commands for messages: `billhook messages …`."""

from __future__ import annotations

import sys
from typing import Annotated

import msgspec
import typer

from billhook.actions.publishing import Publication, publish
from billhook.cli.arguments import Owner, owner_of, text_of
from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, opened, show_one
from billhook.decoding import decode
from billhook.store.schema import new_id

commands = command_group("messages")


def _object(text: str) -> bytes:
    given = sys.stdin.buffer.read() if text == "-" else text.encode()
    try:
        decode(given, dict[str, msgspec.Raw])
        return given.strip()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"The data must be a JSON object: {error}.") from None


@commands.command("publish")
def publish_message(
    event_type: Annotated[str, typer.Argument(help="A name of the merchant's own, such as order.shipped.")],
    data: Annotated[str, typer.Option(help="What receivers get as `data`, a JSON object; `-` reads it.")] = "{}",
    key: Annotated[
        str | None, typer.Option(help="The same event under the same key is published once. Left out: a new one.")
    ] = None,
    customer: Annotated[str | None, typer.Option(help="Whom it is about, for endpoints that want order.")] = None,
    subscription: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    merchant: Owner = None,
    as_json: Json = False,
) -> None:
    """Publish an event of a merchant's own to the endpoints that want it."""
    with opened() as env:
        new = Publication(
            event_type,
            _object(data),
            customer=None if customer is None else text_of("customer", customer),
            subscription=None if subscription is None else text_of("subscription", subscription),
        )
        with env.database.read() as tx:
            owner = owner_of(tx, merchant)
        published = publish(env, owner, key if key is not None else new_id("key"), new)
        shown = {"id": published.message_id, "deliveries": published.deliveries, "replayed": published.replayed}
        show_one(shown, as_json=as_json)
