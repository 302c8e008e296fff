"""`python -m billhook_testing.fake_stripe`: the fake as a process of its own.

Prints one line of JSON, `{"url": …, "pid": …, "api_key": …}`, once it listens; runs until SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from datetime import datetime

from billhook_testing.fake_stripe.clock import FakeClock
from billhook_testing.fake_stripe.server import FakeStripe


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m billhook_testing.fake_stripe", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--webhook-url", help="where events are sent; more can be added by POST /_fake/add_webhook")
    parser.add_argument("--webhook-secret", default="whsec_fake")
    parser.add_argument("--api-key", default="sk_test_fake")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--start", type=datetime.fromisoformat, help="stand still at this time (with an offset); else follow the system"
    )
    options = parser.parse_args()
    if options.start is not None and options.start.tzinfo is None:
        parser.error("--start needs an offset, as in 2026-01-31T12:00:00+00:00")
    fake = FakeStripe(
        webhook_secret=options.webhook_secret,
        webhook_url=options.webhook_url,
        clock=FakeClock.standing(options.start) if options.start else FakeClock.running(),
        seed=options.seed,
        api_key=options.api_key,
        port=options.port,
    )
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with fake:
        sys.stdout.write(json.dumps({"url": fake.url, "pid": os.getpid(), "api_key": fake.api_key}) + "\n")
        sys.stdout.flush()
        stop.wait()


if __name__ == "__main__":
    main()
