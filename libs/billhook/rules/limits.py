"""What a merchant may not have any number of."""

from __future__ import annotations

from typing import Final

ROOM: Final = {
    "endpoints": "delete one that is not needed",
    "sources": "disable one that is not needed",
    "templates": "retire one that is not needed",
    "drafts": "finalize or delete some",
    "keys": "revoke one that is not needed",
    "replays": "wait for one to end, or cancel it",
}
"""What makes room for another."""
