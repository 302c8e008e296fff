"""Headers of the desk's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

REPLAYED: Final = "Idempotent-Replayed"
"""Says: nothing was done, this is what the same key made before."""

ALWAYS: Final = [
    (b"cache-control", b"no-store"),  # answers hold customers' data, and secrets once
    (b"x-content-type-options", b"nosniff"),
]
"""What every answer under `/v1` has, unless it says otherwise itself."""


def completed(given: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of an answer under `/v1`."""
    names = {name.lower() for name, _ in given}
    return [*given, *(header for header in ALWAYS if header[0] not in names)]
