"""The invoicer: makes the documents of invoices, as PDFs, and keeps them in the object store."""

from billhook.documents.wkhtmltopdf import AT_ONCE
from billhook.queue.bell import Listener
from billhook.queue.consumer import BatchConsumer
from billhook.queue.steps import Steps
from billhook.runtime.env import Env
from billhook.runtime.service import Health, Running, Service, Together
from services.invoicer.rendering import Rendering

BATCHES = 2 * AT_ONCE
"""At a time: twice as many as engines, so that none of these waits while a batch is claimed, stored and settled."""


def start(env: Env, health: Health) -> Running:
    rendering = Rendering(env.engines, env.objects, env.metrics, env.clock, env.settings.public)
    steps = Steps(rendering, env.database, env.bell, env.metrics, env.clock, tracing=env.tracing)
    listener = Listener(env.broker, steps.queue, env.metrics)
    consumers = [BatchConsumer(steps, listener, env.metrics, health.parts) for _ in range(BATCHES)]
    for consumer in consumers:
        consumer.start()
    return Together(*consumers)


SERVICE = Service(name="invoicer", summary="Makes documents as PDFs, stores them, and has them mailed.", start=start)
