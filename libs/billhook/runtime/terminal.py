"""Being the foreground job of a terminal, as under a shell, also under `make`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_foreground(terminal: int = 0) -> Iterator[None]:
    """Ctrl-C in a terminal goes to its whole foreground group, and `make` is in it: it would call the end an error. In
    a group of our own, which the terminal gets back afterwards, only we and our children hear it. SIGTERM needs
    nothing: make passes it on to its child, which we are, and waits."""
    if not os.isatty(terminal) or os.getpgrp() == os.getpid() or os.tcgetpgrp(terminal) != os.getpgrp():
        yield
        return
    before = os.getpgrp()
    os.setpgid(0, 0)
    # Who is not in the foreground is stopped when it takes the terminal, unless it ignores that.
    ignored = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield
    finally:
        os.tcsetpgrp(terminal, before)
        signal.signal(signal.SIGTTOU, ignored)
