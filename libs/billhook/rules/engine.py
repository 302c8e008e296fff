"""What draws documents, as people choose it."""

from __future__ import annotations

from typing import Final, Literal, get_args

Engine = Literal["auto", "wkhtmltopdf", "typst"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
