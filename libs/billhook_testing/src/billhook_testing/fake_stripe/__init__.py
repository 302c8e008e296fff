"""A stateful Stripe for tests and demos, driven through the real SDK. `docs/fake-stripe.md` tells how to use it."""

from billhook_testing.fake_stripe.clock import FakeClock
from billhook_testing.fake_stripe.errors import ApiError
from billhook_testing.fake_stripe.server import FakeStripe
from billhook_testing.fake_stripe.webhooks import Sent
from billhook_testing.fake_stripe.world import Policy

__all__ = ["ApiError", "FakeClock", "FakeStripe", "Policy", "Sent"]
