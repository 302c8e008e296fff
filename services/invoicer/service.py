"""The invoicer: makes the documents of invoices, as PDFs, and keeps them in the object store."""

import os

from billhook.queue.bell import Listener
from billhook.queue.consumer import BatchConsumer, Steps
from billhook.runtime.env import Env
from billhook.runtime.service import Health, Running, Service, Together
from services.invoicer.rendering import Rendering

AT_ONCE = min(2, os.cpu_count() or 1)
"""Batches at a time. An engine draws in one process on one core, and waits while its batch is claimed and settled: the
other one draws then. For more, run more invoicers."""


def start(env: Env, health: Health) -> Running:
    rendering = Rendering(env.engines, env.objects, env.metrics, env.clock, env.settings.public)
    steps = Steps(rendering, env.database, env.bell, env.metrics, env.clock)
    listener = Listener(env.broker, steps.queue, env.metrics)
    consumers = [BatchConsumer(steps, listener, env.metrics, health.parts) for _ in range(AT_ONCE)]
    for consumer in consumers:
        consumer.start()
    return Together(*consumers)


SERVICE = Service(name="invoicer", summary="Makes documents as PDFs, stores them, and has them mailed.", start=start)
