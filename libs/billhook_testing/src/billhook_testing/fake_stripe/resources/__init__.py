"""The resources of the API, one file each. A new one is a file with `ROUTES` and a name in the list below."""

from billhook_testing.fake_stripe.resources import (
    catalog,
    charges,
    checkout,
    credit_notes,
    customers,
    disputes,
    events,
    invoiceitems,
    invoices,
    payment_intents,
    payment_methods,
    refunds,
    subscriptions,
)
from billhook_testing.fake_stripe.routes import Includes, Route

_RESOURCES = (
    catalog,
    charges,
    checkout,
    credit_notes,
    customers,
    disputes,
    events,
    invoiceitems,
    invoices,
    payment_intents,
    payment_methods,
    refunds,
    subscriptions,
)

ROUTES: list[Route] = [route for resource in _RESOURCES for route in resource.ROUTES]

INCLUDES: Includes = {**invoices.INCLUDES, **charges.INCLUDES, **checkout.INCLUDES}
