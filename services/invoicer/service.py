"""The invoicer: makes the documents of invoices, as PDFs, and keeps them in the object store."""

from billhook.queue.bell import Listener
from billhook.queue.consumer import BatchConsumer, Steps
from billhook.runtime.env import Env
from billhook.runtime.service import Health, Running, Service
from services.invoicer.rendering import Rendering


def start(env: Env, health: Health) -> Running:
    rendering = Rendering(env.renderer, env.objects, env.metrics, env.clock)
    steps = Steps(rendering, env.database, env.bell, env.metrics, env.clock)
    consumer = BatchConsumer(steps, Listener(env.broker, steps.queue, env.metrics), env.metrics, health.tick)
    consumer.start()
    return consumer


SERVICE = Service(name="invoicer", summary="Makes invoice and receipt PDFs and stores them.", start=start)
