"""Passkeys: a person adds and takes away their own, and signs in by one.

A challenge is kept here, is answered once, and only by the browser that asked for it. The mailed code stays the way in
for whoever has no passkey at hand, or no script.
"""

from __future__ import annotations

import logging
import secrets
from datetime import timedelta
from typing import Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from billhook.actions.ringing import ring
from billhook.runtime.env import Env
from billhook.store.database import Tx
from billhook.store.mails import NewMail, add_mails
from billhook.store.merchants import OPERATOR
from billhook.store.operator_actions import note_action
from billhook.store.operators import Operator, begin_session, find_operator
from billhook.store.passkeys import (
    CHALLENGE,
    MOST_PASSKEYS,
    Passkey,
    add_passkey,
    find_passkey,
    open_challenge,
    passkeys_of,
    remove_passkey,
    take_challenge,
    use_passkey,
)
from services.desk.console import ceremonies
from services.desk.console.ceremonies import LONGEST_ANSWER, NotProven, Party, party_of
from services.desk.console.cookies import named
from services.desk.console.rendering import page
from services.desk.console.session import (
    Acting,
    EnvIn,
    FormIn,
    SessionIn,
    ViewIn,
    cookie_name,
    is_https,
    own_page,
    sign_in_as,
)
from services.desk.console.sign_in import LONGEST_NEXT, door, inside, let_try
from services.desk.dependencies import Id
from services.desk.refusals import Refusal, not_found

router = APIRouter()
log = logging.getLogger(__name__)

HOLDER: Final = "billhook_passkey"
"""The cookie of a browser that was given a challenge to sign in by."""

FRESH: Final = timedelta(minutes=15)
"""So long after signing in a person may add a passkey: a session that somebody took over makes no way in that lasts."""

NOWHERE: Final = (
    "Passkeys need the console at an address with a name and TLS: BILLHOOK_PUBLIC_URL is to be https://…, or"
    " http://localhost:… on the machine itself."
)
UNKNOWN: Final = "That passkey is not known here, or it took too long. Try again, or let a code be mailed to you."


@router.get("/you")
def show_you(request: Request, env: EnvIn, session: SessionIn) -> Response:
    with env.database.read() as tx:
        found = [] if session.operator_id is None else passkeys_of(tx, session.operator_id)
    party = party_of(env.settings.public)
    return page(request, "you.html", passkeys=found, party=party, nowhere=NOWHERE, most=MOST_PASSKEYS)


@router.post("/you/passkeys/challenge")
def ask_to_make(request: Request, acting: ViewIn) -> Response:
    env, party = acting.env, _party(acting.env)
    with env.database.begin() as tx:
        operator, known = _whose(tx, acting)
        challenge = open_challenge(tx, _registering(request, env), env.clock())
    return _options(
        ceremonies.to_make_one(party, challenge, operator.id, operator.email, [one.credential_id for one in known])
    )


@router.post("/you/passkeys")
def add(request: Request, acting: ViewIn) -> Response:
    env, party, now = acting.env, _party(acting.env), acting.env.clock()
    name, answer = acting.form.one("name", 60), acting.form.one("answer", LONGEST_ANSWER)
    if not name:
        raise Refusal(422, "name_missing", "Give the passkey a name by which you will know it.")
    with env.database.begin() as tx:
        challenge = take_challenge(tx, _registering(request, env), now)
    if challenge is None:
        raise Refusal(409, "passkey_late", "That took longer than five minutes. Try again.")
    try:
        made = ceremonies.made(party, challenge, answer)
    except NotProven as error:
        log.warning("a passkey was refused", extra={"by": acting.by, "reason": str(error)})
        raise Refusal(422, "passkey_refused", "The browser's answer does not hold. Try again.") from None
    with env.database.begin() as tx:
        operator, _ = _whose(tx, acting)
        passkey = add_passkey(tx, operator.id, name, made.credential_id, made.public_key, made.sign_count, now)
        if passkey is None:
            raise Refusal(409, "passkey_known", "This passkey is known already.")
        acting.note(tx, "passkey.add", passkey.id, name=name)
        mailed = add_mails(tx, [_notice(operator, passkey)], now)
    ring(env, {"mails": mailed})
    return acting.back("/you", f"{name} signs you in from now on.")


@router.post("/you/passkeys/{passkey_id}/remove")
def remove(acting: ViewIn, passkey_id: Id) -> Response:
    with acting.env.database.begin() as tx:
        whose = acting.session.operator_id
        name = None if whose is None else remove_passkey(tx, whose, passkey_id)
        if name is None:
            raise not_found("passkey of yours")
        acting.note(tx, "passkey.remove", passkey_id, name=name)
    return acting.back("/you", f"{name} signs you in no longer. Take it away in the browser or the key too.")


