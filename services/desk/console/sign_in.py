"""Signing in: by a link that a command prints, by a code that is mailed, or by the operator's key. Passkeys have a file
of their own.

A GET changes nothing: mail scanners and previews open links too. No page says whether an address is an operator's.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response

from billhook.actions.ringing import ring
from billhook.runtime.env import Env
from billhook.store.mails import NewMail, add_mails
from billhook.store.merchants import OPERATOR, find_callers, list_keys
from billhook.store.operator_actions import note_action
from billhook.store.operators import (
    CODES_AT_ONCE,
    ROLES,
    Role,
    add_code,
    begin_session,
    count_guess,
    end_session,
    find_operator,
    is_good_link,
    open_codes,
    spend_code,
    spend_link,
)
from services.desk.authentication import address_of
from services.desk.console.ceremonies import party_of
from services.desk.console.cookies import named
from services.desk.console.rendering import page, say
from services.desk.console.session import (
    EnvIn,
    FormIn,
    cookie_name,
    is_https,
    key_mark,
    own_page,
    session_of,
    sign_in_as,
)
from services.desk.rates import Rate
from services.desk.refusals import Refusal

router = APIRouter(dependencies=[Depends(own_page)])

TRIES_PER_SECOND: Final = 10.0
"""Codes, challenges and wrong keys that an address may ask for or try."""

CHALLENGE = "billhook_sign_in"
"""The cookie that says which code is being answered, so that a guess counts against that one alone."""

_ROLES: Final[dict[str, Role]] = {"read": "view", "write": "admin"}
"""What an operator's key may at the console, by its scope; one that only publishes has no business here."""

LONGEST_NEXT: Final = 500
Next = Annotated[str, Query(max_length=LONGEST_NEXT)]


def door(
    request: Request, env: Env, to: str, status: int = 200, *, sent_to: str | None = None, problem: str | None = None
) -> Response:
    """The page on which one signs in, to go on to a path."""
    party = party_of(env.settings.public)
    return page(request, "sign_in.html", status, next=to, sent_to=sent_to, problem=problem, party=party)


def let_try(request: Request, what: str) -> None:
    """Count that somebody knocks. Raises `Refusal` where it is too often."""
    tries: Rate = request.app.state.tries
    if not tries.take(f"{what} {_address(request)}"):
        raise _too_often()


def _address(request: Request) -> str:
    return address_of(request.scope, request.app.state.env.proxies)


def _too_often() -> Refusal:
    return Refusal(429, "too_many_tries", "Too many tries came from your address. Wait a second.", {"Retry-After": "1"})


