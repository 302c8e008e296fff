"""Child processes of the bench: each has one end of a pipe, and ends with the bench."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_CONTEXT = multiprocessing.get_context("spawn")


class Child:
    """A process that runs `target(connection, *arguments)`."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, message: Any) -> None:
        self._connection.send(message)

    def hear(self, within_seconds: float = 120) -> Any:
        """The next message. Raises `RuntimeError` when the child has died or says nothing for that long."""
        try:
            if self._connection.poll(within_seconds):
                return self._connection.recv()
        except EOFError:
            raise RuntimeError(f"a child of the bench ended: {self._process.name}") from None
        raise RuntimeError(f"a child of the bench said nothing for {within_seconds:g} s: {self._process.name}")

    def ask(self, message: Any) -> Any:
        self.tell(message)
        return self.hear()

    def close(self) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


__all__ = ["Child", "Connection"]
