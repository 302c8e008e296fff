"""When each key was last used: gathered while requests come in, and written down beside them."""

from __future__ import annotations

import logging
import threading
from datetime import datetime
from typing import Final

from billhook.parts import Part, Parts
from billhook.runtime.env import Env
from billhook.store.database import is_outage
from billhook.store.merchants import Caller, note_use

log = logging.getLogger(__name__)

EVERY_SECONDS: Final = 60.0


class KeyUse:
    """The keys that were used since the last time, and the thread that writes them down."""

    def __init__(self, env: Env, parts: Parts) -> None:
        self._database = env.database
        self._clock = env.clock
        self._used: dict[str, datetime] = {}
        self._stopping = threading.Event()
        self._thread = parts.start("key use", self._run)

    def note(self, caller: Caller) -> None:
        if caller.api_key_id is not None:
            self._used[caller.api_key_id] = self._clock()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self, part: Part) -> None:
        while not self._stopping.is_set():
            part.rest()
            self._stopping.wait(EVERY_SECONDS)
            part.tick()
            self.write()

    def write(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        try:
            with self._database.begin() as tx:
                note_use(tx, used)
        except Exception as error:
            if not is_outage(error):
                raise
            self._used = {**used, **self._used}
            log.warning("the last use of keys was not written down yet", extra={"reason": str(error)})
