"""`python -m billhook.runtime.process NAME`: what `billhook run NAME` does, without loading the other commands.

The supervisor starts its children with it where it cannot fork them (`billhook.runtime.nursery`): half a second of
CPU and 10 MB less for each.
"""

from __future__ import annotations

import os
import sys

from billhook.errors import BillhookError
from billhook.runtime.env import Env
from billhook.runtime.host import run_service
from billhook.runtime.service import find_service
from billhook.runtime.settings import read_settings


def serve(name: str) -> int:
    """Be this service until told to stop; an error of ours is one sentence, not a trace."""
    os.umask(0o077)  # what is made under `var` is nobody else's
    try:
        return run_service(find_service(name), Env(read_settings()))
    except BillhookError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1]))
