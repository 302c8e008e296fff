"""How every template of our own is read. What merchants write is another matter: `templating.py`."""

from __future__ import annotations

import jinja2


def environment(package: str) -> jinja2.Environment:
    """The templates in a package's `templates`. What is put into one is text and never markup, and a value that is not
    there is an error and not an empty place."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
