"""Ringing after a transaction, for whoever is no consumer."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from billhook.errors import SettingsError
from billhook.runtime.env import Env

log = logging.getLogger(__name__)


def ring(env: Env, rings: Mapping[str, Collection[str]]) -> None:
    """Ring for work that was just made due, if there is a queue. Without one the relay or the consumers find it."""
    try:
        for queue, ids in rings.items():
            env.bell.ring(queue, ids)
    except (SettingsError, ValueError) as error:  # no queue is configured, or its URL is malformed
        log.info("not rung", extra={"reason": str(error)})
