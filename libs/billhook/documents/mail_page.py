"""A mail as a page: what its text says, with buttons. It loads nothing, so a reader shows it whole and tells nobody."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import jinja2
import msgspec
from markupsafe import Markup, escape

from billhook.documents.built_in import environment


class Action(msgspec.Struct, frozen=True):
    """Where to go from here. The first of a mail is its button."""

    label: str
    url: str
    """http or https."""


class MailPage(msgspec.Struct, frozen=True, kw_only=True):
    language: str
    direction: str
    seller: str
    notice: str | None = None
    """What has to be known before all else."""
    title: str
    paragraphs: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()
    foot: tuple[str, ...] = ()
    accent: str
    accent_ink: str
    """As in `Shown`."""


def mail_html(mail: MailPage) -> str:
    return _environment().get_template("mail.html").render(mail=mail)


def _linked(text: str, actions: Sequence[Action]) -> Markup:
    """The text, where an action's address in it is a link."""
    html = escape(text)
    for action in actions:
        address = escape(action.url)
        html = html.replace(address, Markup('<a href="{0}" style="color: inherit">{0}</a>').format(action.url))
    return html


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    made = environment("billhook.documents")
    made.filters["linked"] = _linked
    return made
