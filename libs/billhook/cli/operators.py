"""The people of the console: `billhook operators …`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from billhook.cli.arguments import text_of
from billhook.cli.groups import command_group
from billhook.cli.output import CommandError, Json, done_by, opened, say, show, show_one
from billhook.errors import Unprocessable
from billhook.outlets.mail.mime import mailbox
from billhook.store.database import Tx
from billhook.store.operator_actions import list_actions, note_action
from billhook.store.operators import (
    ROLES,
    Operator,
    Role,
    add_operator,
    add_sign_in_link,
    change_operator,
    find_operator,
    list_operators,
)

commands = command_group("operators")

LINK = timedelta(minutes=30)

Email = Annotated[str, typer.Argument(metavar="EMAIL", help="Where codes to sign in are mailed.")]
RoleOption = Annotated[
    Role, typer.Option(help="view looks; operate mends what failed; admin stops queues and does all.")
]


@commands.command("add")
def add(
    email: Email,
    name: Annotated[str, typer.Option(help="What to call them. Left out: their address.")] = "",
    role: RoleOption = ROLES[0],
    as_json: Json = False,
) -> None:
    """Let somebody into the console. They sign in by a code that is mailed to them."""
    with opened() as env:
        try:
            mailbox(email)
        except Unprocessable as error:
            raise CommandError(f"{error}") from None
        now = env.clock()
        with env.database.begin() as tx:
            operator = add_operator(tx, email, text_of("name", name or email), role, now, by=done_by())
            if operator is None:
                raise CommandError(f"{email} is an operator already: see `billhook operators list`.")
            note_action(tx, "operator.add", operator.email, by=done_by(), now=now, detail={"role": role})
        show_one(vars(operator), as_json=as_json)


@commands.command("list")
def list_all(as_json: Json = False) -> None:
    """List the operators, those that are disabled too."""
    with opened() as env, env.database.read() as tx:
        found = [vars(operator) for operator in list_operators(tx)]
        columns = ("email", "name", "role", "created_at", "disabled_at")
        show(found, columns, as_json=as_json, empty="No operators yet: `billhook operators add EMAIL`.")


@commands.command("set-role")
def set_role(email: Email, role: Annotated[Role, typer.Argument()], as_json: Json = False) -> None:
    """Give another role, to one who was disabled too. Who is signed in has to do so again."""
    with opened() as env:
        with env.database.begin() as tx:
            operator = _find(tx, email)
            change_operator(tx, operator.id, role=role)
            note_action(tx, "operator.set_role", operator.email, by=done_by(), now=env.clock(), detail={"role": role})
        say(f"{operator.email} has the role {role} now.", as_json=as_json, email=operator.email, role=role)


@commands.command("disable")
def disable(email: Email, as_json: Json = False) -> None:
    """Let them in no longer: all they have open is closed at once."""
    with opened() as env:
        with env.database.begin() as tx:
            operator = _find(tx, email)
            change_operator(tx, operator.id, disabled_at=env.clock())
            note_action(tx, "operator.disable", operator.email, by=done_by(), now=env.clock())
        say(f"{operator.email} gets in no longer.", as_json=as_json, email=operator.email)


@commands.command("sign-in")
def sign_in(as_json: Json = False) -> None:
    """Print a link that signs in to the console once, within half an hour, with every right."""
    with opened() as env:
        with env.database.begin() as tx:
            now = env.clock()
            token = add_sign_in_link(tx, done_by(), now, LINK)
            note_action(tx, "operator.sign_in_link", done_by(), by=done_by(), now=now)
        url = f"{env.settings.public}/sign-in/link/{token}"
        say(url, as_json=as_json, url=url, expires_at=now + LINK)


@commands.command("log")
def log(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50, as_json: Json = False
) -> None:
    """List what operators did, the newest first."""
    with opened() as env, env.database.read() as tx:
        found = [dict(row) for row in list_actions(tx, limit=limit)]
        show(found, ("at", "by", "action", "subject", "detail"), as_json=as_json, empty="Nothing yet.")


def _find(tx: Tx, email: str) -> Operator:
    operator = find_operator(tx, email)
    if operator is None:
        raise CommandError(f"There is no operator {email!r}. See `billhook operators list`.")
    return operator
