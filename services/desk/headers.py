"""Headers of the desk's answers."""

from __future__ import annotations

from typing import Final

REPLAYED: Final = "Idempotent-Replayed"
"""Says: nothing was done, this is what the same key made before."""

ALWAYS: Final = [
    (b"cache-control", b"no-store"),  # answers hold customers' data, and secrets once
    (b"x-content-type-options", b"nosniff"),
]
"""What every answer under `/v1` has."""