def inside(path: str) -> str:
    """Only ever a path of ours: no address of somebody else's."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"


@router.get("/sign-in")
def ask(request: Request, env: EnvIn, next: Next = "/") -> Response:
    if session_of(env, request.cookies.get(cookie_name(request, env), "")) is not None:
        return RedirectResponse(inside(next), 303)
    return door(request, env, inside(next))


@router.post("/sign-in/key")
def by_key(request: Request, env: EnvIn, form: FormIn) -> Response:
    key, own = form.one("key"), env.settings.operator_key.get_secret_value()
    to, who = inside(form.one("next", LONGEST_NEXT) or "/"), f"key {_address(request)}"
    tries: Rate = request.app.state.tries
    if not tries.left(who):
        raise _too_often()
    if own and hmac.compare_digest(own.encode(), key.encode()):
        name, key_id, role, until = OPERATOR, key_mark(own), ROLES[-1], None
    else:
        with env.database.read() as tx:
            caller = find_callers(tx, [key], env.clock()).get(key)
            found = next((one for one in list_keys(tx) if caller and one.id == caller.key_id), None)
        if caller is None or caller.merchant_id is not None or found is None or caller.scope not in _ROLES:
            tries.take(who)
            return door(request, env, to, 403, problem="This is no operator's key, or it was revoked.")
        name, key_id, role, until = f"key {found.name}", found.id, _ROLES[caller.scope], caller.expires_at
    with env.database.begin() as tx:
        token = begin_session(tx, name, role, env.clock(), api_key_id=key_id, until=until)
        note_action(tx, "sign_in", name, by=name, now=env.clock(), detail={"by": "key"})
    return sign_in_as(request, env, to, token)


@router.post("/sign-in/code")
def send_code(request: Request, env: EnvIn, form: FormIn) -> Response:
    """The same answer, whoever asks."""
    email = form.one("email").lower()
    to = inside(form.one("next", LONGEST_NEXT) or "/")
    if "@" not in email:
        return door(request, env, to, 422, problem="That is no mail address.")
    let_try(request, "code")
    now = env.clock()
    code = f"{secrets.randbelow(10**6):06d}"
    mailed: list[str] = []
    with env.database.begin() as tx:
        operator = find_operator(tx, email)
        known = operator is not None and operator.disabled_at is None
        spare = open_codes(tx, email, now) < CODES_AT_ONCE
        challenge = "si_none"
        if spare:
            sealed = env.vault.seal(code)
            challenge = add_code(tx, email, operator.id if operator and known else None, sealed, now)
            if known:
                mailed = add_mails(tx, [_mail(challenge, email, code)], now)
    ring(env, {"mails": mailed})
    response = door(request, env, to, sent_to=email)
    response.set_cookie(
        named(request, CHALLENGE),
        challenge,
        max_age=600,
        httponly=True,
        samesite="strict",
        secure=is_https(env),
        path="/sign-in",
    )
    return response


def _mail(challenge: str, email: str, code: str) -> NewMail:
    body = (
        f"{code} is your code for billhook's console. It is good for ten minutes, in the browser that asked for it.\n\n"
        "Nobody but you asked for it? Then ignore it: without the code nobody gets in.\n"
    )
    return NewMail(OPERATOR, f"sign_in:{challenge}", email, f"{code[:3]} {code[3:]}: your code for billhook", body)


@router.post("/sign-in/answer")
def answer_code(request: Request, env: EnvIn, form: FormIn) -> Response:
    to, email = inside(form.one("next", LONGEST_NEXT) or "/"), form.one("email")
    given = form.one("code").replace(" ", "")
    challenge = request.cookies.get(named(request, CHALLENGE), "")
    now = env.clock()
    with env.database.begin() as tx:
        open_one = count_guess(tx, challenge, now)
    # The guess is counted, whatever becomes of it.
    sealed = None if open_one is None else open_one.code
    right = sealed is not None and hmac.compare_digest(env.vault.open(sealed), given)
    with env.database.begin() as tx:
        operator = find_operator(tx, open_one.operator_id) if right and open_one and open_one.operator_id else None
        if operator is None or operator.disabled_at is not None or not spend_code(tx, challenge, now):
            problem = "That is not the code, or it is over. After five wrong ones, ask for another."
            return door(request, env, to, 403, sent_to=email or None, problem=problem)
        token = begin_session(tx, operator.email, operator.role, now, operator_id=operator.id)
        note_action(tx, "sign_in", operator.email, by=operator.email, now=now, detail={"by": "code"})
    response = sign_in_as(request, env, to, token)
    response.delete_cookie(named(request, CHALLENGE), path="/sign-in")
    return response


@router.get("/sign-in/link/{token}")
def show_link(request: Request, env: EnvIn, token: str) -> Response:
    with env.database.read() as tx:
        good = is_good_link(tx, token, env.clock())
    return page(request, "sign_in_link.html", 200 if good else 404, good=good, token=token)


@router.post("/sign-in/link/{token}")
def use_link(request: Request, env: EnvIn, token: str) -> Response:
    now = env.clock()
    with env.database.begin() as tx:
        name = spend_link(tx, token, now)
        if name is None:
            return page(request, "sign_in_link.html", 404, good=False, token=token)
        session = begin_session(tx, name, "admin", now)
        note_action(tx, "sign_in", name, by=name, now=now, detail={"by": "link"})
    return sign_in_as(request, env, "/", session)


@router.post("/sign-out")
def sign_out(request: Request, env: EnvIn) -> Response:
    token = request.cookies.get(cookie_name(request, env), "")
    session = session_of(env, token)
    if session is None:
        raise Refusal(403, "not_signed_in", "You are not signed in.")
    with env.database.begin() as tx:
        end_session(tx, token)
        note_action(tx, "sign_out", session.name, by=session.name, now=env.clock())
    response = say(request, RedirectResponse("/sign-in", 303), "You are signed out.")
    response.delete_cookie(cookie_name(request, env), path="/")
    return response