@router.post("/sign-in/passkey/challenge", dependencies=[Depends(own_page)])
def ask_to_show(request: Request, env: EnvIn) -> Response:
    let_try(request, "challenge")
    party, holder = _party(env), secrets.token_urlsafe(32)
    with env.database.begin() as tx:
        challenge = open_challenge(tx, holder, env.clock())
    response = _options(ceremonies.to_show_one(party, challenge))
    response.set_cookie(
        named(request, HOLDER),
        holder,
        max_age=int(CHALLENGE.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=is_https(env),
        path="/sign-in",
    )
    return response


@router.post("/sign-in/passkey", dependencies=[Depends(own_page)])
def sign_in(request: Request, env: EnvIn, form: FormIn) -> Response:
    let_try(request, "passkey")
    party, to = _party(env), inside(form.one("next", LONGEST_NEXT) or "/")
    answer, now = form.one("answer", LONGEST_ANSWER), env.clock()
    with env.database.begin() as tx:
        challenge = take_challenge(tx, request.cookies.get(named(request, HOLDER), ""), now)
    try:
        if challenge is None:
            raise NotProven("no challenge is open in this browser")
        passkey, count = _proven(env, party, challenge, answer)
        token = _begin(env, passkey, count)
    except NotProven as error:
        log.warning("a sign-in by passkey was refused", extra={"reason": str(error)})
        return door(request, env, to, 403, problem=UNKNOWN)
    response = sign_in_as(request, env, to, token)
    response.delete_cookie(named(request, HOLDER), path="/sign-in")
    return response


def _proven(env: Env, party: Party, challenge: bytes, answer: str) -> tuple[Passkey, int]:
    """The passkey that answered, and how often it says that it has."""
    claim = ceremonies.claimed(answer)
    with env.database.read() as tx:
        passkey = find_passkey(tx, claim.credential_id)
    if passkey is None:
        raise NotProven("no such passkey")
    if claim.user is not None and claim.user != passkey.operator_id.encode():
        raise NotProven("it says that it is somebody else's")
    return passkey, ceremonies.shown(party, challenge, passkey.public_key, answer)


def _begin(env: Env, passkey: Passkey, count: int) -> str:
    """Sign the passkey's owner in; returns the session's token."""
    now, token = env.clock(), None
    detail: dict[str, Any]
    with env.database.begin() as tx:
        operator = find_operator(tx, passkey.operator_id)
        if operator is None or operator.disabled_at is not None:
            raise NotProven("its owner gets in no longer")
        if use_passkey(tx, passkey.id, count, now):
            token = begin_session(tx, operator.email, operator.role, now, operator_id=operator.id)
            action, detail = "sign_in", {"by": "passkey", "name": passkey.name}
        else:
            # A copy of it may be about: its owner is to hear of that, and this entry must outlive the refusal.
            action, detail = "passkey.refused", {"name": passkey.name, "signed": count, "before": passkey.sign_count}
        subject = operator.email if token else passkey.id
        note_action(tx, action, subject, by=operator.email, now=now, detail=detail)
    if token is None:
        raise NotProven(f"it counts {count} signatures, and counted {passkey.sign_count} before")
    return token


def _whose(tx: Tx, acting: Acting) -> tuple[Operator, list[Passkey]]:
    """The person who is to have one more, whom nobody else gives one meanwhile, and those that they have."""
    session = acting.session
    operator = None if session.operator_id is None else find_operator(tx, session.operator_id, lock=True)
    if operator is None:
        raise Refusal(409, "no_person", "Passkeys are people's: sign in by the code that is mailed to an operator.")
    if session.created_at < acting.env.clock() - FRESH:
        raise Refusal(409, "sign_in_again", "Sign out, and in again, before you add a passkey: that was long ago.")
    known = passkeys_of(tx, operator.id)
    if len(known) >= MOST_PASSKEYS:
        raise Refusal(409, "passkeys_too_many", f"You have {MOST_PASSKEYS} passkeys. Remove one first.")
    return operator, known


def _party(env: Env) -> Party:
    party = party_of(env.settings.public)
    if party is None:
        raise Refusal(409, "passkeys_nowhere", NOWHERE)
    return party


def _registering(request: Request, env: Env) -> str:
    """Whose a challenge to make a passkey is: this session's, and no challenge of a sign-in is one."""
    return f"register:{request.cookies.get(cookie_name(request, env), '')}"


def _options(made: str) -> Response:
    return Response(made, media_type="application/json", headers={"Cache-Control": "no-store"})


def _notice(operator: Operator, passkey: Passkey) -> NewMail:
    body = (
        f"The passkey {passkey.name!r} signs you in to billhook's console from now on.\n\n"
        "You did not add it? Then have your access disabled (`billhook operators disable`), which takes all your"
        " passkeys away, and find out who was in your session: the audit log says when.\n"
    )
    about = f"passkey:{passkey.id}"
    return NewMail(OPERATOR, about, operator.email, "A passkey was added to your sign-in at billhook", body)
