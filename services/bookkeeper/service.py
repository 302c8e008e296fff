"""The bookkeeper: turns events of the inbox into the book, domain events, and the work that follows from them."""

from billhook.queue.bell import Listener
from billhook.queue.consumer import BatchConsumer
from billhook.queue.steps import Steps
from billhook.runtime.env import Env
from billhook.runtime.service import Health, Running, Service
from services.bookkeeper.posting import Posting


def start(env: Env, health: Health) -> Running:
    posting = Posting(env.database, env.provider_apis, env.clock)
    steps = Steps(posting, env.database, env.bell, env.metrics, env.clock, tracing=env.tracing)
    consumer = BatchConsumer(steps, Listener(env.broker, steps.queue, env.metrics), env.metrics, health.parts)
    consumer.start()
    return consumer


SERVICE = Service(
    name="bookkeeper",
    summary="Posts events to the book; makes domain events, deliveries and documents of them.",
    start=start,
)
