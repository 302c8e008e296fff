"""Who is at the console, and what they may do: a session in a cookie, a token in every form, a role for every verb."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, urlsplit

from fastapi import Depends, Request
from starlette.responses import RedirectResponse, Response

from billhook.runtime.env import Env
from billhook.runtime.request_body import BodyTooLarge, Disconnected, read_body
from billhook.store.database import Tx
from billhook.store.merchants import good_keys
from billhook.store.operator_actions import note_action
from billhook.store.operators import SESSION, Role, Session, find_session
from services.desk.console.cookies import named
from services.desk.console.rendering import say
from services.desk.refusals import Refusal

LARGEST_FORM: Final = 256 * 1024
MOST_FIELDS: Final = 2000


class NotSignedIn(Exception):
    """Whoever asks is to sign in first."""


class Form:
    """What a form sent: a field has one value or several, and none is a surprise."""

    def __init__(self, fields: Mapping[str, list[str]]) -> None:
        self._fields = fields

    def one(self, name: str, longest: int = 255) -> str:
        """The field, without the spaces around it; empty where it is not there."""
        value = self._fields.get(name, [""])[0].strip()
        if len(value) > longest or any(not char.isprintable() for char in value):
            raise Refusal(422, "invalid", f"{name}: one line of at most {longest} characters.")
        return value

    def all(self, name: str) -> list[str]:
        return [value for value in self._fields.get(name, ()) if value]


async def operator_env(request: Request) -> Env:
    env: Env = request.app.state.env
    return env


EnvIn = Annotated[Env, Depends(operator_env)]


def cookie_name(request: Request, env: Env) -> str:
    """With the prefix by which browsers refuse a cookie that another host, or a page without TLS, has planted."""
    return named(request, "__Host-billhook" if is_https(env) else "billhook_session")


def is_https(env: Env) -> bool:
    return env.settings.public.startswith("https://")


def sign_in_as(request: Request, env: Env, to: str, token: str) -> Response:
    response = RedirectResponse(to, 303)
    response.set_cookie(
        cookie_name(request, env),
        token,
        max_age=int(SESSION.total_seconds()),
        httponly=True,
        samesite="lax",
        secure=is_https(env),
        path="/",
    )
    return response


def csrf_of(token: str) -> str:
    """Only who reads our pages knows it: a page of somebody else's can send the cookie, and not this."""
    return hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()[:40]


def key_mark(key: str) -> str:
    """What a session that began with the key in the settings keeps of it: with another key it is over."""
    return f"setting:{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def session_of(env: Env, token: str) -> Session | None:
    """Who that is, if they still may be here."""
    now = env.clock()
    with env.database.read() as tx:
        found = find_session(tx, token, now) if token else None
        if found is None:
            return None
        session, key_id = found
        if key_id is not None and key_id.startswith("setting:"):
            return session if key_id == key_mark(env.settings.operator_key.get_secret_value()) else None
        return session if key_id is None or good_keys(tx, [key_id]) else None


def viewing(request: Request, env: EnvIn) -> Session:
    """Whoever is signed in. A dependency of every page."""
    token = request.cookies.get(cookie_name(request, env), "")
    session = session_of(env, token)
    if session is None:
        raise NotSignedIn
    request.state.session = session
    request.state.csrf = csrf_of(token)
    return session


SessionIn = Annotated[Session, Depends(viewing)]


async def form_of(request: Request) -> Form:
    try:
        body = await read_body(request.receive, request.headers.get("content-length", ""), LARGEST_FORM)
        return Form(parse_qs(body.decode(), keep_blank_values=True, strict_parsing=False, max_num_fields=MOST_FIELDS))
    except BodyTooLarge:
        raise Refusal(413, "too_large", "That is more than a form of the console holds.") from None
    except Disconnected:
        raise Refusal(400, "disconnected", "The request ended before its body did.") from None
    except ValueError:
        raise Refusal(400, "not_a_form", "That is not what a form of the console sends.") from None


FormIn = Annotated[Form, Depends(form_of)]


def own_page(request: Request) -> None:
    """Refuse what a page of somebody else's sends. Browsers say where a form stands; who says nothing is none. Links
    may stand anywhere, in a mail for instance: to look changes nothing."""
    if request.method in ("GET", "HEAD"):
        return
    env: Env = request.app.state.env
    ours = (request.headers.get("host", ""), urlsplit(env.settings.public).netloc)
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if (origin is not None and urlsplit(origin).netloc not in ours) or site in ("cross-site", "same-site"):
        raise Refusal(403, "foreign_page", "This was sent by a page that is not the console's.")


class Acting:
    """An operator who does something: every verb of the console goes through here."""

    def __init__(self, request: Request, env: Env, session: Session, form: Form) -> None:
        self._request = request
        self.env = env
        self.session = session
        self.form = form

    @property
    def by(self) -> str:
        return self.session.name

    def note(self, tx: Tx, action: str, subject: str, merchant_id: str | None = None, **detail: Any) -> None:
        """Write down what is done, in the transaction that does it."""
        note_action(tx, action, subject, by=self.by, now=self.env.clock(), merchant_id=merchant_id, detail=detail)

    def back(self, path: str, sentence: str) -> Response:
        return back(self._request, path, sentence)

    def reason(self) -> str:
        reason = self.form.one("reason")
        if not reason:
            raise Refusal(422, "reason_missing", "Say why: whoever looks later will want to know.")
        return reason


def back(request: Request, path: str, sentence: str) -> Response:
    """To a page that shows what became of it."""
    return say(request, RedirectResponse(path, 303), sentence)


def acting(role: Role) -> Any:
    """A dependency: somebody signed in, of this role or more, by a form of ours."""

    def act(request: Request, env: EnvIn, session: SessionIn, form: FormIn) -> Acting:
        own_page(request)
        given = form.one("csrf") or request.headers.get("x-csrf-token", "")
        if not hmac.compare_digest(given.encode(), request.state.csrf.encode()):
            raise Refusal(403, "csrf", "The form is out of date. Go back, load the page again, and repeat it.")
        if not session.may(role):
            raise Refusal(403, "role", f"This needs the role {role}, and yours is {session.role}.")
        return Acting(request, env, session, form)

    return Depends(act)


ViewIn = Annotated[Acting, acting("view")]
OperateIn = Annotated[Acting, acting("operate")]
AdminIn = Annotated[Acting, acting("admin")]
